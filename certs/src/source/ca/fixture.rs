//! An authority in this process that speaks the real protocol over real TLS, and lies as told.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use prost_types::value::Kind;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PublicKeyData,
    SanType, SerialNumber,
};
use remora_model::identity::{CaClient, IdentityConfig, IdentitySource, KeyKind};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::asker::{Dial, Stream as Dialled};
use super::{CaSource, Clock};
use crate::ca::fixture::{CATALOG, Ca, TestDir, hours};
use crate::ca::{Authority, random_serial};
use crate::proto::istio::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use crate::proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use crate::proto::trust_bundle::trust_bundles_server::{TrustBundles, TrustBundlesServer};
use crate::proto::trust_bundle::{TrustBundle as Told, WatchTrustBundleRequest};
use crate::source::fixture::config;

/// So that the machine's clock, which TLS goes by, is in the life of a certificate of any later day.
const MONTH: i64 = 30 * 86_400;

/// What the authority answers.
pub(super) type Behaviour = Box<dyn Fn(&FakeCa, &str) -> Result<Vec<String>, Status> + Send + Sync>;

/// One request as it was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: SystemTime,
    pub(super) token: Option<String>,
    pub(super) instance: String,
    pub(super) replaces: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) with_certificate: bool,
    pub(super) wished: i64,
}

/// The authority.
pub(super) struct FakeCa {
    pub(super) ca: Ca,
    pub(super) clock: Clock,
    pub(super) behaviour: Mutex<Behaviour>,
    pub(super) seen: Mutex<Vec<Seen>>,
    /// What is told of bundles.
    pub(super) told: watch::Sender<Option<Told>>,
}

/// A world of one authority and the files of one client.
pub(super) struct World {
    pub(super) fake: Arc<FakeCa>,
    /// Goes with the world.
    _directory: TestDir,
    pub(super) client: CaClient,
    pub(super) clock: Clock,
    tasks: JoinSet<()>,
    /// Where connections come in; closed while the authority is down.
    door: Arc<Mutex<Option<mpsc::Sender<DuplexStream>>>>,
}

impl World {
    /// `watched`: whether the authority tells of bundles.
    pub(super) fn new(clock: Clock, watched: bool) -> Self {
        let (ca, directory) = (Ca::new("example.org"), TestDir::new());
        std::fs::write(directory.path().join("roots.pem"), ca.root.certificate_pem()).unwrap();
        std::fs::write(directory.path().join("token"), "the.first.token\n").unwrap();
        let client = CaClient {
            address: "ca.example:15012".into(),
            server_name: "ca.example".into(),
            roots: directory.path().join("roots.pem"),
            token: directory.path().join("token"),
            key: KeyKind::P256,
            ttl: hours(24),
        };
        let fake = Arc::new(FakeCa {
            ca,
            clock: clock.clone(),
            behaviour: Mutex::new(Box::new(|fake, csr| Ok(fake.chain(csr, hours(24))))),
            seen: Mutex::default(),
            told: watch::Sender::new(None),
        });
        let mut world =
            Self { fake, _directory: directory, client, clock, tasks: JoinSet::new(), door: Arc::default() };
        world.restart(watched);
        world
    }

    /// Ends the authority with all its connections.
    pub(super) async fn stop(&mut self) {
        *self.door.lock().unwrap() = None;
        self.tasks.shutdown().await;
    }

    pub(super) fn restart(&mut self, watched: bool) {
        let ((knock, knocks), (send, connections)) = (mpsc::channel(8), mpsc::channel(8));
        *self.door.lock().unwrap() = Some(knock);
        self.tasks.spawn(accept(knocks, self.fake.tls(), send));
        let certificates = IstioCertificateServiceServer::new(Service(Arc::clone(&self.fake)));
        let bundles = watched.then(|| TrustBundlesServer::new(Service(Arc::clone(&self.fake))));
        let server = Server::builder().add_service(certificates).add_optional_service(bundles);
        self.tasks.spawn(async move { server.serve_with_incoming(Incoming(connections)).await.unwrap() });
    }

    /// In memory, so that a paused clock never runs ahead of the network.
    fn dial(&self) -> Dial {
        let door = Arc::clone(&self.door);
        Box::new(move |_| {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let knocked = match &*door.lock().unwrap() {
                Some(door) => door.try_send(theirs).is_ok(),
                None => false,
            };
            let refused = || std::io::Error::from_raw_os_error(nix::libc::ECONNREFUSED);
            let dialled = if knocked { Ok(Box::new(ours) as Box<dyn Dialled>) } else { Err(refused()) };
            Box::pin(async { dialled })
        })
    }

    pub(super) fn config(&self) -> IdentityConfig {
        config(IdentitySource::Ca(self.client.clone()))
    }

    pub(super) fn source(&self) -> CaSource {
        CaSource::assemble(&self.config(), &self.client, self.clock.clone(), self.dial())
    }

    pub(super) fn behave(
        &self,
        behaviour: impl Fn(&FakeCa, &str) -> Result<Vec<String>, Status> + Send + Sync + 'static,
    ) {
        *self.fake.behaviour.lock().unwrap() = Box::new(behaviour);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.fake.seen.lock().unwrap().clone()
    }

    pub(super) fn tell(&self, version: u64, roots: &str) {
        self.tell_as("example.org", version, roots);
    }

    pub(super) fn tell_as(&self, trust_domain: &str, version: u64, roots: &str) {
        self.tell_at(trust_domain, version, roots, self.clock.now().wall);
    }

    pub(super) fn tell_at(&self, trust_domain: &str, version: u64, roots: &str, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap();
        let told = Told { trust_domain: trust_domain.to_owned(), roots: roots.to_owned(), version, now };
        self.fake.told.send_replace(Some(told));
    }
}

impl FakeCa {
    pub(super) fn roots(&self) -> String {
        self.ca.root.certificate_pem().to_owned()
    }

    /// A right answer.
    pub(super) fn chain(&self, csr: &str, life: Duration) -> Vec<String> {
        let leaf = self.leaf(&self.ca.intermediate, csr, CATALOG, (-MONTH, life.as_secs() as i64));
        vec![leaf, self.ca.intermediate.certificate_pem().to_owned(), self.roots()]
    }

    /// A leaf for the key of `csr`, valid from and until so many seconds from now.
    pub(super) fn leaf(&self, signer: &Authority, csr: &str, id: &str, (from, until): (i64, i64)) -> String {
        let csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        self.leaf_of(signer, &csr.public_key, id, (from, until))
    }

    pub(super) fn leaf_of(
        &self,
        signer: &Authority,
        key: &impl PublicKeyData,
        id: &str,
        (from, until): (i64, i64),
    ) -> String {
        let at = |seconds: i64| time::OffsetDateTime::from(self.clock.now().wall) + time::Duration::seconds(seconds);
        let mut params = leaf_params(SanType::URI(id.try_into().unwrap()));
        (params.not_before, params.not_after) = (at(from), at(until));
        params.signed_by(key, &issuer(signer)).unwrap().pem()
    }

    /// Its own certificate, by the clock of the machine.
    fn tls(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = leaf_params(SanType::DnsName("ca.example".try_into().unwrap()));
        let leaf = params.signed_by(&key, &issuer(&self.ca.intermediate)).unwrap();
        let intermediate = der(self.ca.intermediate.certificate_pem());
        let mut roots = RootCertStore::empty();
        roots.add(der(self.ca.root.certificate_pem())).unwrap();
        let provider = Arc::clone(crate::tls::provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.allow_unauthenticated().build().unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![leaf.der().clone(), intermediate],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

fn leaf_params(name: SanType) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&random_serial().unwrap()));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![name];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn der(pem: &str) -> CertificateDer<'static> {
    crate::pem::certificates(Path::new("ca.pem"), pem.as_bytes()).unwrap().remove(0)
}

fn issuer(authority: &Authority) -> Issuer<'static, KeyPair> {
    let key = KeyPair::from_pem(&authority.key_pem()).unwrap();
    Issuer::from_ca_cert_der(&der(authority.certificate_pem()), key).unwrap()
}

async fn accept(mut knocks: mpsc::Receiver<DuplexStream>, tls: TlsAcceptor, send: mpsc::Sender<Connection>) {
    while let Some(stream) = knocks.recv().await {
        // Of a handshake that fails the client hears.
        if let Ok(stream) = tls.accept(stream).await {
            let _ = send.send(Connection(stream)).await;
        }
    }
}

struct Incoming(mpsc::Receiver<Connection>);

impl Stream for Incoming {
    type Item = std::io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// A TLS connection that knows whether its client showed a certificate.
struct Connection(TlsStream<DuplexStream>);

#[derive(Clone)]
struct WithCertificate(bool);

impl Connected for Connection {
    type ConnectInfo = WithCertificate;

    fn connect_info(&self) -> WithCertificate {
        WithCertificate(self.0.get_ref().1.peer_certificates().is_some())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Service(Arc<FakeCa>);

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let metadata = |name| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (token, cluster) = (metadata("authorization"), metadata("clusterid"));
        let with_certificate = request.extensions().get::<WithCertificate>().unwrap().0;
        let request = request.into_inner();
        let fields = request.metadata.unwrap().fields;
        let field = |name: &str| match &fields.get(name)?.kind {
            Some(Kind::StringValue(text)) => Some(text.clone()),
            other => panic!("{other:?}"),
        };
        self.0.seen.lock().unwrap().push(Seen {
            at: self.0.clock.now().wall,
            token,
            instance: field("remora.instance").unwrap(),
            replaces: field("remora.replaces"),
            cluster,
            with_certificate,
            wished: request.validity_duration,
        });
        let cert_chain = (self.0.behaviour.lock().unwrap())(&self.0, &request.csr)?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

#[tonic::async_trait]
impl TrustBundles for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Told, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchTrustBundleRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (mut told, (send, receive)) = (self.0.told.subscribe(), mpsc::channel(1));
        tokio::spawn(async move {
            loop {
                let next = told.borrow_and_update().clone();
                if let Some(next) = next
                    && send.send(Ok(next)).await.is_err()
                {
                    return;
                }
                if told.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(Bundles(receive))))
    }
}

struct Bundles(mpsc::Receiver<Result<Told, Status>>);

impl Stream for Bundles {
    type Item = Result<Told, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
