//! The gRPC services: `IstioCertificateService/CreateCertificate` and `TrustBundles/Watch`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost_types::value::Kind;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::audit::{self, Asker};
use super::connections::Connection;
use super::journal::{Entry, Journal, Recorded};
use super::limits::Limits;
use super::listener::ended;
use super::metrics::{Metrics, unix};
use super::refusal::{Reason, Refused};
use super::reviewer::{Caller, Proof, Reviewers};
use super::signing::{Kept, Signing};
use crate::Peer;
use crate::ca::{CsrError, IssuedRecord, ParsedCsr, RENEWAL_GRACE};
use crate::proto::istio::istio_certificate_service_server::IstioCertificateService;
use crate::proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use crate::proto::trust_bundle::trust_bundles_server::TrustBundles;
use crate::proto::trust_bundle::{TrustBundle, WatchTrustBundleRequest};

/// The largest message, in bytes: a signing request and a little beside it.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// How long a leaf is valid where its caller wishes nothing.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often a request is signed anew when the authority changes meanwhile.
const SIGNING_TRIES: usize = 3;
/// The longest value of a metadata field, in bytes.
const MAX_FIELD: usize = 256;

/// What all calls share.
pub(crate) struct Service {
    pub(crate) kept: Kept,
    pub(crate) reviewers: Reviewers,
    pub(crate) limits: Arc<Limits>,
    pub(crate) journal: Journal,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) max_ttl: Duration,
    pub(crate) watchers: Arc<Semaphore>,
    /// True once the server ends.
    pub(crate) ending: watch::Receiver<bool>,
}

/// What a request says of itself besides the signing request; believed only within the caller's own identity.
struct Wish {
    csr: ParsedCsr,
    ttl: Duration,
    instance: Option<String>,
    replaces: Option<String>,
}

impl Service {
    async fn create(
        &self,
        asker: &mut Asker,
        connection: &Connection,
        authorization: Option<&str>,
        request: &IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, Refused> {
        asker.instance = field(request, "remora.instance")?;
        // Before the proof: a join token must not be spent on a request that is refused anyway.
        let wish = self.wish(request, asker.instance.clone())?;
        let peer = self.peer(connection);
        // Nor on one that comes too often; and to look a certificate up costs us more than asking costs them.
        let announced = self.reviewers.announced(authorization, peer).await?;
        if let Some(id) = &announced {
            self.limits.caller(id)?;
        }
        let caller = self.reviewers.review(authorization, peer).await?;
        asker.caller = Some(caller.clone());
        if announced.is_none() {
            self.limits.caller(&caller.spiffe_id)?;
        }
        wish.csr.check_names(&caller.spiffe_id).map_err(|error| refused_csr(&error))?;
        self.sign(asker, connection, &caller, &wish).await
    }

    /// As [`Service::create`], unless the address has guessed too often.
    async fn create_in_time(
        &self,
        asker: &mut Asker,
        connection: &Connection,
        authorization: Option<&str>,
        request: &IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, Refused> {
        let guess = self.limits.peer(connection.address.ip())?;
        let call = self.create(asker, connection, authorization, request);
        let late = |_| Err(Refused::new(Reason::Deadline, format!("not done in {DEADLINE:?}")));
        let answer = tokio::time::timeout(DEADLINE, call).await.unwrap_or_else(late);
        if answer.as_ref().is_err_and(|refused| refused.reason.is_guess()) {
            guess.counts();
        }
        answer
    }

    fn wish(&self, request: &IstioCertificateRequest, instance: Option<String>) -> Result<Wish, Refused> {
        let csr = ParsedCsr::from_pem(request.csr.as_bytes()).map_err(|error| refused_csr(&error))?;
        let ttl = match u64::try_from(request.validity_duration) {
            Ok(0) => DEFAULT_TTL,
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => return Err(Refused::new(Reason::BadRequest, "validity_duration is negative")),
        };
        let replaces = field(request, "remora.replaces")?;
        if replaces.as_ref().is_some_and(|serial| !serial.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(Refused::new(Reason::BadRequest, "remora.replaces is no serial number"));
        }
        Ok(Wish { csr, ttl: ttl.min(self.max_ttl), instance, replaces })
    }

    /// The client certificate, as long as it is good: a connection may outlive it, and the trust in it.
    fn peer<'c>(&self, connection: &'c Connection) -> Option<&'c Peer> {
        let peer = connection.peer.as_deref()?;
        let signing = self.kept.signing.borrow();
        let good = SystemTime::now() <= peer.not_after + RENEWAL_GRACE
            && signing.identity.bundles().still_trusts(peer).is_ok();
        good.then_some(peer)
    }

    async fn sign(
        &self,
        asker: &Asker,
        connection: &Connection,
        caller: &Caller,
        wish: &Wish,
    ) -> Result<IstioCertificateResponse, Refused> {
        let failed = || Refused::new(Reason::StoreUnavailable, "the certificate cannot be recorded");
        for _ in 0..SIGNING_TRIES {
            let signing = Arc::clone(&self.kept.signing.borrow());
            let (record, response) = signed(&signing, caller, wish)?;
            match self.journal.record(Entry { record, asker: asker.clone() }).await {
                Recorded::Yes => return Ok(response),
                Recorded::No => return Err(failed()),
                Recorded::Stale => self.kept.read_after(&signing).await,
            }
            // What changed may be that the proof was revoked.
            if caller.proof == Proof::Certificate && self.peer(connection).is_none() {
                return Err(Refused::new(Reason::NotRenewable, "this certificate is not trusted any more"));
            }
        }
        Err(failed())
    }

    fn refuse(&self, asker: &Asker, refused: &Refused) -> Status {
        self.metrics.refused(refused.reason);
        // Whoever is not listened to must not fill the log either.
        if refused.reason != Reason::PeerRate || self.limits.is_news(asker.peer.ip()) {
            audit::refused(asker, refused);
        }
        refused.status()
    }
}

/// The certificate, with its record; not to be handed out before that is on disk.
fn signed(
    signing: &Signing,
    caller: &Caller,
    wish: &Wish,
) -> Result<(IssuedRecord, IstioCertificateResponse), Refused> {
    let now = SystemTime::now();
    let trust_domain = &signing.trust_domain;
    if caller.spiffe_id.trust_domain() != trust_domain.as_str() {
        let detail = format!("{} is not of the trust domain {trust_domain}", caller.spiffe_id);
        return Err(Refused::new(Reason::NoIdentity, detail));
    }
    if !signing.is_valid(now) {
        return Err(Refused::new(Reason::SignerNotValid, "the authority's signing certificate is not valid now"));
    }
    let signed = signing
        .authority
        .leaf_validity(now, wish.ttl)
        .and_then(|validity| signing.authority.sign_csr(&wish.csr, &caller.spiffe_id, validity));
    let leaf = signed.map_err(|error| {
        tracing::error!(%error, "cannot sign");
        Refused::new(Reason::SignerNotValid, "the authority cannot sign")
    })?;
    let record = IssuedRecord::of(&leaf, &signing.authority, signing.bundle_version, caller.proof, now);
    let mut record = record.map_err(|error| {
        tracing::error!(%error, "cannot record");
        Refused::new(Reason::SignerNotValid, "the authority cannot sign")
    })?;
    record.proved_by = (caller.proof == Proof::Certificate).then(|| caller.subject.clone());
    record.instance.clone_from(&wish.instance);
    record.replaces.clone_from(&wish.replaces);
    let mut cert_chain = leaf.chain_pem;
    cert_chain.push(signing.bundle.clone());
    Ok((record, IstioCertificateResponse { cert_chain }))
}

/// A text of the request's metadata; absent and empty are the same.
fn field(request: &IstioCertificateRequest, name: &str) -> Result<Option<String>, Refused> {
    let value = request.metadata.as_ref().and_then(|metadata| metadata.fields.get(name));
    match value.and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Ok(None),
        Some(Kind::StringValue(text)) if text.is_empty() => Ok(None),
        Some(Kind::StringValue(text)) if text.len() <= MAX_FIELD && text.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(Refused::new(
            Reason::BadRequest,
            format!("{name} is not a text of at most {MAX_FIELD} printable characters without spaces"),
        )),
    }
}

fn refused_csr(error: &CsrError) -> Refused {
    let reason = match error {
        CsrError::ForeignName { .. } => Reason::ForeignName,
        _ => Reason::BadCsr,
    };
    Refused::new(reason, error.to_string())
}

/// The connection a request came by; every connection of ours has put it there.
fn connection<T>(request: &Request<T>) -> Result<Connection, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::internal("the connection is not known"))
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let began = Instant::now();
        let connection = connection(&request)?;
        let mut asker = Asker { peer: connection.address, instance: None, caller: None };
        // Metadata that is not text is no token either.
        let authorization = request.metadata().get("authorization").map(|value| value.to_str().unwrap_or_default());
        let authorization = authorization.map(str::to_owned);
        let message = request.into_inner();
        let answer = self.create_in_time(&mut asker, &connection, authorization.as_deref(), &message).await;
        self.metrics.duration.observe(began.elapsed().as_secs_f64());
        answer.map(Response::new).map_err(|refused| self.refuse(&asker, &refused))
    }
}

/// The watch's own wrapper, so that both services share one state.
pub(crate) struct Bundles(pub(crate) Arc<Service>);

#[tonic::async_trait]
impl TrustBundles for Bundles {
    type WatchStream = ReceiverStream<Result<TrustBundle, Status>>;

    async fn watch(&self, request: Request<WatchTrustBundleRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let connection = connection(&request)?;
        let refuse = |detail| {
            let asker = Asker { peer: connection.address, instance: None, caller: None };
            self.0.refuse(&asker, &Refused::new(Reason::Watchers, detail))
        };
        let own = connection.watch().ok_or_else(|| refuse("this connection watches the trust bundle already"))?;
        let slot = Arc::clone(&self.0.watchers).try_acquire_owned();
        let slot = slot.map_err(|_| refuse("too many watch the trust bundle"))?;
        let call = connection.calls.begin();
        let (bundles, stream) = mpsc::channel(1);
        let (signing, ending) = (self.0.kept.signing.clone(), self.0.ending.clone());
        let metrics = Arc::clone(&self.0.metrics);
        tokio::spawn(async move {
            let _held = (own, slot, call);
            metrics.watchers.inc();
            send_bundles(signing, ending, bundles).await;
            metrics.watchers.dec();
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Sends the bundle now and whenever it differs from the one sent last, until the watcher goes or the server ends.
async fn send_bundles(
    mut signing: watch::Receiver<Arc<Signing>>,
    mut ending: watch::Receiver<bool>,
    watcher: mpsc::Sender<Result<TrustBundle, Status>>,
) {
    let mut sent: Option<(u64, String)> = None;
    loop {
        let current = Arc::clone(&signing.borrow_and_update());
        if sent.as_ref().is_none_or(|(version, roots)| (*version, roots) != (current.bundle_version, &current.bundle)) {
            let message = message(&current);
            sent = Some((message.version, message.roots.clone()));
            if watcher.send(Ok(message)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = signing.changed() => if changed.is_err() { return },
            () = watcher.closed() => return,
            () = ended(&mut ending) => {
                let _ = watcher.send(Err(Status::unavailable("the authority is restarting"))).await;
                return;
            }
        }
    }
}

fn message(signing: &Signing) -> TrustBundle {
    TrustBundle {
        trust_domain: signing.trust_domain.to_string(),
        roots: signing.bundle.clone(),
        version: signing.bundle_version,
        now: unix(SystemTime::now()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost_types::{Struct, Value};

    use super::*;

    fn request(name: &str, kind: Kind) -> IstioCertificateRequest {
        let fields = BTreeMap::from([(name.to_owned(), Value { kind: Some(kind) })]);
        IstioCertificateRequest { metadata: Some(Struct { fields }), ..IstioCertificateRequest::default() }
    }

    #[test]
    fn fields_are_bounded_texts() {
        let ask = |kind| field(&request("remora.instance", kind), "remora.instance").map_err(|refused| refused.reason);
        assert_eq!(ask(Kind::StringValue("cart-7d9".to_owned())), Ok(Some("cart-7d9".to_owned())));
        assert_eq!(ask(Kind::StringValue(String::new())), Ok(None));
        assert_eq!(ask(Kind::NumberValue(7.0)), Err(Reason::BadRequest));
        assert_eq!(ask(Kind::StringValue("a\nb".to_owned())), Err(Reason::BadRequest));
        assert_eq!(ask(Kind::StringValue("x".repeat(MAX_FIELD + 1))), Err(Reason::BadRequest));
        assert_eq!(field(&IstioCertificateRequest::default(), "remora.instance"), Ok(None));
    }
}
