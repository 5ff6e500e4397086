//! What a request that got no answer proves of itself: whether it may be sent again.

use super::super::parse::InvalidHead;
use super::{Inner, Upload};
use crate::http::body::{BodyError, RequestBody};
use crate::socket;

/// A request that got no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) why: Why,
    /// Whether its server provably never had anything of it.
    pub(crate) unprocessed: bool,
    /// Its body, where it is still whole and the request may be sent again: its server never had it, or doing it twice changes
    /// nothing, as its route has it done, and it met a connection that its server had closed (RFC 9110 section 9.2.2).
    pub(crate) body: Option<RequestBody>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Why {
    /// The connection ended.
    #[error("{0}")]
    Closed(String),
    /// What came is no answer.
    #[error("{0}")]
    Invalid(InvalidHead),
    /// What came is no answer to this.
    #[error("{0}")]
    Misplaced(&'static str),
    /// The request itself broke off.
    #[error("{0}")]
    Request(BodyError),
}

impl Inner {
    /// The request under way gets no answer. It is `repeatable` where doing it twice changes nothing, and its route has that done.
    pub(super) fn unanswered(&mut self, why: Why, repeatable: bool) -> Unanswered {
        self.kept = false;
        let closed = matches!(why, Why::Closed(_));
        let unprocessed = closed && (self.written() == 0 || self.is_unreceived());
        let body = match unprocessed {
            true => self.take_body(),
            false => (closed && repeatable && self.used && !self.heard).then(RequestBody::empty),
        };
        Unanswered { why, unprocessed, body }
    }

    /// Whether the server had ended its side before it received anything of the request. Its system acknowledges with each segment
    /// what it has received until then (RFC 9293 section 3.1), with that of its end, too: who had anything of the request would
    /// have acknowledged it there. What a closed socket receives afterwards nobody reads, and a server that ended its side alone has
    /// left itself no way to answer (RFC 9112 section 9.6). A reset proves nothing: its acknowledgement is not heeded, and it may come
    /// from who had read all.
    fn is_unreceived(&self) -> bool {
        let unacknowledged = || socket::unacknowledged(self.wire.stream.tcp());
        self.used && self.ended && !self.heard && unacknowledged().is_ok_and(|count| count >= self.written())
    }

    /// Bytes of the request that the kernel was given.
    fn written(&self) -> u64 {
        match (self.wire.stream.sealed(), self.sealed) {
            (Some(now), Some(before)) => now - before,
            _ => self.output.written_bytes(),
        }
    }

    /// The body of the request, unless some of it is gone.
    fn take_body(&mut self) -> Option<RequestBody> {
        let rest = match self.upload.take() {
            Some(Upload { writer, .. }) if !writer.is_repeatable() => return None,
            Some(Upload { body, .. }) => body,
            None => RequestBody::empty(),
        };
        Some(rest.after(self.output.take_data()?))
    }
}
