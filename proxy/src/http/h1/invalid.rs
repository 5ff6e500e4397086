//! Why heads are refused.

use http::StatusCode;

use super::parse::Limits;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHead {
    /// More bytes than the limit.
    #[error("head longer than {0} bytes")]
    TooLarge(usize),
    /// More than an endpoint that speaks HTTP/2 takes (RFC 9113 section 6.5.2).
    #[error("head of {bytes} bytes, where its endpoint takes {most} by its SETTINGS_MAX_HEADER_LIST_SIZE")]
    BeyondEndpoint {
        /// What its fields take.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// The request line alone is more than the limit.
    #[error("request line longer than {0} bytes")]
    LineTooLong(usize),
    /// More field lines than the limit.
    #[error("more than {0} header fields")]
    TooManyFields(usize),
    /// A line that does not end with CRLF.
    #[error("a line that does not end with CRLF")]
    LineEnd,
    /// Not a method, a target and a version between single spaces.
    #[error("invalid request line")]
    RequestLine,
    /// Not a version and a status.
    #[error("invalid status line")]
    StatusLine,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("unsupported HTTP version")]
    Version,
    /// The target is none, or not one for this method.
    #[error("invalid request target")]
    Target,
    /// A field name that is no token, or no colon right behind it.
    #[error("invalid header field name")]
    FieldName,
    /// A control character in a field value, or a folded one.
    #[error("invalid header field value")]
    FieldValue,
    /// HTTP/1.1 without Host.
    #[error("no Host header")]
    NoHost,
    /// More than one Host.
    #[error("more than one Host header")]
    Hosts,
    /// Host is no authority.
    #[error("invalid Host header")]
    Host,
    /// Content-Length is no number, or there are several.
    #[error("invalid Content-Length")]
    ContentLength,
    /// Transfer-Encoding does not end with one `chunked`, or comes with HTTP/1.0.
    #[error("invalid Transfer-Encoding")]
    TransferEncoding,
    /// A transfer coding other than `chunked`.
    #[error("unknown transfer coding")]
    UnknownCoding,
    /// Both Content-Length and Transfer-Encoding.
    #[error("both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// 101 to a request that asked for nothing.
    #[error("101 to a request that did not ask to upgrade")]
    Unasked,
    /// A body where the status allows none.
    #[error("a body with a status that has none")]
    Bodiless,
}

impl InvalidHead {
    /// The status that answers such a request.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) | Self::BeyondEndpoint { .. } | Self::TooManyFields(_) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::LineTooLong(_) => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The reason as metrics count it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::BeyondEndpoint { .. } => "head_too_large",
            Self::LineTooLong(_) => "request_line_too_long",
            Self::TooManyFields(_) => "too_many_headers",
            Self::LineEnd => "line_end",
            Self::RequestLine => "request_line",
            Self::StatusLine => "status_line",
            Self::Version => "version",
            Self::Target => "target",
            Self::FieldName => "header_name",
            Self::FieldValue => "header_value",
            Self::NoHost => "no_host",
            Self::Hosts => "several_hosts",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::UnknownCoding => "unknown_coding",
            Self::TwoLengths => "two_lengths",
            Self::Unasked => "unasked_101",
            Self::Bodiless => "body_not_allowed",
        }
    }

    pub(super) fn from_parser(error: httparse::Error, line: Self, limits: &Limits) -> Self {
        match error {
            httparse::Error::HeaderName => Self::FieldName,
            httparse::Error::HeaderValue => Self::FieldValue,
            httparse::Error::NewLine => Self::LineEnd,
            httparse::Error::TooManyHeaders => Self::TooManyFields(limits.headers),
            httparse::Error::Status | httparse::Error::Token | httparse::Error::Version => line,
        }
    }
}
