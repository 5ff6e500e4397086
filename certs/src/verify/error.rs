//! Why a peer's chain was refused: one stable word for metrics, one sentence for people, and the way of both through
//! the TLS library's own error type.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use remora_model::{InvalidSpiffeId, SpiffeId, TrustDomain};
use rustls::{CertificateError, Error as TlsError, OtherError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::Error as PathError;

use super::{PeerRole, system_time};

/// Why a certificate chain is not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The peer showed nothing.
    #[error("no certificate was presented")]
    NoCertificate,
    /// No trusted root signed the chain.
    #[error("the certificate was not issued by a CA of the trust bundle")]
    UnknownCa,
    /// A certificate of the chain is past its end.
    #[error("the certificate expired at {}; our clock says {}", Clock(not_after), Clock(now))]
    Expired {
        /// The end of its validity.
        not_after: SystemTime,
        /// The time it was judged at.
        now: SystemTime,
    },
    /// A certificate of the chain is before its beginning.
    #[error("the certificate is not valid before {}; our clock says {}", Clock(not_before), Clock(now))]
    NotYetValid {
        /// The beginning of its validity.
        not_before: SystemTime,
        /// The time it was judged at.
        now: SystemTime,
    },
    /// The leaf's SPIFFE ID belongs to a trust domain we have no roots for; who signed it does not matter.
    #[error("{found} is not in the trust domain {}", Alternatives(trusted))]
    WrongTrustDomain {
        /// The identity shown.
        found: SpiffeId,
        /// The trust domains accepted here; not empty.
        trusted: Vec<TrustDomain>,
    },
    /// The issuer has taken back a certificate of the chain.
    #[error("the certificate{} has been revoked by its issuer", Serial(serial.as_deref()))]
    Revoked {
        /// Its serial number, lower-case hexadecimal; [`None`] where the TLS library did not carry it on.
        serial: Option<String>,
    },
    /// A valid SVID, but of another workload than the one expected here.
    #[error("the peer is {found}, expected {}", Alternatives(expected))]
    WrongIdentity {
        /// The identity shown.
        found: SpiffeId,
        /// The identities accepted here; not empty.
        expected: Vec<SpiffeId>,
    },
    /// The leaf does not have exactly one URI that is a SPIFFE ID.
    #[error("{0}")]
    InvalidSpiffeId(SanDefect),
    /// The certificate breaks another rule.
    #[error("{0}")]
    BadCertificate(Defect),
}

/// What is wrong with a leaf's URI names.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SanDefect {
    /// There is none.
    #[error("the certificate has no URI name, so no SPIFFE ID")]
    NoUri,
    /// There are several.
    #[error("the certificate has several URI names; an X.509-SVID has exactly one")]
    SeveralUris,
    /// It is not a SPIFFE ID.
    #[error("the certificate's URI \"{uri}\" is not a SPIFFE ID: {reason}")]
    NotSpiffe {
        /// The URI, with control characters escaped.
        uri: String,
        /// The rule it breaks.
        reason: InvalidSpiffeId,
    },
}

/// What else can be wrong with a certificate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// Not decodable as X.509, or an extension is.
    #[error("the certificate is malformed")]
    Malformed,
    /// The leaf says it is a CA.
    #[error("the certificate is a CA's, not a workload's")]
    CaAsLeaf,
    /// The leaf's key may sign certificates or revocation lists.
    #[error("the certificate's key usage lets it sign certificates")]
    LeafMaySign,
    /// The leaf's key may not sign handshakes.
    #[error("the certificate's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// The extended key usage lacks the peer's role, or is absent.
    #[error("the certificate's extended key usage lacks {}", match .0 { PeerRole::Client => "clientAuth", PeerRole::Server => "serverAuth" })]
    ExtendedKeyUsage(PeerRole),
    /// A CA of the chain may not issue this name.
    #[error("a CA of the chain is not allowed to issue this name (name constraints)")]
    NameConstraints,
    /// The chain breaks another rule of RFC 5280.
    #[error("the certificate chain is not valid: {0:?}")]
    Path(PathError),
    /// The TLS library refused the certificate, or the peer's proof that it holds the key.
    #[error("{0}")]
    Handshake(CertificateError),
}

impl VerifyError {
    /// The word metrics count this under: one of `unknown_ca`, `expired`, `not_yet_valid`, `wrong_trust_domain`,
    /// `wrong_identity`, `no_certificate`, `bad_certificate`, `invalid_spiffe_id`, `revoked`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownCa => "unknown_ca",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::WrongTrustDomain { .. } => "wrong_trust_domain",
            Self::Revoked { .. } => "revoked",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::InvalidSpiffeId(_) => "invalid_spiffe_id",
            Self::BadCertificate(_) => "bad_certificate",
        }
    }

    pub(super) fn from_path(error: PathError, role: PeerRole) -> Self {
        match error {
            // A root of the right name with another key is another CA.
            PathError::UnknownIssuer | PathError::InvalidSignatureForPublicKey => Self::UnknownCa,
            PathError::CertExpired { time, not_after } => {
                Self::Expired { not_after: system_time(not_after), now: system_time(time) }
            }
            PathError::CertNotValidYet { time, not_before } => {
                Self::NotYetValid { not_before: system_time(not_before), now: system_time(time) }
            }
            PathError::CertRevoked => Self::Revoked { serial: None },
            PathError::NameConstraintViolation => Self::BadCertificate(Defect::NameConstraints),
            PathError::RequiredEkuNotFoundContext(_) | PathError::EmptyEkuExtension => {
                Self::BadCertificate(Defect::ExtendedKeyUsage(role))
            }
            PathError::CaUsedAsEndEntity => Self::BadCertificate(Defect::CaAsLeaf),
            PathError::BadDer | PathError::BadDerTime | PathError::TrailingData(_) => {
                Self::BadCertificate(Defect::Malformed)
            }
            other => Self::BadCertificate(Defect::Path(other)),
        }
    }

    /// Into the TLS library's error, so that the peer is sent the alert that fits where TLS has one.
    pub(super) fn into_tls(self) -> TlsError {
        TlsError::InvalidCertificate(match self {
            Self::NoCertificate => return TlsError::NoCertificatesPresented,
            Self::UnknownCa => CertificateError::UnknownIssuer,
            Self::Expired { not_after, now } => {
                CertificateError::ExpiredContext { time: super::unix_time(now), not_after: super::unix_time(not_after) }
            }
            Self::NotYetValid { not_before, now } => CertificateError::NotValidYetContext {
                time: super::unix_time(now),
                not_before: super::unix_time(not_before),
            },
            Self::Revoked { .. } => CertificateError::Revoked,
            Self::BadCertificate(Defect::Malformed) => CertificateError::BadEncoding,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// Why the certificate was refused, when that is what a handshake failed on; [`None`] for every other failure, an alert
/// from the peer among them.
pub fn verify_error(error: &TlsError) -> Option<VerifyError> {
    let refused = match error {
        TlsError::NoCertificatesPresented => return Some(VerifyError::NoCertificate),
        TlsError::InvalidCertificate(refused) => refused,
        _ => return None,
    };
    Some(match refused {
        CertificateError::Other(OtherError(other)) => match other.downcast_ref::<VerifyError>() {
            Some(error) => error.clone(),
            None => VerifyError::BadCertificate(Defect::Handshake(refused.clone())),
        },
        CertificateError::UnknownIssuer => VerifyError::UnknownCa,
        CertificateError::Revoked => VerifyError::Revoked { serial: None },
        CertificateError::BadEncoding => VerifyError::BadCertificate(Defect::Malformed),
        CertificateError::ExpiredContext { time, not_after } => {
            VerifyError::Expired { not_after: system_time(*not_after), now: system_time(*time) }
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            VerifyError::NotYetValid { not_before: system_time(*not_before), now: system_time(*time) }
        }
        other => VerifyError::BadCertificate(Defect::Handshake(other.clone())),
    })
}

/// [`verify_error`] for the `io::Error` that tokio-rustls wraps around the TLS library's error.
pub fn verify_error_in(error: &io::Error) -> Option<VerifyError> {
    error.get_ref()?.downcast_ref::<TlsError>().and_then(verify_error)
}

/// A time in RFC 3339, whole seconds, UTC.
pub(crate) struct Clock<'a>(pub(crate) &'a SystemTime);

impl fmt::Display for Clock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from(*self.0).replace_nanosecond(0).map_err(|_| fmt::Error)?;
        f.write_str(&time.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

struct Serial<'a>(Option<&'a str>);

impl fmt::Display for Serial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |serial| write!(f, " with serial number {serial}"))
    }
}

struct Alternatives<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Alternatives<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.0.iter().enumerate() {
            write!(f, "{}{one}", if index == 0 { "" } else { " or " })?;
        }
        Ok(())
    }
}
