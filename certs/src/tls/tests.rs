use std::time::{Duration, SystemTime};

use rustls::{
    AlertDescription, ClientConnection, Connection, Error as TlsError, HandshakeKind, NamedGroup, ProtocolVersion,
    ServerConnection,
};
use rustls_pki_types::ServerName;

use super::*;
use crate::ca::fixture::{CATALOG, Ca, PRICING, TestDir, crl, current, hours, id};
use crate::verify::{PeerRole, VerifyError, verify_chain, verify_error};
use crate::{RevocationList, Svid, TrustBundle, TrustBundles};

const ALPN: &[u8] = b"istio-h2";

#[derive(Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

fn ends(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (Connection, Connection) {
    let name = ServerName::try_from("catalog.example").unwrap();
    let client = ClientConnection::new(Arc::clone(client), name).unwrap();
    (client.into(), ServerConnection::new(Arc::clone(server)).unwrap().into())
}

/// A handshake in memory, and what comes after it (tickets) too.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(Connection, Connection), (Side, TlsError)> {
    let (mut client, mut server) = ends(client, server);
    while client.wants_write() || server.wants_write() {
        deliver(&mut client, &mut server).map_err(|error| (Side::Server, error))?;
        deliver(&mut server, &mut client).map_err(|error| (Side::Client, error))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn deliver(from: &mut Connection, to: &mut Connection) -> Result<(), TlsError> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn of_clients(identity: &Identity, mandatory: bool) -> Arc<SpiffeVerifier> {
    Arc::new(SpiffeVerifier::of_clients(Arc::clone(identity.bundles()), mandatory))
}

fn of_servers(identity: &Identity, expected: &[&str]) -> Arc<SpiffeVerifier> {
    let expected = expected.iter().map(|text| id(text)).collect();
    Arc::new(SpiffeVerifier::of_servers(Arc::clone(identity.bundles()), expected))
}

fn server_of(identity: &Identity) -> Arc<ServerConfig> {
    server_config(identity, vec![ALPN.to_vec()], of_clients(identity, true)).unwrap()
}

fn client_of(identity: &Identity, expected: &[&str]) -> Arc<ClientConfig> {
    client_config(identity, vec![ALPN.to_vec()], of_servers(identity, expected)).unwrap()
}

#[test]
fn a_full_handshake_is_judged_once_and_a_resumed_one_after_it() {
    let ca = Ca::new("example.org");
    let (catalog, pricing) = (ca.identity(CATALOG), ca.identity(PRICING));
    let verifier = of_clients(&catalog, true);
    let server = server_config(&catalog, vec![ALPN.to_vec()], Arc::clone(&verifier)).unwrap();
    let client = client_of(&pricing, &[CATALOG]);
    let (now, never) = (SystemTime::now(), SystemTime::UNIX_EPOCH);
    // What was found within the handshake stands, whatever the clock says later; it is handed out once.
    let (_, full) = handshake(&client, &server).unwrap();
    assert_eq!(verifier.peer(&full, never).unwrap().spiffe_id, id(PRICING));
    assert!(verifier.peer(&full, never).is_err());
    assert_eq!(verifier.peer(&full, now).unwrap().spiffe_id, id(PRICING));
    // Another handshake in between: it is judged again.
    let (_, full) = handshake(&client_of(&pricing, &[CATALOG]), &server).unwrap();
    handshake(&client_of(&ca.identity(CATALOG), &[CATALOG]), &server).unwrap();
    assert!(verifier.peer(&full, never).is_err());
    assert_eq!(verifier.peer(&full, now).unwrap().spiffe_id, id(PRICING));
    // What the handshake of the same chain left is not for one that was resumed.
    handshake(&client_of(&pricing, &[CATALOG]), &server).unwrap();
    let (_, resumed) = handshake(&client, &server).unwrap();
    assert_eq!(resumed.handshake_kind(), Some(HandshakeKind::Resumed));
    assert!(verifier.peer(&resumed, never).is_err());
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let ca = Ca::new("example.org");
    let (catalog, pricing) = (ca.identity(CATALOG), ca.identity(PRICING));
    let (client, server) = handshake(&client_of(&pricing, &[CATALOG]), &server_of(&catalog)).unwrap();
    let now = SystemTime::now();
    let judge = |chain, role| verify_chain(chain, role, &ca.bundle().into(), &[], now).unwrap().spiffe_id;
    assert_eq!(judge(server.peer_certificates().unwrap(), PeerRole::Client), id(PRICING));
    assert_eq!(judge(client.peer_certificates().unwrap(), PeerRole::Server), id(CATALOG));
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.alpn_protocol(), Some(ALPN));
    assert_eq!(server.negotiated_key_exchange_group().map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
    assert_eq!(client.negotiated_cipher_suite(), Some(cipher_suite::TLS13_AES_128_GCM_SHA256));
}

/// A provider without the hybrid group, as a peer that is older than it.
fn classical() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(provider());
    provider.kx_groups = vec![kx_group::X25519, kx_group::SECP256R1];
    Arc::new(provider)
}

#[test]
fn a_peer_without_the_hybrid_group_is_met_with_the_classical_one() {
    let ca = Ca::new("example.org");
    let (catalog, pricing) = (ca.identity(CATALOG), ca.identity(PRICING));
    let group = |client: &_, server: &_| {
        let (_, server) = handshake(client, server).unwrap();
        server.negotiated_key_exchange_group().map(|group| group.name())
    };
    let verifier = of_servers(&pricing, &[]);
    let resolver = |identity: &Identity| Arc::new(SingleCertAndKey::from(Arc::clone(identity.svid().certified_key())));
    let mut older = ClientConfig::builder_with_provider(classical())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver(&pricing));
    older.alpn_protocols = vec![ALPN.to_vec()];
    assert_eq!(group(&Arc::new(older), &server_of(&catalog)), Some(NamedGroup::X25519));

    let verifier = of_clients(&catalog, true);
    let mut older = ServerConfig::builder_with_provider(classical())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver(&catalog));
    older.alpn_protocols = vec![ALPN.to_vec()];
    assert_eq!(group(&client_of(&pricing, &[CATALOG]), &Arc::new(older)), Some(NamedGroup::X25519));
    let both = group(&client_of(&pricing, &[CATALOG]), &server_of(&catalog));
    assert_eq!(both, Some(NamedGroup::X25519MLKEM768));
}

#[test]
fn no_early_data_either_way() {
    let ca = Ca::new("example.org");
    let (catalog, pricing) = (ca.identity(CATALOG), ca.identity(PRICING));
    assert_eq!(server_of(&catalog).max_early_data_size, 0);
    assert!(!client_of(&pricing, &[]).enable_early_data);
}

#[test]
fn a_revoked_client_is_told_so() {
    let ca = Ca::new("example.org");
    let pricing = ca.identity(PRICING);
    let list = crl(&ca.intermediate, &[pricing.svid().serial()], SystemTime::now() + hours(1));
    let lists = RevocationList::parse("crl.pem".as_ref(), list.as_bytes()).unwrap();
    let catalog = Identity::new(ca.identity(CATALOG).svid().clone(), TrustBundles::new(ca.bundle()).with_crls(lists));
    let (side, error, alert) = refusal(&client_of(&pricing, &[]), &server_of(&catalog));
    assert_eq!((side, error.reason(), alert), (Side::Server, "revoked", AlertDescription::CertificateRevoked));
}

#[test]
fn a_resumed_peer_is_judged_again() {
    let ca = Ca::new("example.org");
    let (client, server) = (client_of(&ca.identity(PRICING), &[CATALOG]), server_of(&ca.identity(CATALOG)));
    let (first, _) = handshake(&client, &server).unwrap();
    assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
    let (resumed, accepted) = handshake(&client, &server).unwrap();
    assert_eq!(resumed.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(accepted.handshake_kind(), Some(HandshakeKind::Resumed));

    let (chain, now) = (accepted.peer_certificates().unwrap(), SystemTime::now());
    let judge = |bundle: &TrustBundle, now| verify_chain(chain, PeerRole::Client, &bundle.clone().into(), &[], now);
    let peer = judge(&ca.bundle(), now).unwrap();
    assert_eq!(peer.spiffe_id, id(PRICING));
    let late = judge(&ca.bundle(), peer.not_after + Duration::from_secs(1));
    assert_eq!(late.unwrap_err().reason(), "expired");
    let foreign = Ca::new("example.org").bundle();
    assert_eq!(judge(&foreign, now).unwrap_err().reason(), "unknown_ca");

    let seen = resumed.peer_certificates().unwrap();
    let elsewhere = verify_chain(seen, PeerRole::Server, &ca.bundle().into(), &[id(PRICING)], now);
    assert_eq!(elsewhere.unwrap_err().reason(), "wrong_identity");
}

#[test]
fn nothing_is_resumed_under_another_configuration() {
    let ca = Ca::new("example.org");
    let (catalog, pricing) = (ca.identity(CATALOG), ca.identity(PRICING));
    let (client, server) = (client_of(&pricing, &[CATALOG]), server_of(&catalog));
    handshake(&client, &server).unwrap();
    let kind = |client: &_, server: &_| handshake(client, server).unwrap().1.handshake_kind();
    assert_eq!(kind(&client, &server_of(&catalog)), Some(HandshakeKind::Resumed), "another worker, the same identity");
    let newer = Identity::new(catalog.svid().clone(), ca.bundle());
    assert_eq!(kind(&client, &server_of(&newer)), Some(HandshakeKind::Full), "a new identity, new ticket keys");
    assert_eq!(kind(&client_of(&pricing, &[CATALOG]), &server), Some(HandshakeKind::Full), "a new session store");
    // A session made when the server was expected to be anybody is of no use to who expects somebody else.
    let strict = client_of(&pricing, &[PRICING]);
    let (side, error) = handshake(&strict, &server).unwrap_err();
    assert_eq!((side, verify_error(&error).unwrap().reason()), (Side::Client, "wrong_identity"));
}

/// What the side that refuses says, and the alert the other side is sent.
fn refusal(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (Side, VerifyError, AlertDescription) {
    let (mut client, mut server) = ends(client, server);
    let alert = |result: Result<(), TlsError>| match result {
        Err(TlsError::AlertReceived(alert)) => alert,
        other => panic!("expected an alert, not {other:?}"),
    };
    while client.wants_write() || server.wants_write() {
        if let Err(error) = deliver(&mut client, &mut server) {
            return (Side::Server, verify_error(&error).unwrap(), alert(deliver(&mut server, &mut client)));
        }
        if let Err(error) = deliver(&mut server, &mut client) {
            return (Side::Client, verify_error(&error).unwrap(), alert(deliver(&mut client, &mut server)));
        }
    }
    panic!("nobody refused");
}

fn identity_until(ca: &Ca, text: &str, not_after: SystemTime) -> Identity {
    let validity = crate::ca::Validity { not_before: SystemTime::now() - hours(9), not_after };
    let issued = ca.intermediate.issue(&id(text), validity).unwrap();
    let directory = TestDir::new();
    ca.write(directory.path(), &issued);
    let files = ca.files(directory.path());
    Identity::new(Svid::load(&ca.trust_domain, &files.certificate, &files.key).unwrap(), ca.bundle())
}

#[test]
fn bad_clients_are_refused_by_the_server_with_a_fitting_alert() {
    let ca = Ca::new("example.org");
    let server = server_of(&ca.identity(CATALOG));
    let foreign = Ca::new("example.org").identity(PRICING);
    // It trusts our server all the same.
    let foreign = Identity::new(foreign.svid().clone(), ca.bundle());
    let (side, error, alert) = refusal(&client_of(&foreign, &[]), &server);
    assert_eq!((side, error.reason(), alert), (Side::Server, "unknown_ca", AlertDescription::UnknownCA));

    let expired = identity_until(&ca, PRICING, SystemTime::now() - hours(1));
    let (side, error, alert) = refusal(&client_of(&expired, &[]), &server);
    assert_eq!((side, error.reason(), alert), (Side::Server, "expired", AlertDescription::CertificateExpired));
    assert!(error.to_string().contains("our clock says"), "{error}");

    let elsewhere = ca.identity("spiffe://other.org/ns/shop/sa/pricing");
    let (side, error, alert) = refusal(&client_of(&elsewhere, &[]), &server);
    assert_eq!(
        (side, error.reason(), alert),
        (Side::Server, "wrong_trust_domain", AlertDescription::CertificateUnknown)
    );
}

#[test]
fn a_client_that_shows_nothing() {
    let ca = Ca::new("example.org");
    let catalog = ca.identity(CATALOG);
    let silent = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(of_servers(&catalog, &[]))
        .with_no_client_auth();
    let asked = |mandatory| server_config(&catalog, Vec::new(), of_clients(&catalog, mandatory)).unwrap();
    let (side, error, alert) = refusal(&Arc::new(silent.clone()), &asked(true));
    assert_eq!((side, error), (Side::Server, VerifyError::NoCertificate));
    assert_eq!(alert, AlertDescription::CertificateRequired);
    let (_, accepted) = handshake(&Arc::new(silent), &asked(false)).unwrap();
    assert!(accepted.peer_certificates().is_none());
}

#[test]
fn another_server_is_refused_by_the_client() {
    let ca = Ca::new("example.org");
    let pricing = ca.identity(PRICING);
    let server = server_of(&ca.identity(CATALOG));
    let (side, error, _) = refusal(&client_of(&pricing, &[PRICING]), &server);
    assert_eq!((side, error.reason()), (Side::Client, "wrong_identity"));
    let foreign = server_of(&Ca::new("example.org").identity(CATALOG));
    let (side, error, alert) = refusal(&client_of(&pricing, &[]), &foreign);
    assert_eq!((side, error.reason(), alert), (Side::Client, "unknown_ca", AlertDescription::UnknownCA));
}

#[test]
fn the_mesh_speaks_no_tls_1_2() {
    let ca = Ca::new("example.org");
    let pricing = ca.identity(PRICING);
    let old = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(of_servers(&pricing, &[]))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(pricing.svid().certified_key()))));
    let (side, error) = handshake(&Arc::new(old), &server_of(&ca.identity(CATALOG))).unwrap_err();
    assert_eq!(side, Side::Server);
    assert!(matches!(error, TlsError::PeerIncompatible(_)), "{error:?}");
}

#[test]
fn a_gateway_terminates_both_versions_without_client_certificates() {
    let ca = Ca::new("example.org");
    let directory = TestDir::new();
    ca.write(directory.path(), &ca.intermediate.issue(&id(CATALOG), current()).unwrap());
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let gateway = gateway_server_config(&certificate, &key, vec![b"h2".to_vec()]).unwrap();
    for version in [&TLS12, &TLS13] {
        let verifier = SpiffeVerifier::of_servers(Arc::new(ca.bundle().into()), Vec::new());
        let mut client = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let (_, server) = handshake(&Arc::new(client), &gateway).unwrap();
        assert_eq!(server.protocol_version(), Some(version.version));
        assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    }
    let error = gateway_server_config(&certificate, &directory.path().join("none.pem"), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("none.pem"), "{error}");
}
