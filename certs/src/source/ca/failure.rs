//! Why an authority gave nothing that can be used.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};

use crate::Error;
use crate::leaf::printable;

/// The longest text of a peer that is passed on, in characters.
const MAX_TEXT: usize = 300;

/// What was tried and why it failed. Never holds a key or a token.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot reach the certificate authority {address}: {reason}")]
    Connect { address: Arc<str>, reason: String },
    #[error("cannot reach the certificate authority {address}: TLS failed: {reason}")]
    Tls { address: Arc<str>, reason: String },
    #[error("the certificate authority {address} does not speak gRPC: it did not choose HTTP/2")]
    NotGrpc { address: Arc<str> },
    #[error("the certificate authority {address} did not answer within {} s", limit.as_secs())]
    Deadline { address: Arc<str>, limit: Duration },
    #[error("the connection to the certificate authority {address} broke: {reason}")]
    Broken { address: Arc<str>, reason: String },
    #[error("the certificate authority {address} refused ({code:?}): {reason}")]
    Refused { address: Arc<str>, code: Code, reason: String },
    #[error("the certificate authority {address} answered what cannot be used: {reason}")]
    Answer { address: Arc<str>, reason: Error },
    #[error("the certificate authority {address} answered without {missing}")]
    Incomplete { address: Arc<str>, missing: &'static str },
    #[error("the certificate authority {address} told the bundle of the trust domain {found}, not of ours")]
    ForeignBundle { address: Arc<str>, found: String },
    #[error("cannot read the token for the certificate authority: {0}")]
    Token(Error),
    #[error("the token for the certificate authority is empty, too long or not a token ({})", .0.display())]
    BadToken(std::path::PathBuf),
    #[error("cannot read the roots that vouch for the certificate authority: {0}")]
    Roots(Error),
    #[error("cannot make a key and a request for it: {0}")]
    Key(String),
}

impl Failure {
    pub(super) fn connect(address: &Arc<str>, error: &io::Error) -> Self {
        Self::Connect { address: Arc::clone(address), reason: plain(error) }
    }

    pub(super) fn status(address: &Arc<str>, status: &Status) -> Self {
        let address = Arc::clone(address);
        if status.source().is_some() {
            return Self::Broken { address, reason: causes(status) };
        }
        Self::Refused { address, code: status.code(), reason: foreign(status.message()) }
    }

    /// Whether the authority was there: it, or what is taken for it, turned us away.
    pub(super) fn is_of_peer(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::Broken { .. } | Self::Refused { .. })
    }

    /// The code of a refusal.
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// What the system says, without its number where it has a name.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) if error.kind().to_string() != io::ErrorKind::Other.to_string() => {
            let text = error.to_string();
            let end = text.find(" (os error").unwrap_or(text.len());
            text[..end].to_lowercase()
        }
        _ => foreign(&error.to_string()),
    }
}

/// The innermost cause says most.
pub(in crate::source) fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    foreign(&innermost.to_string())
}

/// Text of a peer as it may be logged.
pub(in crate::source) fn foreign(text: &str) -> String {
    printable(&text.chars().take(MAX_TEXT).collect::<String>())
}
