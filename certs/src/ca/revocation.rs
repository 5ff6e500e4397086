//! Revocation lists (RFC 5280, section 5): one for each intermediate whose leaves may still be valid.

use std::time::SystemTime;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use super::directory::CRL_FILE;
use super::journal::{moment, seconds};
use super::{Authority, CaDirectory, IssuedRecord, Revoked};
use crate::Error;
use crate::file::{Access, Prepared};

impl Authority {
    /// A list of what it signed and takes back, as PEM; good until this CA's own end.
    pub(super) fn sign_crl(&self, revoked: &[&Revoked], now: SystemTime) -> Result<String, Error> {
        let entry = |revoked: &&Revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&bytes(&revoked.serial)),
            revocation_time: moment(revoked.at).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: self.validity().not_after.into(),
            crl_number: SerialNumber::from(seconds(now)),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

impl CaDirectory {
    /// Makes `crl.pem` follow the state, once anything was revoked; the caller holds the lock.
    pub(super) fn write_crls(&self, now: SystemTime) -> Result<(), Error> {
        let path = self.path().join(CRL_FILE);
        let Some(state) = self.state() else { return Ok(()) };
        if state.revoked.is_empty() && !path.exists() {
            return Ok(());
        }
        let mut lists = String::new();
        for signer in std::iter::once(&state.signer).chain(&state.next_signer).chain(&state.retired) {
            let revoked: Vec<_> = state.revoked.iter().filter(|entry| entry.signer == signer.fingerprint).collect();
            let (certificate, key) = (self.path().join(&signer.certificate), self.path().join(&signer.key));
            lists += &Authority::load(&certificate, &key)?.sign_crl(&revoked, now)?;
        }
        Prepared::new(&path, lists.as_bytes(), Access::Public, None)?.replace()
    }
}

impl Revoked {
    /// That `record`'s certificate is revoked at `now`.
    pub(super) fn new(record: &IssuedRecord, now: SystemTime) -> Self {
        Self { serial: record.serial.clone(), signer: record.signer, at: seconds(now), not_after: record.not_after }
    }
}

/// A serial number of our own record: an even number of hexadecimal digits.
fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
    hexadecimal.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |value, &byte| value << 4 | digit(byte))).collect()
}
