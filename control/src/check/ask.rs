//! One HTTP request to a server, within bounds, and what time it was there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::clock::{self, Reading};

/// How long one request may take, connection and all.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// TCP, or the name.
    #[error("{address}: {source}")]
    Connect { address: String, source: io::Error },
    /// The roots that should vouch for the server.
    #[error("{0} holds no usable roots")]
    Roots(String),
    /// The name that the server should have.
    #[error("{0} is not a server name")]
    Name(String),
    /// The handshake.
    #[error("{address}: TLS: {source}")]
    Tls { address: String, source: io::Error },
    /// What came was no HTTP.
    #[error("{address}: {}", causes(source))]
    Http { address: String, source: hyper::Error },
    /// The answer is too long, or broke off.
    #[error("{address}: the answer cannot be read")]
    Body { address: String },
    /// The request cannot be made of what is configured.
    #[error("{0}")]
    Request(#[from] http::Error),
    /// Nothing came.
    #[error("{0}: no answer within {PATIENCE:?}")]
    Late(String),
}

fn causes(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What a server said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Headers and trailers.
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
    /// What time it was there.
    pub(super) clock: Option<Reading>,
}

/// GET over plaintext HTTP/1.1, as for an admin interface.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<Answer, Error> {
    let request = Request::builder().uri(path).header("host", address.to_string()).body(Full::default())?;
    let address = address.to_string();
    in_time(&address, async { http1(&address, connect(&address).await?, request).await }).await
}

/// POST over plaintext, by HTTP/2 with prior knowledge or HTTP/1.1.
pub(super) async fn post(address: &str, over_http2: bool, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
    in_time(address, async {
        let stream = connect(address).await?;
        if over_http2 { http2(address, stream, request).await } else { http1(address, stream, request).await }
    })
    .await
}

/// An empty gRPC call over TLS to a server for whom the PEM `roots`, of the file `file`, vouch.
pub(super) async fn call(address: &str, name: &str, file: &str, roots: &[u8]) -> Result<Answer, Error> {
    let config = client(file, roots)?;
    let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::Name(name.to_owned()))?;
    let request = grpc(&format!("https://{address}/grpc.health.v1.Health/Check"))?;
    in_time(address, async {
        let stream = connect(address).await?;
        let failed = |source| Error::Tls { address: address.to_owned(), source };
        let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(failed)?;
        http2(address, tls, request).await
    })
    .await
}

/// A gRPC request with an empty message.
pub(super) fn grpc(uri: &str) -> Result<Request<Full<Bytes>>, Error> {
    let request = Request::builder().method(Method::POST).uri(uri).version(http::Version::HTTP_2);
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    // One frame: not compressed, of length 0.
    Ok(request.body(Full::new(Bytes::from_static(&[0; 5])))?)
}

fn client(file: &str, pem: &[u8]) -> Result<ClientConfig, Error> {
    let unusable = || Error::Roots(file.to_owned());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem) {
        roots.add(root.map_err(|_| unusable())?).map_err(|_| unusable())?;
    }
    let provider = Arc::clone(remora_certs::tls::provider());
    let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let mut config = versions.map_err(|_| unusable())?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn in_time<T>(address: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(Error::Late(address.to_owned())))
}

async fn connect(address: &str) -> Result<TcpStream, Error> {
    TcpStream::connect(address).await.map_err(|source| Error::Connect { address: address.to_owned(), source })
}

async fn http1<S>(address: &str, stream: S, request: Request<Full<Bytes>>) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, driven) = http1::handshake(TokioIo::new(stream)).await.map_err(no_http(address))?;
    // Ends with the runtime at the latest.
    tokio::spawn(driven);
    read(address, sender.send_request(request)).await
}

async fn http2<S>(address: &str, stream: S, request: Request<Full<Bytes>>) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, driven) = handshake.await.map_err(no_http(address))?;
    tokio::spawn(driven);
    read(address, sender.send_request(request)).await
}

fn no_http(address: &str) -> impl Fn(hyper::Error) -> Error {
    move |source| Error::Http { address: address.to_owned(), source }
}

async fn read(
    address: &str,
    response: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<Answer, Error> {
    let (asked, begun) = (SystemTime::now(), Instant::now());
    let (head, body) = response.await.map_err(no_http(address))?.into_parts();
    let took = begun.elapsed();
    let clock = clock::date(&head.headers).map(|theirs| Reading { of: address.to_owned(), theirs, asked, took });
    let unreadable = |_| Error::Body { address: address.to_owned() };
    let collected = Limited::new(body, MAX_ANSWER).collect().await.map_err(unreadable)?;
    let mut fields = head.headers;
    fields.extend(collected.trailers().cloned().unwrap_or_default());
    Ok(Answer { status: head.status, fields, body: collected.to_bytes(), clock })
}
