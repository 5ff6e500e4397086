//! A response's body on its way downstream, to its last frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::Active;
use crate::Error;
use crate::http::body::{Body, BodyError, Timed};
use crate::http::fields;
use crate::http::stall::Stall;
use crate::signal::Reaches;
use crate::telemetry::{AttemptTelemetry, RequestTelemetry};
use crate::upstream::{self, Bound, Upgrade};

/// When a request's time is up, and what it is told then.
#[derive(Debug)]
pub(super) struct Timeout {
    sleep: Pin<Box<Sleep>>,
    bound: Bound,
    cluster: Arc<str>,
}

impl Timeout {
    pub(super) fn new(bound: Bound, cluster: Arc<str>) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(bound.next())), bound, cluster }
    }

    /// Whether it is over, though its timer may say so only later. What fails behind it has failed of it: a server that knows the
    /// deadline too ends its answer at the same time.
    fn is_over(&self) -> bool {
        self.bound.is_over()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.is_over() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.bound.next());
        }
        Poll::Pending
    }
}

/// The guards of one exchange; they end with the response body.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) telemetry: RequestTelemetry,
    pub(super) attempt: Option<AttemptTelemetry>,
    pub(super) _active: Active,
    pub(super) timeout: Option<Timeout>,
}

/// Of a stream: why it may end before its answer was sent, and how that is said.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// The end of its connection's grace.
    pub(super) over: Option<Reaches<bool>>,
    /// By trailers, with a status of gRPC.
    pub(super) trailers: bool,
}

/// Whether it has come; the task hears of it otherwise.
pub(super) fn has_come(over: &mut Option<Reaches<bool>>, cx: &mut Context<'_>) -> bool {
    over.as_mut().is_some_and(|over| Pin::new(over).poll(cx).is_ready())
}

/// A response body on its way downstream. Carries the guards of its request, and the upstream connection it comes from,
/// which goes back to its pool at the last frame.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: Body,
    exchange: Option<Exchange>,
    early: Early,
    lease: Option<upstream::Lease>,
    pub(super) upgrade: Option<Box<Upgrade>>,
    pub(super) reset: Option<h2::Reason>,
    stall: Stall,
}

impl ResponseBody {
    pub(super) fn new(
        body: Body,
        exchange: Exchange,
        early: Early,
        lease: Option<upstream::Lease>,
        idle: Duration,
    ) -> Self {
        let stall = Stall::new(idle);
        let mut this = Self { body, exchange: Some(exchange), early, lease, upgrade: None, reset: None, stall };
        if this.body.is_end_stream() {
            this.complete();
        }
        this
    }

    /// The upstream's side of a connection that leaves HTTP; `None` where it does not.
    pub(crate) fn take_upgrade(&mut self) -> Option<Box<Upgrade>> {
        self.upgrade.take()
    }

    /// With what the upstream reset the stream instead of answering: HTTP/2 can say it as it is.
    pub(crate) fn reset(&self) -> Option<h2::Reason> {
        self.reset
    }

    /// Whether it ended, well or not.
    pub(crate) fn is_over(&self) -> bool {
        self.exchange.is_none()
    }

    /// Whether its request is sent no further than its own end. HTTP/2, and so another sidecar, says that only there.
    pub(crate) fn ends_upload(&self) -> bool {
        matches!(&self.body, Body::H1Response(body) if !body.is_kept())
    }

    /// It ended well.
    pub(crate) fn complete(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.reuse();
        }
        if let Some(mut exchange) = self.exchange.take() {
            if let Some(attempt) = exchange.attempt.take() {
                attempt.complete();
            }
            exchange.telemetry.complete();
        }
    }

    /// What it broke off of: its time may be over, or a connection of ours that had its grace ended under it.
    fn cause(&self, error: BodyError) -> BodyError {
        let timeout = self.exchange.as_ref().and_then(|exchange| exchange.timeout.as_ref());
        match error {
            _ if timeout.is_some_and(Timeout::is_over) => BodyError::TimedOut,
            BodyError::Closed(_) if self.lease.as_ref().is_some_and(upstream::Lease::is_retired) => BodyError::Retired,
            error => error,
        }
    }

    /// The end of an exchange that broke off: truncation must be seen downstream, for gRPC as a status.
    fn fail(&mut self, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        self.lease = None;
        self.body = Body::Empty;
        let exchange = self.exchange.take();
        let error_for_client = broken(&error, exchange.as_ref().and_then(|exchange| exchange.timeout.as_ref()));
        // All of it may have come, and wait for room.
        if let Some(mut exchange) = exchange {
            if let Some(mut attempt) = exchange.attempt.take() {
                attempt.failed(&error_for_client);
            }
            exchange.telemetry.failed(&error_for_client);
        }
        if self.early.trailers && !matches!(error, BodyError::Reset(_)) {
            return Ok(Frame::trailers(fields::grpc_trailers(&error_for_client)));
        }
        Err(error)
    }
}

fn broken(error: &BodyError, timeout: Option<&Timeout>) -> Error {
    match (error, timeout) {
        (BodyError::TimedOut, Some(timeout)) => {
            Error::RequestTimeout { cluster: timeout.cluster.clone(), timeout: timeout.bound.timeout }
        }
        (BodyError::Retired, _) => Error::Retired,
        (BodyError::Stalled(timeout), _) => Error::IdleTimeout(*timeout),
        (BodyError::Reset(code), _) => Error::ResponseReset(*code),
        _ => Error::ResponseTruncated(error.to_string()),
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(Exchange { timeout: Some(timeout), .. }) = &mut this.exchange
            && timeout.poll(cx).is_ready()
        {
            return Poll::Ready(Some(this.fail(BodyError::TimedOut)));
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(frame)) => frame,
            Poll::Ready(None) => {
                this.complete();
                return Poll::Ready(None);
            }
            Poll::Pending if has_come(&mut this.early.over, cx) => {
                return Poll::Ready(Some(this.fail(BodyError::Retired)));
            }
            Poll::Pending => return Poll::Pending,
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                let error = this.cause(error);
                return Poll::Ready(Some(this.fail(error)));
            }
        };
        if let Some(exchange) = &mut this.exchange {
            if let Some(data) = frame.data_ref() {
                exchange.telemetry.response_bytes(data.len());
            } else if let Some(trailers) = frame.trailers_ref() {
                exchange.telemetry.grpc_status(trailers);
                if let Some(attempt) = &mut exchange.attempt {
                    attempt.grpc_status(trailers);
                }
            }
        }
        if frame.is_trailers() || this.body.is_end_stream() {
            this.complete();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Timed for ResponseBody {
    const BROKEN_OFF: h2::Reason = h2::Reason::INTERNAL_ERROR;

    fn poll_blocked(
        mut self: Pin<&mut Self>,
        sent: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Frame<Bytes>, BodyError>> {
        // A client that takes nothing of the answer may still be sending.
        let received = self.exchange.as_ref().map_or(0, |exchange| exchange.telemetry.request_bytes());
        let timeout = self.exchange.as_mut().and_then(|exchange| exchange.timeout.as_mut());
        let error = match timeout.map(|timeout| timeout.poll(cx)) {
            Some(Poll::Ready(())) => BodyError::TimedOut,
            _ if self.stall.poll(sent + received, cx).is_ready() => BodyError::Stalled(self.stall.timeout()),
            _ => match self.body.poll_blocked(cx) {
                Poll::Ready(error) => error,
                Poll::Pending if has_come(&mut self.early.over, cx) => BodyError::Retired,
                Poll::Pending => return Poll::Pending,
            },
        };
        let last = self.fail(error.clone());
        // A reset keeps nothing for a client that takes nothing. Where its whole connection ends there is no need of that.
        match error {
            BodyError::Retired => Poll::Ready(last),
            error => Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_time_is_over_before_its_timer_is_asked() {
        let timeout = Duration::from_millis(1);
        let time = Timeout::new(Bound::from_now(timeout), "a".into());
        assert!(!time.is_over());
        tokio::time::advance(timeout).await;
        assert!(time.is_over() && !time.sleep.is_elapsed());
    }
}
