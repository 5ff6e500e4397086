//! Informational responses (RFC 9110 section 15.2) on their way to the client, ahead of the answer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use http::StatusCode;

use super::fields;
use super::head::ResponseHead;

/// How many one request may be answered with.
const MOST: u32 = 2_000;
/// Bytes of their fields together: HTTP/2 has no window for heads, so a client that reads nothing would not stop them.
const MOST_BYTES: usize = 256 * 1024;

/// Where an exchange leaves the informational responses of its upstream. Whoever drives the exchange passes them on
/// after each turn, in order and before the answer.
#[derive(Debug, Default)]
pub(crate) struct Informational {
    heads: RefCell<VecDeque<ResponseHead>>,
    count: Cell<u32>,
    bytes: Cell<usize>,
}

impl Informational {
    /// One more is to be passed on; `false`: that is too many, or a 101, which is an answer and in HTTP/2 no word at all (RFC 9113
    /// section 8.6): its client would take what follows for another protocol.
    pub(crate) fn push(&self, mut head: ResponseHead) -> bool {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return false;
        }
        fields::strip_hop_by_hop(&mut head.headers);
        let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        self.count.set(self.count.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        self.heads.borrow_mut().push_back(head);
        self.count.get() <= MOST && self.bytes.get() <= MOST_BYTES
    }

    /// The next that was not passed on yet.
    pub(crate) fn pop(&self) -> Option<ResponseHead> {
        self.heads.borrow_mut().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Version, header};

    use super::*;

    fn head(status: StatusCode, link: &str) -> ResponseHead {
        let headers = HeaderMap::from_iter([(header::LINK, HeaderValue::from_str(link).unwrap())]);
        ResponseHead { status, version: Version::HTTP_2, headers, spelling: Default::default() }
    }

    #[test]
    fn what_is_passed_on_is_bounded_and_never_switches_protocols() {
        assert!(!Informational::default().push(head(StatusCode::SWITCHING_PROTOCOLS, "")));
        let all = Informational::default();
        let mut theirs = head(StatusCode::EARLY_HINTS, "a");
        fields::mark_undelivered(&mut theirs.headers);
        assert!(all.push(theirs));
        assert_eq!(all.pop().unwrap().headers.len(), 1, "the hop's field is ours to say");
        let passed = |link: &str| {
            let all = Informational::default();
            let passed = (0..).take_while(|_| all.push(head(StatusCode::EARLY_HINTS, link))).count();
            assert!(all.pop().is_some());
            passed
        };
        assert_eq!(passed("a"), MOST as usize);
        assert_eq!(passed(&"a".repeat(MOST_BYTES / 4)), 3);
    }
}
