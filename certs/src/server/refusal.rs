//! Why the authority says no: one stable word for metrics and the audit log, one gRPC status, one sentence for people.

use tonic::{Code, Status};

/// Why a request is refused. The word of each is part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Neither a bearer token nor a client certificate that may renew.
    NoCredentials,
    /// The token is not one of any kind that is accepted here.
    TokenMalformed,
    /// The token is larger than [`super::reviewer::MAX_TOKEN`].
    TokenTooLarge,
    /// The token has ended.
    TokenExpired,
    /// The token has not begun.
    TokenNotYetValid,
    /// The token was made for another audience.
    WrongAudience,
    /// Nobody here vouches for the token's issuer.
    WrongIssuer,
    /// The signature does not hold, or is of a kind that proves nothing.
    BadSignature,
    /// No key of the issuer has the token's key ID.
    UnknownKey,
    /// The token was judged by its issuer, and is not valid.
    TokenRejected,
    /// The join token was never made here, or is long forgotten.
    JoinTokenUnknown,
    /// The join token was used before.
    JoinTokenUsed,
    /// The join token has ended.
    JoinTokenExpired,
    /// Whom the token names has no identity in this mesh.
    NoIdentity,
    /// The client certificate may not be used for renewal.
    NotRenewable,
    /// The certificate signing request is not acceptable.
    BadCsr,
    /// The certificate signing request names somebody else.
    ForeignName,
    /// A field of the request is out of bounds.
    BadRequest,
    /// The caller asks too often.
    CallerRate,
    /// Too many refusals for this peer address.
    PeerRate,
    /// Too many watchers.
    Watchers,
    /// Whoever judges the token cannot be reached.
    ReviewerUnavailable,
    /// The signing certificate is not valid now.
    SignerNotValid,
    /// The authority's state cannot be read or written.
    StoreUnavailable,
    /// It took too long.
    Deadline,
}

impl Reason {
    /// The value of the label `reason`.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::TokenMalformed => "token_malformed",
            Self::TokenTooLarge => "token_too_large",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::WrongAudience => "wrong_audience",
            Self::WrongIssuer => "wrong_issuer",
            Self::BadSignature => "bad_signature",
            Self::UnknownKey => "unknown_key",
            Self::TokenRejected => "token_rejected",
            Self::JoinTokenUnknown => "join_token_unknown",
            Self::JoinTokenUsed => "join_token_used",
            Self::JoinTokenExpired => "join_token_expired",
            Self::NoIdentity => "no_identity",
            Self::NotRenewable => "not_renewable",
            Self::BadCsr => "bad_csr",
            Self::ForeignName => "foreign_name",
            Self::BadRequest => "bad_request",
            Self::CallerRate => "caller_rate",
            Self::PeerRate => "peer_rate",
            Self::Watchers => "watchers",
            Self::ReviewerUnavailable => "reviewer_unavailable",
            Self::SignerNotValid => "signer_not_valid",
            Self::StoreUnavailable => "store_unavailable",
            Self::Deadline => "deadline",
        }
    }

    /// The gRPC status code of the answer.
    pub fn code(self) -> Code {
        match self {
            Self::NoCredentials
            | Self::TokenMalformed
            | Self::TokenTooLarge
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::WrongAudience
            | Self::WrongIssuer
            | Self::BadSignature
            | Self::UnknownKey
            | Self::TokenRejected
            | Self::JoinTokenUnknown
            | Self::JoinTokenUsed
            | Self::JoinTokenExpired => Code::Unauthenticated,
            Self::NoIdentity | Self::NotRenewable | Self::ForeignName => Code::PermissionDenied,
            Self::BadCsr | Self::BadRequest => Code::InvalidArgument,
            Self::CallerRate | Self::PeerRate | Self::Watchers => Code::ResourceExhausted,
            Self::ReviewerUnavailable | Self::SignerNotValid | Self::StoreUnavailable => Code::Unavailable,
            Self::Deadline => Code::DeadlineExceeded,
        }
    }

    /// Whether it counts against the peer's address: whoever guesses gets it, a caller in good standing does not.
    pub fn is_guess(self) -> bool {
        self.code() == Code::Unauthenticated
            || matches!(self, Self::BadCsr | Self::BadRequest | Self::NoIdentity | Self::NotRenewable)
    }
}

/// A refusal: the reason and what to tell. Never holds a token, nor any part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.word())]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// The same for people, caller and operator alike.
    pub detail: String,
}

impl Refused {
    /// Joins the two.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// What the caller is told.
    pub fn status(&self) -> Status {
        Status::new(self.reason.code(), self.to_string())
    }
}
