//! Why a handshake failed: one word for metrics, one sentence for people.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use remora_certs::VerifyError;
use remora_certs::verify::verify_error_in;
use remora_model::SpiffeId;
use rustls::{AlertDescription, Error as RustlsError};

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TlsError {
    /// As metrics count it: a word of [`VerifyError::reason`], or `protocol`, `timeout`, `closed`.
    pub reason: &'static str,
    /// What happened, in words, with the identities of both sides where they are known.
    pub message: String,
}

impl TlsError {
    /// There is no certificate of our own to show.
    pub fn no_identity() -> Self {
        Self { reason: "no_certificate", message: "this workload has no certificate of its own yet".into() }
    }

    pub(super) fn internal(error: &dyn Display) -> Self {
        Self { reason: "protocol", message: format!("TLS cannot be set up: {error}") }
    }

    pub(super) fn timeout(bound: Duration) -> Self {
        Self { reason: "timeout", message: format!("the handshake took longer than {bound:.1?}") }
    }

    /// The peer is not who it must be; `own` is who we are.
    pub(super) fn refused(error: &VerifyError, own: &SpiffeId) -> Self {
        Self { reason: error.reason(), message: format!("{error} (we are {own})") }
    }

    /// A handshake ended with `error`; `own` is who we are.
    pub(super) fn handshake(error: &io::Error, own: Option<&SpiffeId>) -> Self {
        let we_are = own.map(|own| format!(" (we are {own})")).unwrap_or_default();
        if let Some(refused) = verify_error_in(error) {
            return Self { reason: refused.reason(), message: format!("{refused}{we_are}") };
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(RustlsError::AlertReceived(alert)) => Self {
                reason: alert_reason(*alert),
                message: format!("the peer refused the handshake: {alert:?}{we_are}"),
            },
            Some(error) => Self { reason: "protocol", message: format!("TLS failed: {error}") },
            None => Self { reason: "closed", message: format!("the peer closed during the handshake: {error}") },
        }
    }
}

/// The peer's alert (RFC 8446 section 6.2) in the words that our own refusals have.
fn alert_reason(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::CertificateExpired => "expired",
        AlertDescription::CertificateRevoked => "revoked",
        AlertDescription::CertificateRequired => "no_certificate",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => "bad_certificate",
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => "closed",
        _ => "protocol",
    }
}
