//! Explaining certificates to people: what `remora-certs show` finds in files and directories.
//!
//! Everything is gathered into one [`Report`], which is then written as text or as JSON. Of a key only its kind and its
//! certificate are told.

mod certificate;
mod text;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;

use self::certificate::{CertificateReport, Roots, public_key_of};
use crate::{Error, pem, tls};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    files: Vec<FileReport>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    path: PathBuf,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<CertificateReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<KeyReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A private key, of which only this is told.
#[derive(Debug, Serialize)]
struct KeyReport {
    /// Such as "ECDSA P-256"; none for a kind that TLS cannot use.
    key: Option<String>,
    /// Files beside it whose first certificate is this key's.
    certificate_in: Vec<String>,
}

/// A file's certificates and keys, before they are judged.
struct Content {
    certificates: Vec<CertificateDer<'static>>,
    keys: Vec<PrivateKeyDer<'static>>,
}

impl Report {
    /// Reads `paths`; of a directory, its `.pem`, `.crt`, `.cer` and `.key` files. Chains are judged at `now` by the
    /// `bundle.pem` (or `root.pem`, `ca.pem`) in the same directory.
    ///
    /// # Errors
    /// A named file cannot be read or has neither certificate nor key; a named directory has no such file. What is
    /// wrong with single files of a directory is part of the report.
    pub fn of(paths: &[PathBuf], now: SystemTime) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths {
            if !path.is_dir() {
                let content = read(path)?;
                files.push(FileReport::new(path, &content, &neighbours(path), now));
                continue;
            }
            let before = files.len();
            for file in files_in(path)? {
                files.push(match read(&file) {
                    Ok(content) => FileReport::new(&file, &content, &neighbours(&file), now),
                    Err(error) => FileReport::failed(file, &error),
                });
            }
            if files.len() == before {
                return Err(Error::NothingToShow(path.clone()));
            }
        }
        Ok(Self { files })
    }

    /// Writes it as one JSON object.
    ///
    /// # Errors
    /// `out` fails.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// `out` fails.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        text::write(self, out)
    }
}

impl FileReport {
    fn new(path: &Path, content: &Content, beside: &BTreeMap<PathBuf, Content>, now: SystemTime) -> Self {
        let roots = Roots::among(beside, path);
        let certificates = (0..content.certificates.len())
            .map(|index| certificate::explain(&content.certificates, index, &roots, now));
        let certificates = certificates.collect();
        let keys = content.keys.iter().map(|key| KeyReport::new(key, beside)).collect();
        Self { path: path.to_owned(), certificates, keys, error: None }
    }

    fn failed(path: PathBuf, error: &Error) -> Self {
        Self { path, certificates: Vec::new(), keys: Vec::new(), error: Some(error.to_string()) }
    }
}

impl KeyReport {
    fn new(key: &PrivateKeyDer<'static>, beside: &BTreeMap<PathBuf, Content>) -> Self {
        let public = tls::provider()
            .key_provider
            .load_private_key(key.clone_key())
            .ok()
            .and_then(|signer| signer.public_key().map(|public| public.to_vec()));
        let Some(public) = public else { return Self { key: None, certificate_in: Vec::new() } };
        let is_its = |content: &Content| {
            content
                .certificates
                .first()
                .is_some_and(|first| certificate::spki_of(first).as_deref() == Some(&public[..]))
        };
        let certificate_in = beside
            .iter()
            .filter(|(_, content)| is_its(content))
            .filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        Self { key: Some(public_key_of(&public)), certificate_in }
    }
}

fn read(path: &Path) -> Result<Content, Error> {
    let bytes = pem::read(path)?;
    let keys: Vec<_> = PrivateKeyDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect();
    let certificates = match pem::certificates(path, &bytes) {
        Err(Error::NoPem { .. }) if !keys.is_empty() => Vec::new(),
        certificates => certificates?,
    };
    Ok(Content { certificates, keys })
}

/// What can be read in the directory of `path`.
fn neighbours(path: &Path) -> BTreeMap<PathBuf, Content> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files = files_in(directory).unwrap_or_default();
    files.into_iter().filter_map(|file| read(&file).ok().map(|content| (file, content))).collect()
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let known = path.extension().is_some_and(|end| matches!(end.to_str(), Some("pem" | "crt" | "cer" | "key")));
        if known && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
