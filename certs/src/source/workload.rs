//! An identity from a SPIFFE Workload API, such as SPIRE's agent serves on a unix socket (the SPIFFE Workload API
//! specification, section 5). Key, certificate, bundles and revocation lists are streamed; renewing them is the agent's
//! work.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use remora_model::identity::{IdentityConfig, WorkloadApi};
use remora_model::{SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ca::{Clock, causes, foreign, random_seed};
use super::outlet::Outlet;
use super::schedule::Schedule;
use super::trust_files::TrustFiles;
use super::{CertificateSource, SourceStatus};
use crate::proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::proto::workload::{X509svid, X509svidRequest, X509svidResponse};
use crate::verify::{PeerRole, verify_chain};
use crate::{Error, Identity, RevocationList, Svid, TrustBundle, TrustBundles};

/// How long the agent may take to connect and to answer at first.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// The largest message, in bytes; bundles of many federated domains and revocation lists come in one.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Certificates in one chain or bundle.
const MAX_CERTIFICATES: usize = 256;

/// An identity that a SPIFFE Workload API streams.
#[derive(Debug)]
pub struct WorkloadSource {
    outlet: Arc<Outlet>,
    // Dropped with the source, and with it the work ends.
    _tasks: JoinSet<()>,
}

impl WorkloadSource {
    /// Begins to ask. Call it inside a tokio runtime, which then drives it.
    pub fn start(config: &IdentityConfig, api: &WorkloadApi) -> Self {
        let (outlet, trust_files) = TrustFiles::of(config).open("workload_api");
        let waiting = format!("no answer yet from the Workload API at {}", api.socket.display());
        outlet.status().set_error(Some(waiting));
        let mut tasks = JoinSet::new();
        let workload =
            Workload { trust_domain: config.trust_domain.clone(), api: api.clone(), outlet: Arc::clone(&outlet) };
        tasks.spawn(workload.run());
        if let Some(trust_files) = trust_files {
            tasks.spawn(trust_files);
        }
        Self { outlet, _tasks: tasks }
    }
}

impl CertificateSource for WorkloadSource {
    fn identity(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.outlet.identity()
    }

    fn status(&self) -> Arc<SourceStatus> {
        Arc::clone(self.outlet.status())
    }
}

/// Why the Workload API gave nothing that can be used. Never holds a key.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot reach the Workload API at {}: {reason}", socket.display())]
    Connect { socket: PathBuf, reason: String },
    #[error("the Workload API at {} did not answer within {} s", socket.display(), FIRST_ANSWER.as_secs())]
    Deadline { socket: PathBuf },
    #[error("the Workload API issues no identity to this workload: {0} (is it registered, with selectors that fit?)")]
    NoIdentity(String),
    #[error("the Workload API failed ({code:?}): {reason}")]
    Refused { code: Code, reason: String },
    #[error("the Workload API ended the stream")]
    Ended,
    #[error("the Workload API answered without any SVID")]
    Empty,
    #[error("the Workload API has no SVID for {wanted}; it has {found}")]
    Missing { wanted: SpiffeId, found: String },
    #[error("the Workload API calls the SVID of {found} that of {said}")]
    Misnamed { said: String, found: SpiffeId },
    #[error("the Workload API answered what cannot be used: {0} is not a sequence of certificates in DER")]
    NotDer(&'static str),
    #[error("the Workload API answered what cannot be used: {0}")]
    Answer(#[from] Error),
}

struct Workload {
    trust_domain: TrustDomain,
    api: WorkloadApi,
    outlet: Arc<Outlet>,
}

impl Workload {
    async fn run(self) {
        let clock = Clock::system();
        let mut schedule = Schedule::new(clock.now(), random_seed());
        loop {
            let mut heard = false;
            let Err(failure) = self.listen(&mut heard).await;
            if heard {
                schedule = Schedule::new(clock.now(), random_seed());
            }
            // An agent that restarts ends the stream; that alone is no trouble.
            if !(heard && matches!(failure, Failure::Ended)) {
                self.complain(&failure);
            }
            schedule.failed(clock.now());
            while let Some(wait) = schedule.wait(clock.now()) {
                sleep(wait).await;
            }
        }
    }

    /// One stream, to its end.
    async fn listen(&self, heard: &mut bool) -> Result<std::convert::Infallible, Failure> {
        let opened = async {
            let mut client = SpiffeWorkloadApiClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE);
            let mut request = Request::new(X509svidRequest {});
            // Asked for by the specification (section 3), against requests forged through a proxy.
            request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
            let mut stream = client.fetch_x509svid(request).await.map_err(refused)?.into_inner();
            let first = stream.message().await.map_err(refused)?;
            Ok::<_, Failure>((stream, first))
        };
        let late = |_| Failure::Deadline { socket: self.api.socket.clone() };
        let (mut stream, mut message) = timeout(FIRST_ANSWER, opened).await.map_err(late)??;
        while let Some(update) = message {
            match self.read(&update, SystemTime::now()) {
                Ok((svid, bundles)) => {
                    *heard = true;
                    self.outlet.status().set_error(None);
                    self.outlet.publish(svid, bundles);
                }
                // The next update may be better, so the stream stays.
                Err(failure) => self.complain(&failure),
            }
            message = stream.message().await.map_err(refused)?;
        }
        Err(Failure::Ended)
    }

    fn complain(&self, failure: &Failure) {
        let status = self.outlet.status();
        let message = failure.to_string();
        // An agent that stays away is one trouble, logged once.
        if status.last_error().as_ref() != Some(&message) {
            tracing::warn!(error = message, "no newer identity from the Workload API; what is in use stays");
        }
        status.record_failure(message);
    }

    async fn connect(&self) -> Result<Channel, Failure> {
        let failed = |reason: String| Failure::Connect { socket: self.api.socket.clone(), reason };
        let stream = UnixStream::connect(&self.api.socket).await.map_err(|error| failed(plain(&error)))?;
        let mut io = Some(TokioIo::new(stream));
        let once = service_fn(move |_: Uri| {
            let io = io.take().ok_or_else(|| io::Error::from(ErrorKind::NotConnected));
            async move { io }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(once).await.map_err(|error| failed(causes(&error)))
    }

    /// Judges an update as a whole: it is used as one or not at all.
    fn read(&self, update: &X509svidResponse, now: SystemTime) -> Result<(Svid, TrustBundles), Failure> {
        let chosen = self.choose(&update.svids)?;
        let chain = split(&chosen.x509_svid, "the SVID")?;
        let key = PrivatePkcs8KeyDer::from(chosen.x509_svid_key.clone()).into();
        let (svid_name, key_name) = (Path::new("the SVID"), Path::new("its key"));
        let svid = Svid::from_der(&self.trust_domain, (svid_name, chain), (key_name, key))?;
        if svid.spiffe_id().as_str() != chosen.spiffe_id {
            let said = foreign(&chosen.spiffe_id);
            return Err(Failure::Misnamed { said, found: svid.spiffe_id().clone() });
        }
        let own = split(&chosen.bundle, "the bundle")?;
        let own = TrustBundle::from_der(self.trust_domain.clone(), Path::new("the bundle"), own)?;
        let bundles = TrustBundles::new(own);
        for role in [PeerRole::Server, PeerRole::Client] {
            verify_chain(svid.certificates(), role, &bundles, &[], now)
                .map_err(|source| Error::Certificate { path: svid_name.to_owned(), source })?;
        }
        let crls = RevocationList::from_der(Path::new("the revocation lists"), &update.crl)?;
        Ok((svid, self.federated(update, bundles).with_crls(crls)))
    }

    fn choose<'u>(&self, svids: &'u [X509svid]) -> Result<&'u X509svid, Failure> {
        let Some(wanted) = &self.api.spiffe_id else { return svids.first().ok_or(Failure::Empty) };
        svids.iter().find(|svid| svid.spiffe_id == wanted.as_str()).ok_or_else(|| {
            let found: Vec<_> = svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
            Failure::Missing { wanted: wanted.clone(), found: foreign(&found.join(", ")) }
        })
    }

    /// A foreign domain's bundle that cannot be used costs that domain's trust, and no other's.
    fn federated(&self, update: &X509svidResponse, bundles: TrustBundles) -> TrustBundles {
        let read = |(name, der): (&String, &Vec<u8>)| -> Result<TrustBundle, String> {
            let name = name.strip_prefix("spiffe://").unwrap_or(name);
            let domain: TrustDomain = name.parse().map_err(|error| say(&error))?;
            let roots = split(der, "the bundle").map_err(|error| say(&error))?;
            TrustBundle::from_der(domain, Path::new("the bundle"), roots).map_err(|error| say(&error))
        };
        update.federated_bundles.iter().fold(bundles, |bundles, federated| match read(federated) {
            Ok(bundle) => bundles.with_federated(bundle),
            Err(error) => {
                tracing::warn!(trust_domain = foreign(federated.0), error, "a federated bundle cannot be used");
                bundles
            }
        })
    }
}

fn say(error: &dyn Display) -> String {
    foreign(&error.to_string())
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "the socket does not exist".to_owned(),
        ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        _ => error.to_string(),
    }
}

#[expect(clippy::needless_pass_by_value)]
fn refused(status: Status) -> Failure {
    let reason = if std::error::Error::source(&status).is_some() { causes(&status) } else { foreign(status.message()) };
    match status.code() {
        Code::PermissionDenied => Failure::NoIdentity(reason),
        code => Failure::Refused { code, reason },
    }
}

/// The certificates in `der`, one after another.
fn split(der: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let (mut rest, mut certificates) = (der, Vec::new());
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest).map_err(|_| Failure::NotDer(what))?;
        if certificates.len() == MAX_CERTIFICATES {
            return Err(Failure::NotDer(what));
        }
        certificates.push(CertificateDer::from(rest[..rest.len() - after.len()].to_vec()));
        rest = after;
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests;
