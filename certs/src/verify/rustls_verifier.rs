//! The judgement inside a TLS handshake.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Peer, PeerRole, VerifyError, system_time, verify_chain};
use crate::{TrustBundles, tls};

/// Judges the peers of one TLS configuration: by one set of bundles, in one role, against one set of expected identities.
#[derive(Clone, Debug)]
pub struct SpiffeVerifier {
    bundles: Arc<TrustBundles>,
    role: PeerRole,
    expected: Vec<SpiffeId>,
    mandatory: bool,
    expired_for: Duration,
}

impl SpiffeVerifier {
    /// Judges servers: each must be one of `expected`, or any of our own trust domain when that is empty.
    pub fn of_servers(bundles: Arc<TrustBundles>, expected: Vec<SpiffeId>) -> Self {
        Self { bundles, role: PeerRole::Server, expected, mandatory: true, expired_for: Duration::ZERO }
    }

    /// Judges clients: any identity of a trust domain with a bundle. With `mandatory`, one that shows none is refused.
    pub fn of_clients(bundles: Arc<TrustBundles>, mandatory: bool) -> Self {
        Self { bundles, role: PeerRole::Client, expected: Vec::new(), mandatory, expired_for: Duration::ZERO }
    }

    /// Also takes a peer whose chain expired no longer than `expired_for` ago.
    pub(crate) fn tolerating(self, expired_for: Duration) -> Self {
        Self { expired_for, ..self }
    }

    /// Judges a chain (leaf first) as the handshake does; for after the handshake, resumed ones above all.
    ///
    /// # Errors
    /// As [`verify_chain`].
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Peer, VerifyError> {
        let judged = |now| verify_chain(chain, self.role, &self.bundles, &self.expected, now);
        match judged(now) {
            Err(VerifyError::Expired { .. }) if !self.expired_for.is_zero() => judged(now - self.expired_for),
            judgement => judgement,
        }
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let chain: Vec<_> =
            std::iter::once(end_entity).chain(intermediates).map(|der| CertificateDer::from(der.as_ref())).collect();
        self.verify(&chain, system_time(now)).map(drop).map_err(VerifyError::into_tls)
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    /// The server name is a route to the peer, not its identity: it is not looked at.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.judge(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: a client has one SVID and shows it; naming our roots would only lengthen the handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.judge(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
