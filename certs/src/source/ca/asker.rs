//! Asking an authority: the connection, the credentials, the request.

use std::fs;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rcgen::{CertificateParams, DistinguishedName};
use remora_model::TrustDomain;
use remora_model::identity::{CaClient, KeyKind};
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request};
use tower::service_fn;

use super::answer::{self, Answer};
use super::failure::{Failure, causes};
use crate::proto::istio::IstioCertificateRequest;
use crate::proto::istio::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::{Error, Fingerprint, Svid, VerifyError, ca, pem, tls};

/// The longest that one request may take, connection and all.
pub(in crate::source) const DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer, in bytes; chains and bundles have a few thousand.
pub(super) const MAX_ANSWER: usize = 1024 * 1024;
/// The largest token, in bytes; a service account's has about a thousand.
const MAX_TOKEN: u64 = 16 * 1024;
/// Header bytes that an authority may answer with.
const MAX_HEADERS: u32 = 16 * 1024;

/// Bytes to and from an authority.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens a stream to `HOST:PORT`; handed in, so that a test needs no network.
pub(super) type Dial = Box<dyn Fn(Arc<str>) -> Dialling + Send + Sync>;
pub(super) type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// The network.
pub(super) fn tcp(address: Arc<str>) -> Dialling {
    Box::pin(async move {
        let stream = TcpStream::connect(&*address).await?;
        let _ = stream.set_nodelay(true);
        Ok(Box::new(stream) as Box<dyn Stream>)
    })
}

/// One authority, and what was learnt of it.
pub(super) struct Asker {
    client: CaClient,
    dial: Dial,
    /// Tells this process from others of the same identity in the authority's record.
    instance: String,
    learnt: Mutex<Learnt>,
}

#[derive(Clone, Copy, Default)]
struct Learnt {
    /// A token that was refused where our certificate was not, such as a join token that was used.
    spent: Option<Fingerprint>,
    /// The certificate did not help last time; perhaps it is what the authority refuses.
    leave_certificate_out: bool,
}

impl Asker {
    pub(super) fn new(client: CaClient, dial: Dial) -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        let unique = ca::random_serial().unwrap_or_default();
        let unique = ca::hexadecimal(&unique[..4]);
        Self { client, dial, instance: format!("{host}-{unique}"), learnt: Mutex::default() }
    }

    pub(super) fn address(&self) -> &Arc<str> {
        &self.client.address
    }

    /// Makes a key and has it certified. `current` is what the certificate replaces; it is shown as proof too.
    pub(super) async fn certificate(
        &self,
        current: Option<&Svid>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Answer, Failure> {
        let (key, csr) = new_request(self.client.key).await?;
        let learnt = self.recall();
        let usable = current.filter(|svid| may_renew(svid, now));
        let token = self.token(usable.is_some())?;
        // Without a token the certificate is all there is.
        let shown = usable.filter(|_| !(learnt.leave_certificate_out && token.is_some()));
        let fingerprint = token.as_ref().map(|token| Fingerprint::of(token.as_bytes()));
        let spent = shown.is_some() && fingerprint.is_some() && fingerprint == learnt.spent;

        let request = self.request(csr, current);
        let first = self.create(request.clone(), shown, token.filter(|_| !spent)).await;
        let (result, spent) = match first {
            Err(refused) if !spent && shown.is_some() && refused.code() == Some(Code::Unauthenticated) => {
                match self.create(request, shown, None).await {
                    Ok(chain) => (Ok(chain), fingerprint),
                    Err(_) => (Err(refused), learnt.spent),
                }
            }
            first => (first, learnt.spent),
        };
        *self.learnt.lock().unwrap_or_else(PoisonError::into_inner) =
            Learnt { spent, leave_certificate_out: shown.is_some() && result.as_ref().is_err_and(Failure::is_of_peer) };
        answer::read(self.address(), &result?, key, trust_domain, now)
    }

    /// What was learnt before. To leave the certificate out is for one attempt, whatever becomes of that.
    fn recall(&self) -> Learnt {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        let known = *learnt;
        learnt.leave_certificate_out = false;
        known
    }

    fn request(&self, csr: String, current: Option<&Svid>) -> IstioCertificateRequest {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let mut fields = vec![("remora.instance".to_owned(), text(&self.instance))];
        if let Some(svid) = current {
            fields.push(("remora.replaces".to_owned(), text(svid.serial())));
        }
        IstioCertificateRequest {
            csr,
            validity_duration: self.client.ttl.as_secs().try_into().unwrap_or(i64::MAX),
            metadata: Some(Struct { fields: fields.into_iter().collect() }),
        }
    }

    async fn create(
        &self,
        request: IstioCertificateRequest,
        shown: Option<&Svid>,
        token: Option<MetadataValue<Ascii>>,
    ) -> Result<Vec<String>, Failure> {
        let mut request = Request::new(request);
        // istiod knows its clusters by name; a single one has this.
        request.metadata_mut().insert("clusterid", MetadataValue::from_static("Kubernetes"));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token);
        }
        let answer = async {
            let channel = self.connect(shown).await?;
            let mut client = IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            let created = client.create_certificate(request).await;
            created.map_err(|status| Failure::status(self.address(), &status))
        };
        Ok(self.in_time(answer).await?.into_inner().cert_chain)
    }

    /// `work`, unless it takes too long.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let late = |_| Failure::Deadline { address: Arc::clone(self.address()), limit: DEADLINE };
        timeout(DEADLINE, work).await.map_err(late)?
    }

    /// A connection of its own. The authority proves itself by the roots as they are in the file now.
    pub(super) async fn connect(&self, shown: Option<&Svid>) -> Result<Channel, Failure> {
        let address = self.address();
        let unusable = |reason: String| Failure::Connect { address: Arc::clone(address), reason };
        let failed = |reason: String| Failure::Tls { address: Arc::clone(address), reason };
        let origin = Uri::builder().scheme("https").authority(&**address).path_and_query("/").build();
        let origin = origin.map_err(|error| unusable(error.to_string()))?;
        let name = ServerName::try_from(self.client.server_name.to_string())
            .map_err(|_| unusable(format!("{} is not a server name", self.client.server_name)))?;
        let config = self.tls(shown)?;

        let stream = (self.dial)(Arc::clone(address)).await.map_err(|error| Failure::connect(address, &error))?;
        let connector = TlsConnector::from(Arc::new(config));
        let tls = connector.connect(name, stream).await.map_err(|error| failed(causes(&error)))?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Failure::NotGrpc { address: Arc::clone(address) });
        }
        let mut io = Some(TokioIo::new(tls));
        let once = service_fn(move |_: Uri| {
            let io = io.take().ok_or_else(|| io::Error::from(ErrorKind::NotConnected));
            async move { io }
        });
        let endpoint = Endpoint::from_static("http://authority")
            .origin(origin)
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(DEADLINE)
            .keep_alive_while_idle(true);
        let broken = |error| Failure::Broken { address: Arc::clone(address), reason: causes(&error) };
        endpoint.connect_with_connector(once).await.map_err(broken)
    }

    fn tls(&self, shown: Option<&Svid>) -> Result<ClientConfig, Failure> {
        let file = &self.client.roots;
        let mut roots = RootCertStore::empty();
        let certificates = pem::read(file).and_then(|bytes| pem::certificates(file, &bytes)).map_err(Failure::Roots)?;
        for (index, certificate) in certificates.into_iter().enumerate() {
            roots
                .add(certificate)
                .map_err(|_| Failure::Roots(Error::Root { path: file.clone(), index, reason: "it is malformed" }))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Failure::Key(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match shown {
            Some(svid) => {
                let resolver = SingleCertAndKey::from(Arc::clone(svid.certified_key()));
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // What was verified under roots that are gone from the file must not be resumed.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// The token in its file now. Whoever has a certificate may do without.
    fn token(&self, optional: bool) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let path = &self.client.token;
        let unreadable = |source| Failure::Token(Error::Read { path: path.clone(), source });
        let length = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if optional && error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let bad = || Failure::BadToken(path.clone());
        if length > MAX_TOKEN {
            return Err(bad());
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad());
        }
        let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| bad())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Whether to show `svid` as proof. Our authority takes one that ended a moment ago; one that ended earlier would end the
/// handshake, and with it the way back by a token.
fn may_renew(svid: &Svid, now: SystemTime) -> bool {
    match svid.check_time(now) {
        Ok(()) => true,
        Err(VerifyError::Expired { not_after, .. }) => now <= not_after + ca::RENEWAL_GRACE,
        Err(_) => false,
    }
}

/// A new key and a request for it, PEM. The request names nobody: who we are the credentials say.
pub(super) async fn new_request(kind: KeyKind) -> Result<(PrivateKeyDer<'static>, String), Failure> {
    let make = move || -> Result<_, Error> {
        let key = ca::key::generate(kind)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?.pem()?;
        Ok((PrivatePkcs8KeyDer::from(key.serialize_der()).into(), csr))
    };
    // Two large primes take a while, and others wait on this thread.
    let made = match kind {
        KeyKind::Rsa2048 => tokio::task::spawn_blocking(make).await.map_err(|error| Failure::Key(error.to_string()))?,
        KeyKind::P256 | KeyKind::Ed25519 => make(),
    };
    made.map_err(|error| Failure::Key(error.to_string()))
}
