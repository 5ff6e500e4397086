//! Bodies on their way into a stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http_body::Frame;

use crate::http::body::{BodyError, Timed};
use crate::http::fields;
use crate::http::held::{JOINED, SMALL};

/// Moves a body into a stream, no faster than its window opens. Only of a `hop`, where our own sidecar is the peer, how trailers were
/// written goes with them.
///
/// # Errors
/// The body broke off, or the peer reset the stream; the stream is reset then.
pub(crate) async fn pump<B>(send: &mut SendStream<Bytes>, mut body: Pin<&mut B>, hop: bool) -> Result<(), BodyError>
where
    B: Timed,
{
    let (mut sent, mut ahead) = (0, None);
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(reset) = send.poll_reset(cx) {
                return Poll::Ready(Some(Err(reset.map_or_else(BodyError::from, BodyError::Reset))));
            }
            ahead.take().map_or_else(|| body.as_mut().poll_frame(cx), Poll::Ready)
        })
        .await;
        let frame = match frame {
            None => return send.send_data(Bytes::new(), true).map_err(BodyError::from),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                // A reset takes the place of what the h2 crate has not written yet, perhaps the head: that goes first.
                tokio::task::yield_now().await;
                send.send_reset(reset_reason::<B>(&error));
                return Err(error);
            }
        };
        match frame.into_data() {
            Ok(mut data) => {
                if data.len() < SMALL {
                    ahead = poll_fn(|cx| Poll::Ready(join(body.as_mut(), &mut data, cx))).await;
                }
                let end = ahead.as_ref().map_or_else(|| body.is_end_stream(), Option::is_none);
                match send_data(send, body.as_mut(), data, end, &mut sent).await {
                    None if end => return Ok(()),
                    None => {}
                    instead => ahead = Some(instead),
                }
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    if !hop {
                        fields::strip_hop(&mut trailers);
                    }
                    return send.send_trailers(trailers).map_err(BodyError::from);
                }
            }
        }
    }
}

/// What a body has next; `None`: its end.
type Next = Option<Result<Frame<Bytes>, BodyError>>;

/// Appends to a small part those that are there already: a frame for each would cost both ends more than their bytes. Returns what
/// comes behind them, where that is there, too.
fn join<B: Timed>(mut body: Pin<&mut B>, data: &mut Bytes, cx: &mut Context<'_>) -> Option<Next> {
    let mut joined = BytesMut::new();
    let mut behind = None;
    while joined.len() < JOINED && !body.is_end_stream() {
        match body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(|more| more.len() < SMALL) => {
                if joined.is_empty() {
                    joined.extend_from_slice(data);
                }
                joined.extend_from_slice(&frame.into_data().unwrap_or_default());
            }
            Poll::Ready(next) => {
                behind = Some(next);
                break;
            }
            Poll::Pending => break,
        }
    }
    if !joined.is_empty() {
        *data = joined.freeze();
    }
    behind
}

fn reset_reason<B: Timed>(error: &BodyError) -> Reason {
    match error {
        BodyError::Reset(reason) => *reason,
        BodyError::Closed(_) => B::BROKEN_OFF,
        BodyError::Invalid(_) => Reason::INTERNAL_ERROR,
        BodyError::TimedOut | BodyError::Stalled(_) | BodyError::Retired => Reason::CANCEL,
    }
}

/// Sends a part of `body`, which may give up while the window is closed; what comes in place of the rest then.
async fn send_data<B: Timed>(
    send: &mut SendStream<Bytes>,
    mut body: Pin<&mut B>,
    mut data: Bytes,
    end: bool,
    sent: &mut u64,
) -> Next {
    loop {
        send.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| {
            if data.is_empty() || send.capacity() > 0 {
                return Poll::Ready(Ok(send.capacity()));
            }
            match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) | Poll::Pending => match send.poll_reset(cx) {
                    Poll::Ready(reset) => Poll::Ready(Err(Err(reset.map_or_else(BodyError::from, BodyError::Reset)))),
                    Poll::Pending => body.as_mut().poll_blocked(*sent, cx).map(Err),
                },
                Poll::Ready(Some(capacity)) => Poll::Ready(capacity.map_err(|error| Err(error.into()))),
                Poll::Ready(None) => Poll::Ready(Err(Err(BodyError::Reset(Reason::CANCEL)))),
            }
        })
        .await;
        let capacity = match capacity {
            Ok(capacity) => capacity,
            Err(instead) => return Some(instead),
        };
        let chunk = data.split_to(capacity.min(data.len()));
        *sent += chunk.len() as u64;
        let last = data.is_empty();
        if let Err(error) = send.send_data(chunk, end && last) {
            return Some(Err(error.into()));
        }
        if last {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::http::body::{Body, RequestBody};
    use crate::http::h1::parse::Limits;
    use crate::http::resend::Lent;
    use crate::telemetry::ByteCounter;

    /// Echoes bodies, which come from our own sidecar or not, to our own sidecar or not.
    async fn echo(io: tokio::io::DuplexStream, from: bool, to: bool) {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(stream) = connection.accept().await {
            let (request, mut respond) = stream.unwrap();
            let body = Body::from_h2(request.into_body(), from, Limits::default());
            let body = Lent::new(RequestBody::new(body, ByteCounter::default(), Duration::ZERO));
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            spawn_local(async move { pump(&mut send, pin!(body), to).await.unwrap() });
        }
    }

    #[tokio::test]
    async fn small_parts_that_are_there_are_sent_as_one_and_trailers_without_padding() {
        let passing = async {
            let (near, far) = tokio::io::duplex(1024);
            spawn_local(echo(far, false, false));
            let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
            spawn_local(connection);
            let (response, mut send) =
                sender.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
            for part in ["a", "b", "c"] {
                send.send_data(part.into(), false).unwrap();
            }
            let padded = HeaderValue::from_static(" 1\t");
            send.send_trailers(HeaderMap::from_iter([(HeaderName::from_static("x-a"), padded)])).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "abc");
            assert!(body.data().await.is_none());
            let trailers = body.trailers().await.unwrap().unwrap();
            assert_eq!((trailers.len(), trailers["x-a"].as_bytes()), (1, &b"1"[..]));
        };
        LocalSet::new().run_until(passing).await;
    }

    #[tokio::test]
    async fn how_trailers_were_written_is_between_our_own_sidecars() {
        let fields = [("x-a", "1"), ("x-remora-hop", "1.1;t"), ("content-length", "1")];
        let fields = fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let trailers = &HeaderMap::from_iter(fields);
        let passed = |from, to| async move {
            let (near, far) = tokio::io::duplex(1024);
            spawn_local(echo(far, from, to));
            let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
            spawn_local(connection);
            let request = Request::post("http://a/").body(()).unwrap();
            let (response, mut send) = sender.send_request(request, false).unwrap();
            send.send_trailers(trailers.clone()).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert!(body.data().await.is_none());
            let echoed = body.trailers().await.unwrap().unwrap();
            echoed.keys().map(HeaderName::to_string).collect::<Vec<_>>()
        };
        let passing = async {
            assert_eq!(passed(true, true).await, ["x-a", "x-remora-hop"]);
            for (from, to) in [(true, false), (false, true), (false, false)] {
                assert_eq!(passed(from, to).await, ["x-a"], "{from} {to}");
            }
        };
        LocalSet::new().run_until(passing).await;
    }
}
