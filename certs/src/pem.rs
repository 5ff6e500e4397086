//! Reading PEM files, with errors that name the file.

use std::io::ErrorKind;
use std::path::Path;

use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;

/// The largest PEM file that is read, in bytes; far above any real chain, key or bundle.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The bytes of `path`, which must be a regular file (or lead to one).
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(ErrorKind::IsADirectory.into()));
    }
    if metadata.len() > MAX_BYTES {
        return Err(failed(ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(path).map_err(failed)
}

/// Every certificate in `pem`, in order; at least one.
pub(crate) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|reason| bad_pem(path, &reason))?;
    if certificates.is_empty() {
        return Err(Error::NoPem { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(certificates)
}

/// The one private key in `pem`: PKCS#8, SEC1 or PKCS#1.
pub(crate) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|reason| match reason {
        PemError::NoItemsFound => Error::NoPem { path: path.to_owned(), wanted: "private key" },
        reason => bad_pem(path, &reason),
    })
}

/// The text of each certificate section in `pem`, in order, one newline after each; what stands between them is left out.
pub(crate) fn certificate_sections(pem: &[u8]) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem);
    let sections = text.split(BEGIN).skip(1).filter_map(|rest| rest.split_once(END));
    sections.map(|(body, _)| format!("{BEGIN}{body}{END}\n")).collect()
}

/// The offending text is left out on purpose: in a key file it may be part of the key.
pub(crate) fn bad_pem(path: &Path, reason: &PemError) -> Error {
    let reason = match reason {
        PemError::MissingSectionEnd { .. } => "a section has no END line",
        PemError::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        PemError::Base64Decode(_) => "a section is not base64",
        PemError::SectionTooLarge => "a section is too large",
        _ => "it cannot be read",
    };
    Error::BadPem { path: path.to_owned(), reason }
}
