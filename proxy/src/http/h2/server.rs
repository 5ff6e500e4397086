//! A client's connection: its streams, and how it ends.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http_body::Body as _;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::pump::pump;
use super::received::request_parts;
use super::streams::{Open, Streams};
use super::uploads::Windows;
use super::watched::Watched;
use super::{MAX_STREAMS, SEND_BUFFER, SHARED_FRAMES, block_bytes, field_limits, read_bytes};
use crate::Error;
use crate::drain::Drain;
use crate::http::body::Body;
use crate::http::fields;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::informational::Informational;
use crate::io::{Downstream, Replay};
use crate::request::{HttpConnection, ResponseBody};

/// Streams that the h2 crate resets by itself before it ends the connection: room for a client that opens many before it has heard
/// how many it may.
const RESETS: usize = 2048;
/// How long a connection without streams may take to end after it was asked to.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long the last GOAWAY may take to be written.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Bound of the client's preface.
const PREFACE: Duration = Duration::from_secs(10);

/// Serves a downstream connection until it ends. A drain announces itself by GOAWAY and lets open streams finish.
///
/// # Errors
/// The peer broke the protocol, or the connection broke.
pub(crate) async fn serve(
    io: Replay<Downstream>,
    connection: Rc<HttpConnection>,
    drain: Drain,
) -> Result<(), h2::Error> {
    let hop = connection.is_hop();
    let blocks = block_bytes(&field_limits(&connection.limits(), hop), hop);
    let io = Watched::downstream(io, blocks, connection.counts().clone());
    let progress = io.progress();
    let mut windows =
        Windows::new(connection.uploads().clone(), connection.limits().stream_window, connection.counts().clone());
    let handshake = builder(&connection, windows.first()).handshake::<_, Bytes>(io);
    let Ok(h2) = tokio::time::timeout(PREFACE, handshake).await else {
        tracing::debug!("no HTTP/2 preface in time");
        connection.counts().violation("preface_timeout");
        return Ok(());
    };
    let mut h2 = h2.map_err(|error| told(&connection, error))?;
    let mut over = pin!(drain.over());
    let outlived = drain.outlived();
    let mut ends = pin!(async {
        tokio::select! {
            () = drain.signaled() => {}
            () = outlived => {}
            () = connection.idle() => {}
        }
    });
    let mut ending = false;
    // Of a stream whose request is over an answer may still wait for its window, or in the h2 crate.
    let streams = Streams::new(connection.clone(), progress);
    let mut farewell = pin!(tokio::time::sleep(FAREWELL));
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| poll_streams(&mut h2, &streams, &mut windows, cx)) => match ended {
                Ok(Ended::Over) => return Ok(()),
                Ok(Ended::Abused(how)) => {
                    connection.counts().violation(how);
                    return end(&mut h2, Reason::ENHANCE_YOUR_CALM).await;
                }
                Err(error) => return Err(told(&connection, error)),
            },
            () = &mut ends, if !ending => {
                h2.graceful_shutdown();
                ending = true;
                farewell.as_mut().reset(Instant::now() + FAREWELL);
            }
            () = &mut farewell, if ending => {
                // Who does not even read that it is over is not waited for, but who reads is.
                if streams.progress.is_over() && streams.are_over() {
                    connection.counts().violation("not_read");
                    return Ok(());
                }
                farewell.as_mut().reset(Instant::now() + FAREWELL);
            }
            () = &mut over => {
                // Each stream had its grace, and says that this is why it ends.
                connection.retire();
                if !ending {
                    h2.graceful_shutdown();
                }
                let said = poll_fn(|cx| poll_streams(&mut h2, &streams, &mut windows, cx));
                return match tokio::time::timeout(LAST_WORD, said).await {
                    Ok(ended) => ended.map(drop).map_err(|error| told(&connection, error)),
                    Err(_) => end(&mut h2, Reason::NO_ERROR).await,
                };
            }
        }
    }
}

/// What the client is told of its bounds; of a stream's `window`, in bytes, that of now. The connection's has room for a hundred of the widest.
fn builder(connection: &HttpConnection, window: u32) -> h2::server::Builder {
    let limits = connection.limits();
    let mut builder = h2::server::Builder::new();
    if connection.extends_connect() {
        builder.enable_connect_protocol();
    }
    if connection.is_hop() {
        builder.data_frame_budget(SHARED_FRAMES);
    }
    builder
        .initial_window_size(window)
        .initial_connection_window_size(MAX_STREAMS * limits.stream_window)
        .max_concurrent_streams(limits.streams)
        // Up to as much is answered 431. One beyond ends in a reset, one far beyond ends the connection.
        .max_header_list_size(read_bytes(&field_limits(&limits, connection.is_hop()), connection.is_hop()))
        .max_local_error_reset_streams(Some(RESETS))
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

type Server = h2::server::Connection<Watched<Replay<Downstream>>, Bytes>;

/// Why no stream comes any more.
enum Ended {
    /// It is closed.
    Over,
    /// Its client takes back most of what it asks, or sends what is far too large or means nothing; as metrics count it.
    Abused(&'static str),
}

/// Begins to serve each stream that comes, in a task of its own.
fn poll_streams(
    h2: &mut Server,
    streams: &Rc<Streams>,
    windows: &mut Windows,
    cx: &mut Context<'_>,
) -> Poll<Result<Ended, h2::Error>> {
    // A request is moved as little as can be: straight into its task.
    while let Poll::Ready(accepted) = windows.poll_accept(h2, cx) {
        let Some(accepted) = accepted else { return Poll::Ready(Ok(Ended::Over)) };
        let (request, mut respond) = accepted?;
        let connection = &streams.connection;
        if streams.progress.abuse().is_some() {
            break;
        }
        if connection.is_abused() {
            return Poll::Ready(Ok(Ended::Abused("too_many_resets")));
        }
        let (head, size, mut body) = request_parts(request, &streams.limits, connection.is_hop());
        let Some(open) = streams.open(size) else {
            connection.counts().violation("too_many_heads");
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        };
        if let Ok(Body::H2(body)) = &mut body {
            body.is_upload(windows.upload());
        }
        // Boxed: the runtime moves a task's future several times. It is made where it stays: it is large.
        let place = Box::new_uninit();
        let serving = Box::write(place, serve_stream(open, head, body, respond));
        spawn_local(Box::into_pin(serving));
    }
    streams.progress.abuse().map_or(Poll::Pending, |how| Poll::Ready(Ok(Ended::Abused(how))))
}

/// Ends a connection at once, and says why if that can be written soon.
async fn end(h2: &mut Server, reason: Reason) -> Result<(), h2::Error> {
    h2.abrupt_shutdown(reason);
    let _ = tokio::time::timeout(LAST_WORD, poll_fn(|cx| h2.poll_closed(cx))).await;
    Ok(())
}

/// Counts what ended a connection, where its client broke it.
fn told(connection: &HttpConnection, error: h2::Error) -> h2::Error {
    if let Some(violation) = violation(&error) {
        connection.counts().violation(violation);
    }
    error
}

/// What ended a connection that its client broke, as metrics count it.
fn violation(error: &h2::Error) -> Option<&'static str> {
    if error.is_remote() || error.is_io() {
        return None;
    }
    Some(match error.reason()? {
        Reason::NO_ERROR => return None,
        Reason::ENHANCE_YOUR_CALM => "h2_calm",
        Reason::PROTOCOL_ERROR => "h2_protocol",
        Reason::FLOW_CONTROL_ERROR => "h2_flow_control",
        Reason::STREAM_CLOSED => "h2_stream_closed",
        Reason::FRAME_SIZE_ERROR => "h2_frame_size",
        Reason::COMPRESSION_ERROR => "h2_compression",
        _ => "h2_other",
    })
}

async fn serve_stream(
    open: Open,
    head: Box<RequestHead>,
    body: Result<Body, Error>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let connection = open.connection();
    let body = match body {
        Ok(body) => body,
        // It may be well-formed, but is too large to look.
        Err(error @ Error::InvalidHead(_)) => {
            connection.cut_short();
            let (head, body) = connection.refuse(head, error);
            return answer(respond, head, pin!(body), connection.is_hop()).await;
        }
        // Malformed: a stream error, whatever else is said (RFC 9113 section 8.1.1).
        Err(error) => {
            connection.cut_short();
            drop(connection.refuse(head, error));
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
    };
    let informational = Informational::default();
    let answered = {
        let mut handled = pin!(connection.handle(head, body, &informational));
        poll_fn(|cx| {
            let answer = handled.as_mut().poll(cx);
            while let Some(mut head) = informational.pop() {
                if connection.is_hop() {
                    fields::mark_spelling(&mut head);
                }
                // Fails only for a stream that is gone, which is told next.
                let _ = respond.send_informational(response(head));
            }
            // A client that gave up cancels the upstream too: dropping the future resets its stream. It may be why there is an answer.
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            answer.map(Some)
        })
        .await
    };
    open.answered();
    match answered {
        Some((head, body)) => answer(respond, head, pin!(body), connection.is_hop()).await,
        None => connection.cut_short(),
    }
}

async fn answer(
    mut respond: h2::server::SendResponse<Bytes>,
    head: ResponseHead,
    mut body: Pin<&mut ResponseBody>,
    hop: bool,
) {
    if let Some(reason) = body.reset() {
        return respond.send_reset(reason);
    }
    let end = body.is_end_stream();
    let Ok(mut send) = respond.send_response(response(head), end) else { return };
    if !end {
        // The guards in the body record how it ended.
        let _ = pump(&mut send, body.as_mut(), hop).await;
    }
}

fn response(head: ResponseHead) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}
