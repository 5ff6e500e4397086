//! A connection to an endpoint.

use std::cell::Cell;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, Version, header};
use remora_model::HttpLimits;

use super::takes::Takes;
use super::watched::Watched;
use super::{MAX_STREAMS, SEND_BUFFER, SHARED_FRAMES, block_bytes, field_bytes, field_limits, list_bytes, read_bytes};
use crate::http::body::Body;
use crate::http::h1::parse::Limits;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::spelling::Spelling;
use crate::io::Upstream;

/// Streams opened on a connection before its peer has said how many it takes, which may be one: it would refuse the others.
const STREAMS_BEFORE_SETTINGS: usize = 1;

/// Drives a client connection.
pub(crate) type Connection = h2::client::Connection<Watched<Upstream>, Bytes>;

/// The sending half of a client connection.
#[derive(Clone)]
pub(crate) struct Sender {
    requests: h2::client::SendRequest<Bytes>,
    /// How large a request may be.
    pub(crate) takes: Rc<Takes>,
}

impl Deref for Sender {
    type Target = h2::client::SendRequest<Bytes>;

    fn deref(&self) -> &Self::Target {
        &self.requests
    }
}

impl DerefMut for Sender {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.requests
    }
}

/// How long a peer may take to say that. Whoever wants a stream waits for it rather than for another connection.
const SETTINGS: Duration = Duration::from_millis(500);

/// Begins HTTP/2 with prior knowledge on a fresh upstream connection; `ours` where the peer is known to take
/// [`MAX_STREAMS`]. Of others their SETTINGS (RFC 9113 section 3.4) are awaited for half a second. Streams begin with this `window` in
/// bytes; the connection's has room for a hundred of the widest. The returned connection must be driven.
///
/// # Errors
/// The connection broke before our preface was written, or before their SETTINGS came.
pub(crate) async fn connect(
    io: Upstream,
    ours: bool,
    limits: HttpLimits,
    window: u32,
) -> Result<(Sender, Connection), h2::Error> {
    let fields = field_limits(&limits, ours);
    let takes = Rc::new(Takes::new(ours));
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(MAX_STREAMS * limits.stream_window)
        .initial_max_send_streams(if ours { MAX_STREAMS as usize } else { STREAMS_BEFORE_SETTINGS })
        .max_header_list_size(read_bytes(&fields, ours))
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SHARED_FRAMES)
        .enable_push(false)
        .handshake(Watched::upstream(io, block_bytes(&fields, ours), takes.clone()))
        .await?;
    if !ours {
        let said = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            // It ends well where there was no stream yet; whoever uses it finds out.
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending if requests.current_max_send_streams() != STREAMS_BEFORE_SETTINGS => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        });
        tokio::time::timeout(SETTINGS, said).await.unwrap_or(Ok(()))?;
    }
    Ok((Sender { requests, takes }, connection))
}

/// Fields whose value is another in each request. In HPACK's table (RFC 7541 section 2.3.2) it would take the place of those that come
/// again, and the h2 crate compares all that a name had.
const UNIQUE: [&str; 7] =
    ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-request-id"];

/// Which of [`UNIQUE`] were sent on a connection, so that the table has their names.
#[derive(Debug, Default)]
pub(crate) struct Named(Cell<u8>);

impl Named {
    /// Keeps the values out of the table, but for the first; what all fields take (RFC 9113 section 6.5.2).
    fn keep_out(&self, headers: &mut HeaderMap) -> usize {
        let mut bytes = 0;
        for (name, value) in headers {
            bytes += field_bytes(name.as_str(), value.len());
            if let Some(at) = UNIQUE.iter().position(|unique| name == unique) {
                let named = self.0.replace(self.0.get() | 1 << at);
                // What its sender keeps out of every table stays out (RFC 7541 section 6.2.3).
                value.set_sensitive(value.is_sensitive() || named & 1 << at != 0);
            }
        }
        bytes
    }
}

/// The request as HTTP/2 puts it on the wire, with these fields; and what all of them take, pseudo-header fields too.
///
/// # Errors
/// Its target does not make a URI; the text says what.
pub(crate) fn request(
    head: &RequestHead,
    mut headers: HeaderMap,
    named: &Named,
) -> Result<(http::Request<()>, usize), String> {
    let mut bytes = named.keep_out(&mut headers) + pseudo_bytes(head);
    let mut parts = http::uri::Parts::default();
    if let Some(authority) = &head.authority {
        parts.scheme = Some(head.scheme.clone().unwrap_or(Scheme::HTTP));
        parts.authority = Some(authority.clone());
        // :authority says it (RFC 9113 section 8.3.1), and has taken its place where it came by HTTP/2.
        if head.version != Version::HTTP_2 {
            bytes -= headers.remove(header::HOST).map_or(0, |host| field_bytes("host", host.len()));
        }
    }
    parts.path_and_query = Some(head.path.clone());
    let mut request = http::Request::new(());
    *request.uri_mut() = http::Uri::from_parts(parts).map_err(|error| error.to_string())?;
    *request.method_mut() = head.method.clone();
    // Without an authority the h2 crate insists on a version that may lack one.
    *request.version_mut() = if request.uri().authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    *request.headers_mut() = headers;
    if let Some(protocol) = &head.protocol {
        request.extensions_mut().insert(protocol.clone());
    }
    Ok((request, bytes))
}

fn pseudo_bytes(head: &RequestHead) -> usize {
    let aim = head.authority.as_ref().map_or(0, |authority| {
        field_bytes(":authority", authority.as_str().len()) + field_bytes(":scheme", "https".len())
    });
    let protocol = head.protocol.as_ref().map_or(0, |protocol| field_bytes(":protocol", protocol.as_str().len()));
    field_bytes(":method", head.method.as_str().len()) + field_bytes(":path", head.path.as_str().len()) + aim + protocol
}

/// Takes a response apart, of a `hop` where our own sidecar is the peer.
///
/// # Errors
/// Its head is too large, or says its length more than once; were the lengths different, the h2 crate would have said so.
pub(crate) fn response_parts(
    response: http::Response<h2::RecvStream>,
    hop: bool,
    limits: &Limits,
) -> Result<(ResponseHead, Body), &'static str> {
    let (http::response::Parts { status, version, headers, .. }, stream) = response.into_parts();
    fits(&headers, limits)?;
    // As over HTTP/1 (RFC 9110 section 8.6). Most have no field twice.
    let twice = headers.len() > headers.keys_len();
    if twice && headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err("several content-length fields");
    }
    Ok((ResponseHead { status, version, headers, spelling: Spelling::default() }, Body::from_h2(stream, hop, *limits)))
}

fn fits(headers: &HeaderMap, limits: &Limits) -> Result<(), &'static str> {
    if list_bytes(headers) > limits.head_bytes { Err("its head is too large") } else { Ok(()) }
}

/// Takes an informational response apart.
///
/// # Errors
/// Its head is too large.
pub(crate) fn informational(response: http::Response<()>, limits: &Limits) -> Result<ResponseHead, &'static str> {
    let (parts, ()) = response.into_parts();
    fits(&parts.headers, limits)?;
    Ok(ResponseHead {
        status: parts.status,
        version: parts.version,
        headers: parts.headers,
        spelling: Spelling::default(),
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::Instant;

    use super::*;

    const WINDOW: u32 = 65_535;

    #[tokio::test(start_paused = true)]
    async fn what_a_server_says_of_streams_is_awaited_for_a_while() {
        /// SETTINGS with a limit of 100 streams.
        const HUNDRED: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        for (said, streams, waited) in [(HUNDRED, 100, Duration::ZERO), (&[], STREAMS_BEFORE_SETTINGS, SETTINGS)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut end = listener.accept().await.unwrap().0;
            end.write_all(said).await.unwrap();
            let begun = Instant::now();
            let (sender, _connection) =
                connect(Upstream::Plain(io), false, HttpLimits::default(), WINDOW).await.unwrap();
            assert_eq!((sender.current_max_send_streams(), begun.elapsed().as_millis()), (streams, waited.as_millis()));
        }
    }

    const PREFACE: usize = 24;
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS_FRAME: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// Reads until a frame of each kind has come.
    async fn until(server: &mut TcpStream, kinds: &[u8]) {
        let (mut head, mut kinds) = ([0; 9], kinds.to_vec());
        while !kinds.is_empty() {
            server.read_exact(&mut head).await.unwrap();
            kinds.retain(|kind| *kind != head[3]);
            let size = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            server.read_exact(&mut vec![0; size as usize]).await.unwrap();
        }
    }

    /// Answers 200, of the first request after its reset a byte in each of many frames, and of the second nothing more.
    async fn belated(mut server: TcpStream) {
        server.read_exact(&mut [0; PREFACE]).await.unwrap();
        let head = |flags: u8, stream: u8| frame(HEADERS, 4 | flags, stream, &[0x88]);
        until(&mut server, &[HEADERS]).await;
        server.write_all(&[frame(SETTINGS_FRAME, 0, 0, &[]), head(0, 1)].concat()).await.unwrap();
        until(&mut server, &[RST_STREAM, HEADERS]).await;
        server.write_all(&frame(DATA, 0, 1, b"x").repeat(60_000)).await.unwrap();
        server.write_all(&head(1, 3)).await.unwrap();
        // It reads to the end.
        let _ = server.read_to_end(&mut Vec::new()).await;
    }

    #[tokio::test]
    async fn small_frames_of_a_stream_that_is_over_leave_its_connection_to_others() {
        let asking = async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            spawn_local(belated(listener.accept().await.unwrap().0));
            let (mut sender, connection) =
                connect(Upstream::Plain(client), true, HttpLimits::default(), WINDOW).await.unwrap();
            spawn_local(async move {
                let _ = connection.await;
            });
            for _ in 0..2 {
                let request = http::Request::get("http://a/").body(()).unwrap();
                let (answer, _) = sender.send_request(request, true).unwrap();
                assert_eq!(answer.await.unwrap().status(), 200);
            }
        };
        LocalSet::new().run_until(asking).await;
    }

    #[test]
    fn what_differs_in_each_request_is_kept_out_of_the_table_once_its_name_is_there() {
        let named = Named::default();
        let kept_out = |names: &[&'static str]| -> Vec<bool> {
            let fields = names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("a")));
            let head = RequestHead::unread();
            let (request, _) = request(&head, fields.collect(), &named).unwrap();
            names.iter().map(|name| request.headers()[*name].is_sensitive()).collect()
        };
        assert_eq!(kept_out(&["user-agent", "traceparent"]), [false, false]);
        assert_eq!(kept_out(&["traceparent", "user-agent", "x-request-id"]), [true, false, false]);
        assert_eq!(kept_out(&["x-request-id", "traceparent"]), [true, true]);
        let mut secret = HeaderMap::from_iter([(HeaderName::from_static("b3"), HeaderValue::from_static("0"))]);
        secret.values_mut().for_each(|value| value.set_sensitive(true));
        named.keep_out(&mut secret);
        assert!(secret["b3"].is_sensitive(), "as its sender wants it");
    }
}
