use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use remora_model::identity::IdentitySource;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Response;
use tonic::transport::Server;

use super::*;
use crate::ca::fixture::{CATALOG, Ca, PRICING, TestDir, chain, crl, hours};
use crate::pem;
use crate::proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::proto::workload::{X509BundlesRequest, X509BundlesResponse};
use crate::source::fixture::{BOUND, Updates, config, until, until_status};

type Update = Result<X509svidResponse, Status>;

/// An agent that says what it is told to.
#[derive(Clone)]
struct Agent {
    says: watch::Sender<Update>,
    forged: Arc<Mutex<u32>>,
}

struct Receiving<T>(mpsc::Receiver<T>);

impl<T> Stream for Receiving<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Agent {
    type FetchX509SVIDStream = Pin<Box<dyn Stream<Item = Update> + Send>>;
    type FetchX509BundlesStream = Pin<Box<dyn Stream<Item = Result<X509BundlesResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            *self.forged.lock().unwrap() += 1;
        }
        let (mut says, (send, receive)) = (self.says.subscribe(), mpsc::channel(1));
        tokio::spawn(async move {
            loop {
                let update = says.borrow_and_update().clone();
                if send.send(update).await.is_err() || says.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(Receiving(receive))))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

struct World {
    ca: Ca,
    agent: Agent,
    api: WorkloadApi,
    directory: TestDir,
    tasks: JoinSet<()>,
}

impl World {
    fn new() -> Self {
        let (ca, directory) = (Ca::new("example.org"), TestDir::new());
        let agent = Agent { says: watch::Sender::new(Err(Status::permission_denied("none"))), forged: Arc::default() };
        let api = WorkloadApi { socket: directory.path().join("agent.sock"), spiffe_id: None };
        let mut world = Self { ca, agent, api, directory, tasks: JoinSet::new() };
        world.restart();
        world
    }

    fn restart(&mut self) {
        let _ = std::fs::remove_file(&self.api.socket);
        let listener = UnixListener::bind(&self.api.socket).unwrap();
        let (send, connections) = mpsc::channel(1);
        self.tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = send.send(io::Result::Ok(stream)).await;
            }
        });
        let server = Server::builder().add_service(SpiffeWorkloadApiServer::new(self.agent.clone()));
        self.tasks.spawn(async move { server.serve_with_incoming(Receiving(connections)).await.unwrap() });
    }

    fn source(&self) -> WorkloadSource {
        WorkloadSource::start(&config(IdentitySource::WorkloadApi(self.api.clone())), &self.api)
    }

    fn say(&self, svids: Vec<X509svid>) {
        let _ = self.agent.says.send_replace(Ok(X509svidResponse { svids, ..Default::default() }));
    }
}

fn svid(ca: &Ca, id: &str) -> X509svid {
    let issued = ca.issue(id);
    X509svid {
        spiffe_id: id.to_owned(),
        x509_svid: joined(&chain(&issued)),
        x509_svid_key: PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap().secret_der().to_vec(),
        bundle: roots(ca),
        hint: String::new(),
    }
}

/// As the Workload API has them: one after another.
fn joined(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
}

fn roots(ca: &Ca) -> Vec<u8> {
    joined(&pem::certificates(Path::new("root.pem"), ca.root.certificate_pem().as_bytes()).unwrap())
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(BOUND, work).await.expect("in time")
}

async fn of(updates: &mut Updates, id: &str) -> Arc<Identity> {
    in_time(until(updates, |identity| identity.svid().spiffe_id().as_str() == id)).await
}

#[tokio::test]
async fn the_first_svid_is_used_and_updates_are_streamed() {
    let world = World::new();
    world.say(vec![svid(&world.ca, CATALOG), svid(&world.ca, PRICING)]);
    let source = world.source();
    let mut updates = source.identity();
    let first = of(&mut updates, CATALOG).await;
    world.say(vec![svid(&world.ca, CATALOG)]);
    in_time(until(&mut updates, |identity| identity.svid().serial() != first.svid().serial())).await;
    let status = source.status();
    assert_eq!((status.kind(), status.succeeded(), status.last_error()), ("workload_api", 1, None));
    assert_eq!(status.next_renewal(), None, "the agent's to say");
    assert_eq!(*world.agent.forged.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_configured_svid_is_chosen_or_its_absence_said() {
    let mut world = World::new();
    world.api.spiffe_id = Some(PRICING.parse().unwrap());
    world.say(vec![svid(&world.ca, CATALOG)]);
    let source = world.source();
    in_time(until_status(&source, |status| status.failed() >= 1)).await;
    let error = source.status().last_error().unwrap();
    assert!(error.contains("no SVID for spiffe://example.org/ns/shop/sa/pricing; it has"), "{error}");
    world.say(vec![svid(&world.ca, CATALOG), svid(&world.ca, PRICING)]);
    of(&mut source.identity(), PRICING).await;
}

#[tokio::test]
async fn wrong_updates_are_refused_and_the_identity_stays() {
    let (world, foreign) = (World::new(), Ca::new("other.org"));
    world.say(vec![svid(&world.ca, CATALOG)]);
    let source = world.source();
    let first = of(&mut source.identity(), CATALOG).await;
    let good = || svid(&world.ca, CATALOG);
    let lies = [
        (vec![], "without any SVID"),
        (vec![svid(&foreign, "spiffe://other.org/a")], "spiffe://other.org/a is not in the trust domain"),
        (vec![X509svid { spiffe_id: PRICING.to_owned(), ..good() }], "calls the SVID of"),
        (vec![X509svid { x509_svid: b"garbage".to_vec(), ..good() }], "the SVID is not a sequence of certificates"),
        (vec![X509svid { x509_svid: Vec::new(), ..good() }], "no certificate was presented"),
        (vec![X509svid { bundle: Vec::new(), ..good() }], "no certificate in the bundle"),
        (vec![X509svid { bundle: roots(&foreign), ..good() }], "not issued by a CA of the trust bundle"),
        (vec![X509svid { x509_svid_key: svid(&world.ca, PRICING).x509_svid_key, ..good() }], "its key does not match"),
        (vec![X509svid { x509_svid_key: b"key".to_vec(), ..good() }], "the private key cannot be used"),
    ];
    for (svids, expected) in lies {
        world.say(svids);
        let said = |status: &SourceStatus| status.last_error().is_some_and(|error| error.contains(expected));
        in_time(until_status(&source, said)).await;
        assert_eq!(source.identity().borrow().as_ref().unwrap().generation(), first.generation());
    }
    world.say(vec![good()]);
    let newer = |identity: &Identity| identity.generation() > first.generation();
    in_time(until(&mut source.identity(), newer)).await;
    assert_eq!(source.status().last_error(), None);
}

#[tokio::test]
async fn federated_bundles_and_revocation_lists_are_used() {
    let (world, partner) = (World::new(), Ca::new("partner.net"));
    let list = crl(&world.ca.intermediate, &["0badcafe"], SystemTime::now() + hours(1));
    let list = rustls_pki_types::CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
    let _ = world.agent.says.send_replace(Ok(X509svidResponse {
        svids: vec![svid(&world.ca, CATALOG)],
        crl: vec![list.to_vec()],
        federated_bundles: [
            ("spiffe://partner.net".to_owned(), roots(&partner)),
            ("spiffe://broken.net".to_owned(), b"garbage".to_vec()),
        ]
        .into(),
    }));
    let source = world.source();
    let identity = of(&mut source.identity(), CATALOG).await;
    let federated: Vec<_> = identity.bundles().federated().iter().map(|one| one.trust_domain().as_str()).collect();
    assert_eq!(federated, ["partner.net"], "a broken one costs itself only");
    assert_eq!(identity.bundles().crls()[0].entries(), 1);
}

#[tokio::test]
async fn no_identity_and_no_agent_are_said_and_waited_out() {
    let mut world = World::new();
    let source = world.source();
    in_time(until_status(&source, |status| status.failed() >= 1)).await;
    let error = source.status().last_error().unwrap();
    assert!(error.contains("issues no identity to this workload: none"), "{error}");
    world.say(vec![svid(&world.ca, CATALOG)]);
    let mut updates = source.identity();
    let first = of(&mut updates, CATALOG).await;

    let _ = world.agent.says.send_replace(Err(Status::unavailable("stopping")));
    // Between two attempts of the source: a stream that is open outlives the server's task.
    let stopping = |status: &SourceStatus| status.last_error().is_some_and(|error| error.contains("stopping"));
    in_time(until_status(&source, stopping)).await;
    world.tasks.shutdown().await;
    std::fs::remove_file(&world.api.socket).unwrap();
    let gone = |status: &SourceStatus| status.last_error().is_some_and(|error| error.contains("does not exist"));
    in_time(until_status(&source, gone)).await;
    assert_eq!(updates.borrow().as_ref().unwrap().generation(), first.generation());
    world.say(vec![svid(&world.ca, CATALOG)]);
    world.restart();
    in_time(until(&mut updates, |identity| identity.svid().serial() != first.svid().serial())).await;
    assert!(world.directory.path().exists());
}
