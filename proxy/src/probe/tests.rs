//! Probes of real applications over loopback.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use remora_certs::ca::{Authority, Validity};
use remora_model::TrustDomain;
use remora_model::probe::HttpProbe;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

type Body = BoxBody<Bytes, Infallible>;

#[derive(Clone, Copy, PartialEq)]
enum Speaks {
    Http1,
    Http2,
}

/// An application and what it was asked.
#[derive(Clone, Default)]
struct App {
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<http::request::Parts>>>,
}

impl App {
    /// Starts it on a port of its own.
    async fn start<F>(&self, speaks: Speaks, tls: Option<TlsAcceptor>, answer: F) -> u16
    where
        F: Fn(&http::request::Parts) -> Response<Body> + Clone + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                assert_eq!(peer.ip(), IpAddr::from(INBOUND_SOURCE_V4), "redirection knows probes by their source");
                this.connections.fetch_add(1, Ordering::Relaxed);
                let (this, answer, tls) = (this.clone(), answer.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => this.serve(stream, speaks, answer).await,
                        Some(tls) => this.serve(tls.accept(stream).await.unwrap(), speaks, answer).await,
                    }
                });
            }
        });
        port
    }

    async fn serve<S, F>(self, stream: S, speaks: Speaks, answer: F)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        F: Fn(&http::request::Parts) -> Response<Body> + Clone + Send + Sync + 'static,
    {
        let service = service_fn(move |request: Request<Incoming>| {
            let (head, _) = request.into_parts();
            let response = answer(&head);
            self.requests.lock().unwrap().push(head);
            async move { Ok::<_, Infallible>(response) }
        });
        let stream = TokioIo::new(stream);
        // What a probe cuts off is no error of the test's.
        let _ = match speaks {
            Speaks::Http1 => hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await,
            Speaks::Http2 => {
                hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
            }
        };
    }

    fn asked(&self) -> Vec<http::request::Parts> {
        self.requests.lock().unwrap().drain(..).collect()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn answer(status: u16, fields: &[(&str, &str)]) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(Full::new(Bytes::from_static(b"body")).boxed()).unwrap()
}

fn http(port: u16) -> HttpProbe {
    HttpProbe { tls: false, port, path: "/ready?deep=1".into(), headers: Vec::new() }
}

const PATH: &str = "/app-health/app/readyz";

fn prober(action: ProbeAction, timeout: Duration) -> Prober {
    Prober::new(&Probes::from([(PATH.into(), Probe { action, timeout })]))
}

async fn ask(prober: &Prober) -> Result<(), Failure> {
    let mut asked = HeaderMap::new();
    asked.insert("user-agent", "kube-probe/1.35".parse().unwrap());
    asked.insert("x-other", "not passed on".parse().unwrap());
    prober.ask(PATH, [127, 0, 0, 1].into(), &asked).await.unwrap()
}

/// As long as it takes: what fails does so at once.
const LONG: Duration = Duration::from_secs(60);

async fn ask_http(probe: HttpProbe) -> Result<(), Failure> {
    ask(&prober(ProbeAction::Http(probe), LONG)).await
}

#[tokio::test]
async fn only_declared_paths_are_asked() {
    let prober = prober(ProbeAction::Tcp { port: 1 }, LONG);
    for path in ["/app-health/app/livez", "/app-health/app/readyz/", "/app-health//readyz", "/ready"] {
        assert!(prober.ask(path, [127, 0, 0, 1].into(), &HeaderMap::new()).await.is_none(), "{path}");
    }
}

#[tokio::test]
async fn the_applications_status_is_the_verdict() {
    for (status, passed_on) in [
        (200, None),
        (204, None),
        (304, None),
        (399, None),
        (400, Some(400)),
        (404, Some(404)),
        (500, Some(500)),
        (599, Some(599)),
        (999, Some(503)),
    ] {
        let port = App::default().start(Speaks::Http1, None, move |_| answer(status, &[])).await;
        let verdict = ask_http(http(port)).await.err().map(|error| error.status().as_u16());
        assert_eq!(verdict, passed_on, "{status}");
    }
}

#[tokio::test]
async fn it_is_asked_as_the_kubelet_asks() {
    let app = App::default();
    let port = app.start(Speaks::Http1, None, |_| answer(200, &[])).await;
    ask_http(http(port)).await.unwrap();
    let asked = app.asked().pop().unwrap();
    assert_eq!((asked.method.as_str(), asked.uri.to_string().as_str()), ("GET", "/ready?deep=1"));
    let fields: Vec<_> = asked.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let host = format!("127.0.0.1:{port}");
    let mut expected = [("user-agent", "kube-probe/1.35"), ("accept", "*/*"), ("host", &host), ("connection", "close")];
    expected.sort_unstable();
    let mut found = fields.clone();
    found.sort_unstable();
    assert_eq!(found, expected);

    let declared = [("Host", "shop.example"), ("User-Agent", "mine"), ("Accept", ""), ("X-A", "1"), ("X-A", "2")];
    let headers = declared.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ask_http(HttpProbe { headers, ..http(port) }).await.unwrap();
    let asked = app.asked().pop().unwrap().headers;
    assert_eq!((asked["host"].to_str().unwrap(), asked["user-agent"].to_str().unwrap()), ("shop.example", "mine"));
    assert!(!asked.contains_key("accept"));
    assert_eq!(asked.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only() {
    let (app, other) = (App::default(), App::default());
    let elsewhere = other.start(Speaks::Http1, None, |_| answer(500, &[])).await;
    let port = app
        .start(Speaks::Http1, None, move |head| match head.uri.path() {
            "/relative" => answer(302, &[("location", "end")]),
            "/end" => answer(503, &[]),
            "/port" => answer(307, &[("location", &format!("http://127.0.0.1:{elsewhere}/x"))]),
            "/host" => answer(301, &[("location", "http://192.0.2.1/")]),
            "/nowhere" => answer(302, &[]),
            "/bad" => answer(302, &[("location", "http://[")]),
            _ => answer(302, &[("location", "/loop")]),
        })
        .await;
    let probe = |path: &str| HttpProbe {
        path: path.into(),
        headers: vec![("host".into(), "shop.example".into())],
        ..http(port)
    };
    let verdict = ask_http(probe("/relative")).await.unwrap_err();
    assert_eq!(verdict.status(), StatusCode::SERVICE_UNAVAILABLE);
    let hosts: Vec<_> = app.asked().iter().map(|head| head.headers["host"].clone()).collect();
    assert_eq!(hosts, ["shop.example", "shop.example"], "kept where the redirect names no host");
    assert_eq!(ask_http(probe("/port")).await.unwrap_err().status().as_u16(), 500);
    assert_eq!(other.asked()[0].headers["host"], format!("127.0.0.1:{elsewhere}"));
    ask_http(probe("/host")).await.unwrap();
    ask_http(probe("/nowhere")).await.unwrap();
    assert!(matches!(ask_http(probe("/bad")).await, Err(Failure::Request(_))));
    app.asked();
    let error = ask_http(probe("/loop")).await.unwrap_err();
    assert!(error.to_string().contains("10 requests"), "{error}");
    assert_eq!(app.asked().len(), 10);
}

#[tokio::test]
async fn no_more_than_the_bound_is_read_of_a_body() {
    let port = App::default()
        .start(Speaks::Http1, None, |_| {
            let chunk = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 1024])));
            let body = endless(chunk);
            Response::new(BodyExt::boxed(body))
        })
        .await;
    ask_http(http(port)).await.unwrap();
}

/// A body without an end.
fn endless<F>(next: F) -> StreamBody<tokio_stream::Iter<std::iter::RepeatWith<F>>>
where
    F: FnMut() -> Result<Frame<Bytes>, Infallible>,
{
    StreamBody::new(tokio_stream::iter(std::iter::repeat_with(next)))
}

#[tokio::test]
async fn an_application_that_speaks_only_http2_is_understood_and_remembered() {
    let app = App::default();
    let port = app.start(Speaks::Http2, None, |_| answer(200, &[])).await;
    let prober = prober(ProbeAction::Http(http(port)), LONG);
    ask(&prober).await.unwrap();
    let first = app.connections();
    ask(&prober).await.unwrap();
    assert_eq!((first, app.connections()), (2, 3), "HTTP/1.1 is not tried again");
    let asked = app.asked();
    assert_eq!(asked[0].uri.to_string(), format!("http://127.0.0.1:{port}/ready?deep=1"));
    assert_eq!(asked[0].headers["user-agent"], "kube-probe/1.35");
    assert!(!asked[0].headers.contains_key("connection"));
}

/// TLS with a certificate that nobody vouches for, made out to another name.
fn stranger(alpn: &[&[u8]]) -> TlsAcceptor {
    let domain: TrustDomain = "example.org".parse().unwrap();
    let validity = || Validity::around(SystemTime::now(), LONG, LONG);
    let root = Authority::root(&domain, validity()).unwrap();
    let issued = root
        .intermediate(&domain, validity())
        .unwrap()
        .issue(&"spiffe://example.org/ns/a/sa/b".parse().unwrap(), validity())
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(remora_certs::tls::provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn https_is_asked_whoever_answers() {
    for (speaks, alpn) in [(Speaks::Http1, &[][..]), (Speaks::Http1, &[&b"http/1.1"[..]]), (Speaks::Http2, &[b"h2"])] {
        let app = App::default();
        let port = app.start(speaks, Some(stranger(alpn)), |_| answer(200, &[])).await;
        ask_http(HttpProbe { tls: true, ..http(port) }).await.unwrap();
        assert_eq!(app.asked().len(), 1);
    }
    let plain = App::default().start(Speaks::Http1, None, |_| answer(200, &[])).await;
    let error = ask_http(HttpProbe { tls: true, ..http(plain) }).await.unwrap_err();
    assert!(matches!(error, Failure::Tls(..)) && error.status().as_u16() == 503, "{error}");
}

#[tokio::test]
async fn a_connect_is_enough_for_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let prober = prober(ProbeAction::Tcp { port }, LONG);
    ask(&prober).await.unwrap();
    drop(listener);
    let error = ask(&prober).await.unwrap_err();
    assert!(matches!(error, Failure::Connect(..)) && error.status().as_u16() == 503, "{error}");
}

#[tokio::test]
async fn silence_is_a_failure_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bound = Duration::from_millis(50);
    for action in [ProbeAction::Http(http(port)), ProbeAction::Grpc { port, service: String::new() }] {
        let error = ask(&prober(action, bound)).await.unwrap_err();
        assert!(matches!(error, Failure::Timeout(waited) if waited == bound), "{error}");
        assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT);
    }
}

/// A gRPC answer: a message, then trailers.
fn grpc_answer(message: &'static [u8], status: &'static str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(message)), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let body = StreamBody::new(tokio_stream::iter(frames));
    Response::builder().header("content-type", "application/grpc").body(BodyExt::boxed(body)).unwrap()
}

#[tokio::test]
async fn grpc_health_must_be_serving() {
    let app = App::default();
    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
    const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];
    for (message, status, said) in [
        (SERVING, "0", None),
        (NOT_SERVING, "0", Some("NOT_SERVING")),
        (&[0, 0, 0, 0, 0], "0", Some("UNKNOWN")),
        (&[], "12", Some("grpc-status 12")),
        (&[], "0", Some("no HealthCheckResponse")),
    ] {
        let port = app.start(Speaks::Http2, None, move |_| grpc_answer(message, status)).await;
        let result = ask(&prober(ProbeAction::Grpc { port, service: "shop.Catalog".into() }, LONG)).await;
        match said {
            None => result.unwrap(),
            Some(said) => {
                let error = result.unwrap_err();
                assert!(error.to_string().contains(said) && error.status().as_u16() == 503, "{error}");
            }
        }
        let asked = app.asked().pop().unwrap();
        assert_eq!((asked.method.as_str(), asked.uri.path()), ("POST", "/grpc.health.v1.Health/Check"));
        assert_eq!(
            (&asked.headers["te"], &asked.headers["user-agent"]),
            (&"trailers".parse().unwrap(), &"kube-probe/1.35".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn probes_under_way_are_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let prober = Arc::new(prober(ProbeAction::Http(http(port)), LONG));
    let (mut silent, mut held) = (Vec::new(), Vec::new());
    for _ in 0..UNDER_WAY {
        let prober = prober.clone();
        silent.push(tokio::spawn(async move { ask(&prober).await }));
        // Each holds its place once it has connected, and as long as the application is silent.
        held.push(listener.accept().await.unwrap());
    }
    assert!(matches!(ask(&prober).await, Err(Failure::Busy)));
    silent.iter().for_each(tokio::task::JoinHandle::abort);
}
