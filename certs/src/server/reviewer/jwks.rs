//! The keys of an OIDC issuer (RFC 7517), from a file that is watched or a URL that is asked again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::server::error::Error;
use crate::server::refusal::{Reason, Refused};
use crate::watch::FileWatcher;
use crate::{pem, tls};

/// The largest JWKS document that is read, in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;
/// The most keys that are kept of one document.
const MAX_KEYS: usize = 64;
/// How old the keys of a URL may grow before it is asked again, so that withdrawn ones go.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// The shortest time from the end of one question to the next, whatever key IDs are asked for.
const FLOOR: Duration = Duration::from_secs(10);
/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One public key.
#[derive(Clone)]
pub(crate) struct Key {
    id: Option<String>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) decoding: Arc<DecodingKey>,
}

/// Where the keys come from.
pub struct JwksSource {
    keys: Arc<RwLock<Vec<Key>>>,
    remote: Option<Arc<Remote>>,
    // Held for its end.
    _watching: Option<tokio::task::JoinSet<()>>,
}

struct Remote {
    url: http::Uri,
    client: Client<HttpsConnector<HttpConnector>, Empty<bytes::Bytes>>,
    // Held through a question, so that there is one at a time.
    asking: Arc<Mutex<()>>,
    asked: std::sync::Mutex<Asked>,
}

/// When the last question ended, and when the last that was answered.
#[derive(Clone, Copy, Default)]
struct Asked {
    tried: Option<Instant>,
    answered: Option<Instant>,
}

impl JwksSource {
    /// Keys from `location`: a file, an `https` URL (verified by the system's roots, or by those in `ca`), or an `http`
    /// URL on loopback. A file must be good now; a URL is asked now, and again when it is needed.
    ///
    /// # Errors
    /// The file cannot be used, or the URL is none that may be asked.
    pub async fn new(location: &str, ca: Option<&Path>) -> Result<Self, Error> {
        if !location.contains("://") {
            return Self::file(PathBuf::from(location));
        }
        let refused = |reason| Error::JwksUrl { url: location.to_owned(), reason };
        let url: http::Uri = location.parse().map_err(|_| refused("it is malformed"))?;
        match (url.scheme_str(), url.host()) {
            (Some("https"), Some(_)) => {}
            (Some("http"), Some(host)) if is_loopback(host) => {}
            (Some("http"), _) => return Err(refused("http is for loopback addresses only")),
            _ => return Err(refused("its scheme is neither https nor http")),
        }
        let remote = Remote { url, client: client(ca)?, asking: Arc::default(), asked: Default::default() };
        let source = Self { keys: Arc::default(), remote: Some(Arc::new(remote)), _watching: None };
        // Whoever comes first need not wait; a failure is told, and tried again then.
        let _ = source.refresh().await;
        Ok(source)
    }

    fn file(path: PathBuf) -> Result<Self, Error> {
        let mut watcher = FileWatcher::new([path.clone()]);
        let keys = Arc::new(RwLock::new(read(&path)?));
        let mut watching = tokio::task::JoinSet::new();
        let shared = Arc::clone(&keys);
        watching.spawn(async move {
            loop {
                watcher.changed().await;
                match read(&path) {
                    Ok(fresh) => {
                        tracing::info!(keys = fresh.len(), file = %path.display(), "the issuer's keys changed");
                        replace(&shared, fresh);
                    }
                    Err(error) => tracing::warn!(%error, "the issuer's new keys cannot be used; the old ones stay"),
                }
            }
        });
        Ok(Self { keys, remote: None, _watching: Some(watching) })
    }

    /// The key with this ID; without an ID, the only key there is. One that is known is told at once, and serves on if
    /// the URL does not answer; for another one question is waited for.
    pub(crate) async fn key(&self, id: Option<&str>) -> Result<Key, Refused> {
        if let Some(key) = self.find(id) {
            self.freshen();
            return Ok(key);
        }
        let unknown = || Refused::new(Reason::UnknownKey, "no key of the issuer has the token's key ID");
        self.refresh().await?;
        self.find(id).ok_or_else(unknown)
    }

    fn find(&self, id: Option<&str>) -> Option<Key> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        match (id, keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)).cloned(),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        }
    }

    /// Asks the URL again where the keys are old, without anybody waiting for it.
    fn freshen(&self) {
        let Some(remote) = &self.remote else { return };
        let asked = *remote.asked();
        let old = asked.answered.is_none_or(|at| at.elapsed() > FRESH);
        let rested = asked.tried.is_none_or(|at| at.elapsed() >= FLOOR);
        if old
            && rested
            && let Ok(turn) = Arc::clone(&remote.asking).try_lock_owned()
        {
            self.ask(remote, turn);
        }
    }

    /// Asks the URL again, unless it was asked a moment ago: whoever waited for another's question is served by it. No
    /// error for a file.
    async fn refresh(&self) -> Result<(), Refused> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let turn = Arc::clone(&remote.asking).lock_owned().await;
        if remote.asked().tried.is_none_or(|at| at.elapsed() >= FLOOR) {
            // Goes on where the caller gives up.
            let _ = self.ask(remote, turn).await;
        }
        let asked = *remote.asked();
        match asked.tried == asked.answered {
            true => Ok(()),
            false => Err(Refused::new(Reason::ReviewerUnavailable, "the issuer's keys cannot be fetched")),
        }
    }

    fn ask(&self, remote: &Arc<Remote>, turn: OwnedMutexGuard<()>) -> JoinHandle<()> {
        let (remote, keys) = (Arc::clone(remote), Arc::clone(&self.keys));
        tokio::spawn(async move {
            let fetched = remote.fetch().await;
            let now = Instant::now();
            match fetched {
                Ok(fresh) => {
                    replace(&keys, fresh);
                    *remote.asked() = Asked { tried: Some(now), answered: Some(now) };
                }
                Err(reason) => {
                    tracing::warn!(url = %remote.url, reason, "the issuer's keys cannot be fetched");
                    remote.asked().tried = Some(now);
                }
            }
            drop(turn);
        })
    }
}

impl Remote {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let answer = async {
            let response = self.client.get(self.url.clone()).await.map_err(|error| describe(&error))?;
            // Redirections are not followed: the configured URL is whom we trust.
            if response.status() != http::StatusCode::OK {
                return Err(format!("status {}", response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
            parse(&body.map_err(|error| error.to_string())?.to_bytes()).map_err(str::to_owned)
        };
        tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| format!("no answer within {TIMEOUT:?}"))?
    }
}

/// An error with its causes, which say more than it does.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn replace(keys: &RwLock<Vec<Key>>, fresh: Vec<Key>) {
    *keys.write().unwrap_or_else(PoisonError::into_inner) = fresh;
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn client(ca: Option<&Path>) -> Result<Client<HttpsConnector<HttpConnector>, Empty<bytes::Bytes>>, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_safe_default_protocol_versions()
        .map_err(crate::Error::from)?;
    let connector = hyper_rustls::HttpsConnectorBuilder::new();
    let connector = match ca {
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in pem::certificates(path, &pem::read(path)?)? {
                let certificate: CertificateDer<'static> = certificate;
                roots.add(certificate).map_err(crate::Error::from)?;
            }
            connector.with_tls_config(builder.with_root_certificates(roots).with_no_client_auth())
        }
        None => {
            let provider = Arc::clone(tls::provider());
            match connector.with_provider_and_native_roots((*provider).clone()) {
                Ok(connector) => connector,
                Err(error) => return Err(Error::NativeRoots(error)),
            }
        }
    };
    Ok(Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build()))
}

fn read(path: &Path) -> Result<Vec<Key>, Error> {
    parse(&pem::read(path)?).map_err(|reason| Error::Jwks { path: path.to_owned(), reason })
}

/// The usable signature keys of a JWKS document; at least one. Keys of unknown kinds are passed over (RFC 7517,
/// section 5).
fn parse(document: &[u8]) -> Result<Vec<Key>, &'static str> {
    #[derive(serde::Deserialize)]
    struct Document {
        keys: Vec<serde_json::Value>,
    }
    if document.len() > MAX_DOCUMENT {
        return Err("it is too large");
    }
    let document: Document = serde_json::from_slice(document).map_err(|_| "it is no JSON Web Key Set")?;
    let keys: Vec<_> = document.keys.into_iter().filter_map(usable).take(MAX_KEYS).collect();
    if keys.is_empty() { Err("it has no key that can verify signatures") } else { Ok(keys) }
}

fn usable(key: serde_json::Value) -> Option<Key> {
    let key: Jwk = serde_json::from_value(key).ok()?;
    if key.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match key.common.key_algorithm {
        None => None,
        Some(KeyAlgorithm::RS256) => Some(Algorithm::RS256),
        Some(KeyAlgorithm::PS256) => Some(Algorithm::PS256),
        Some(KeyAlgorithm::ES256) => Some(Algorithm::ES256),
        Some(KeyAlgorithm::EdDSA) => Some(Algorithm::EdDSA),
        // A shared secret has no place in a set of public keys, and the rest is not accepted.
        Some(_) => return None,
    };
    if matches!(key.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_)) {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&key).ok()?;
    Some(Key { id: key.common.key_id, algorithm, decoding: Arc::new(decoding) })
}

#[cfg(test)]
mod tests;
