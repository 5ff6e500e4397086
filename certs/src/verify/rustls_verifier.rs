//! The judgement inside a TLS handshake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use remora_model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CommonState, DigitallySignedStruct, DistinguishedName, Error as TlsError, HandshakeKind, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Peer, PeerRole, VerifyError, system_time, verify_chain};
use crate::{TrustBundles, tls};

/// Judges the peers of one TLS configuration: by one set of bundles, in one role, against one set of expected identities.
#[derive(Debug)]
pub struct SpiffeVerifier {
    bundles: Arc<TrustBundles>,
    role: PeerRole,
    expected: Vec<SpiffeId>,
    mandatory: bool,
    expired_for: Duration,
    /// What came of the last judgement within a handshake, until that handshake is over. Judging is most of what a handshake
    /// costs beyond its own signatures, and the TLS library has no place to keep a verifier's findings.
    judged: Mutex<Option<Judged>>,
}

#[derive(Debug)]
struct Judged {
    chain: Vec<CertificateDer<'static>>,
    peer: Peer,
}

impl SpiffeVerifier {
    /// Judges servers: each must be one of `expected`, or any of our own trust domain when that is empty.
    pub fn of_servers(bundles: Arc<TrustBundles>, expected: Vec<SpiffeId>) -> Self {
        Self::new(bundles, PeerRole::Server, expected, true)
    }

    /// Judges clients: any identity of a trust domain with a bundle. With `mandatory`, one that shows none is refused.
    pub fn of_clients(bundles: Arc<TrustBundles>, mandatory: bool) -> Self {
        Self::new(bundles, PeerRole::Client, Vec::new(), mandatory)
    }

    fn new(bundles: Arc<TrustBundles>, role: PeerRole, expected: Vec<SpiffeId>, mandatory: bool) -> Self {
        Self { bundles, role, expected, mandatory, expired_for: Duration::ZERO, judged: Mutex::default() }
    }

    /// Also takes a peer whose chain expired no longer than `expired_for` ago.
    #[cfg(feature = "server")]
    pub(crate) fn tolerating(self, expired_for: Duration) -> Self {
        Self { expired_for, ..self }
    }

    /// Who the peer of a finished handshake is, which this verifier's configuration made. A full one has judged the chain
    /// itself; a resumed one takes it from the ticket unchecked, so it is judged now: by `now` it may have expired, or its
    /// root may be gone from the bundle.
    ///
    /// # Errors
    /// As [`verify_chain`].
    pub fn peer(&self, connection: &CommonState, now: SystemTime) -> Result<Peer, VerifyError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        let resumed = !matches!(
            connection.handshake_kind(),
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
        );
        match self.last().take_if(|last| !resumed && last.chain == chain) {
            Some(judged) => Ok(judged.peer),
            // Another handshake was judged in between.
            None => self.verify(chain, now),
        }
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Peer, VerifyError> {
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
            std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        let peer = self.verify(&chain, system_time(now)).map_err(VerifyError::into_tls)?;
        *self.last() = Some(Judged { chain, peer });
        Ok(())
    }

    fn last(&self) -> MutexGuard<'_, Option<Judged>> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
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
