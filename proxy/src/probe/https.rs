//! TLS as the kubelet speaks it: to whoever answers, since nobody vouches for a pod's address.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Failure;

/// The protocols that are offered; both are understood.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

static CONFIG: LazyLock<Result<Arc<ClientConfig>, Error>> = LazyLock::new(|| {
    let provider = remora_certs::tls::provider().clone();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Anyone);
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
});

/// Shakes hands with whoever is there; says whether HTTP/2 was chosen.
pub(super) async fn connect(stream: TcpStream, address: SocketAddr) -> Result<(TlsStream<TcpStream>, bool), Failure> {
    let failed = |error| Failure::Tls(address, error);
    let config = CONFIG.as_ref().map_err(|error| failed(std::io::Error::other(error.clone())))?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(failed)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN[0]);
    Ok((stream, http2))
}

/// Believes every certificate. Only for probes: they carry nothing that is not in the pod's manifest.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        remora_certs::tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
