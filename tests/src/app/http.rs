//! An HTTP application: says by JSON what it received, and misbehaves on demand.
//!
//! | path | answer |
//! |---|---|
//! | `/name` | its name |
//! | `/counts` | `{"requests": n, "connections": n}` so far, this request not counted |
//! | `/echo` | the request's body |
//! | `/silent` | none, ever |
//! | `/abort` | none: the connection ends |
//! | `/bytes/N` | N bytes |
//! | `/endless`, `/endless/N` | a body without an end, as fast as it is read, in parts of N bytes |
//! | `/status/N` | that status |
//! | `/delay/MS` | its name, after that time |
//! | `/upgrade` with `Upgrade`, or CONNECT with `:protocol` | 101 or 200, the callers it was told of in `x-callers`; then it is an echo |
//! | `/stream`, asked by gRPC | each message at once, as it came; `grpc-status: 0` in trailers |
//! | any other gRPC request (not gRPC-Web) | its name as the message, `grpc-status: 0` in trailers |
//! | any other | what it saw, as JSON: peer, method, path, version, headers, body length |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::Behaviour;

type Body = BoxBody<Bytes, hyper::Error>;

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    requests: AtomicU64,
    connections: AtomicU64,
}

/// Listens and serves until the process ends.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(behaviour: Behaviour) -> anyhow::Result<()> {
    let listener = TcpListener::bind(behaviour.listen).await?;
    let state = Arc::new(State { behaviour, requests: AtomicU64::new(0), connections: AtomicU64::new(0) });
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        state.connections.fetch_add(1, Ordering::Relaxed);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let head = request.method() == Method::HEAD;
                let answer = answer(Arc::clone(&state), peer, request);
                async move { answer.await.map(|answer| if head { without_body(answer) } else { answer }) }
            });
            let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            server.http2().max_concurrent_streams(1_000).enable_connect_protocol();
            // An error here is a client that went away, or /abort: the tests look at the client's side.
            let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    state: Arc<State>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let path = request.uri().path().to_owned();
    let (first, value) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    if first == "counts" {
        let (requests, connections) =
            (state.requests.load(Ordering::Relaxed), state.connections.load(Ordering::Relaxed));
        let json = serde_json::json!({"name": state.behaviour.name, "requests": requests, "connections": connections});
        return Ok(Response::new(full(json.to_string())));
    }
    state.requests.fetch_add(1, Ordering::Relaxed);
    if !state.behaviour.delay.is_zero() {
        tokio::time::sleep(state.behaviour.delay).await;
    }
    let name = state.behaviour.name.clone();
    if is_grpc(request.headers()) {
        return Ok(if first == "stream" { grpc_echo(request) } else { grpc_answer(&name, request).await });
    }
    Ok(match first {
        "name" => Response::new(full(name)),
        "echo" => Response::new(request.into_body().boxed()),
        "silent" => std::future::pending().await,
        "abort" => return Err(std::io::Error::other("asked to")),
        "bytes" => Response::new(full(vec![b'x'; value.parse().unwrap_or(0)])),
        "endless" => Response::new(endless(value.parse().unwrap_or(PIECE.len()))),
        "status" => {
            let mut response = Response::new(full(name));
            *response.status_mut() = value.parse().unwrap_or_default();
            response
        }
        "delay" => {
            tokio::time::sleep(Duration::from_millis(value.parse().unwrap_or(0))).await;
            Response::new(full(name))
        }
        "upgrade" if request.headers().contains_key("upgrade") || request.method() == Method::CONNECT => {
            upgraded(request)
        }
        _ => described(&name, peer, request).await,
    })
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get("content-type").map_or(&b""[..], HeaderValue::as_bytes);
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Leaves HTTP for an echo. What the request says of its callers stands in the answer's head.
fn upgraded(mut request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(full(""));
    if let Some(protocol) = request.headers().get("upgrade") {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        response.headers_mut().insert("upgrade", protocol.clone());
    }
    let headers = response.headers_mut();
    for caller in request.headers().get_all("x-forwarded-client-cert") {
        headers.append("x-callers", caller.clone());
    }
    tokio::spawn(async move {
        let Ok(stream) = hyper::upgrade::on(&mut request).await else { return };
        let mut stream = TokioIo::new(stream);
        // The client's end, or its reset, is the end of the echo.
        let _ = super::tcp::echo(&mut stream).await;
        let _ = stream.shutdown().await;
    });
    response
}

/// What arrived, as JSON; header values of one name are a list, in order.
async fn described(name: &str, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut headers = serde_json::Map::new();
    for key in head.headers.keys() {
        let values = head.headers.get_all(key).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        headers.insert(key.to_string(), values.collect());
    }
    let collected = body.collect().await;
    let length = collected.map(|body| body.to_bytes().len()).map_err(|error| error.to_string());
    let json = serde_json::json!({
        "name": name,
        "peer": peer.ip().to_canonical().to_string(),
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(|path| path.as_str()),
        "authority": head.uri.authority().map(|authority| authority.as_str()),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body": length.unwrap_or_default(),
    });
    let mut response = Response::new(full(json.to_string()));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response.headers_mut().insert("x-app", HeaderValue::from_static("remora-peer"));
    response
}

async fn grpc_answer(name: &str, request: Request<Incoming>) -> Response<Body> {
    let _ = request.into_body().collect().await;
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(name.len()).unwrap_or(0));
    message.put_slice(name.as_bytes());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-replica", HeaderValue::from_str(name).unwrap());
    let body = Full::new(message.freeze()).with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) });
    let mut response = Response::new(body.map_err(|never| match never {}).boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn grpc_echo(request: Request<Incoming>) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = request.into_body().with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// An answer to HEAD, which hyper leaves to the application in HTTP/2.
fn without_body(answer: Response<Body>) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.insert("content-length", length.into());
    }
    Response::from_parts(head, full(""))
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

static PIECE: [u8; 16_384] = [b'e'; 16_384];

fn endless(size: usize) -> Body {
    let part = &PIECE[..size.clamp(1, PIECE.len())];
    let frames = tokio_stream::iter(std::iter::repeat_with(|| Ok(Frame::data(Bytes::from_static(part)))));
    BodyExt::boxed(StreamBody::new(frames))
}
