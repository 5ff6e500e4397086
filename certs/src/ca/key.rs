//! Making private keys.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use remora_model::identity::KeyKind;

use crate::Error;

/// A new key; RSA takes a good part of a second.
pub(crate) fn generate(kind: KeyKind) -> Result<KeyPair, Error> {
    Ok(match kind {
        KeyKind::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        KeyKind::Ed25519 => KeyPair::generate_for(&PKCS_ED25519)?,
        KeyKind::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
    })
}
