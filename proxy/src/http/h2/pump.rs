//! Bodies on their way into a stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, SendStream};

use crate::http::body::{BodyError, Timed};

/// Moves a body into a stream, no faster than its window opens.
///
/// # Errors
/// The body broke off, or the peer reset the stream; the stream is reset then.
pub(crate) async fn pump<B>(send: &mut SendStream<Bytes>, mut body: Pin<&mut B>) -> Result<(), BodyError>
where
    B: Timed,
{
    let mut sent = 0;
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(reset) = send.poll_reset(cx) {
                return Poll::Ready(Some(Err(reset.map_or_else(BodyError::from, BodyError::Reset))));
            }
            body.as_mut().poll_frame(cx)
        })
        .await;
        let frame = match frame {
            None => return send.send_data(Bytes::new(), true).map_err(BodyError::from),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                // A reset takes the place of what the h2 crate has not written yet, perhaps the head: that goes first.
                tokio::task::yield_now().await;
                send.send_reset(reset_reason(&error));
                return Err(error);
            }
        };
        match frame.into_data() {
            Ok(data) => {
                let end = body.is_end_stream();
                if let Err(error) = send_data(send, body.as_mut(), data, end, &mut sent).await {
                    send.send_reset(reset_reason(&error));
                    return Err(error);
                }
                if end {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return send.send_trailers(trailers).map_err(BodyError::from);
                }
            }
        }
    }
}

fn reset_reason(error: &BodyError) -> Reason {
    match error {
        BodyError::Reset(reason) => *reason,
        BodyError::Closed(_) | BodyError::Invalid(_) => Reason::INTERNAL_ERROR,
        BodyError::TimedOut | BodyError::Stalled(_) => Reason::CANCEL,
    }
}

/// Sends a part of `body`, which may give up while the window is closed.
async fn send_data<B: Timed>(
    send: &mut SendStream<Bytes>,
    mut body: Pin<&mut B>,
    mut data: Bytes,
    end: bool,
    sent: &mut u64,
) -> Result<(), BodyError> {
    loop {
        send.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| {
            if data.is_empty() || send.capacity() > 0 {
                return Poll::Ready(Ok(send.capacity()));
            }
            match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) | Poll::Pending => match send.poll_reset(cx) {
                    Poll::Ready(reset) => Poll::Ready(Err(reset.map_or_else(BodyError::from, BodyError::Reset))),
                    Poll::Pending => body.as_mut().poll_blocked(*sent, cx).map(Err),
                },
                Poll::Ready(Some(capacity)) => Poll::Ready(capacity.map_err(BodyError::from)),
                Poll::Ready(None) => Poll::Ready(Err(BodyError::Reset(Reason::CANCEL))),
            }
        })
        .await?;
        let chunk = data.split_to(capacity.min(data.len()));
        *sent += chunk.len() as u64;
        let last = data.is_empty();
        send.send_data(chunk, end && last)?;
        if last {
            return Ok(());
        }
    }
}
