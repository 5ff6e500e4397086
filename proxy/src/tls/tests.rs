use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use remora_certs::ca::{Authority, Validity};
use remora_certs::{Svid, TrustBundle};
use remora_model::TrustDomain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{client, server};

use super::*;
use crate::io::{Counted, Replay};

const BOUND: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

/// A folder of its own for each call, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("remora-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Ca(Authority);

impl Ca {
    fn new() -> Self {
        Self(Authority::root(&domain(), Validity::around(SystemTime::now(), HOUR, 24 * HOUR)).unwrap())
    }

    fn identity(&self, account: &str) -> Arc<Identity> {
        self.identity_for(account, Validity::around(SystemTime::now(), HOUR, HOUR), self)
    }

    /// Trusts what `trusted` issues.
    fn identity_for(&self, account: &str, validity: Validity, trusted: &Self) -> Arc<Identity> {
        let folder = Folder::new();
        let issued = self.0.issue(&id(account), validity).unwrap();
        let certificate = folder.write("cert.pem", &issued.chain_pem);
        let key = folder.write("key.pem", &issued.key_pem);
        let bundle = folder.write("bundle.pem", trusted.0.certificate_pem());
        let svid = Svid::load(&domain(), &certificate, &key).unwrap();
        Arc::new(Identity::new(svid, TrustBundle::load(domain(), &bundle).unwrap()))
    }
}

fn domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&domain(), "shop", account).unwrap()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

type Client = Result<(client::TlsStream<Counted>, TlsInfo), TlsError>;
type Server = Result<(server::TlsStream<Replay<TcpStream>>, TlsInfo), TlsError>;

async fn shake(connector: &Connector, tls: &MeshTls) -> (Client, Server) {
    let (near, far) = pair().await;
    let name = server_name("catalog.shop", [127, 0, 0, 1].into());
    tokio::join!(connect(connector, near, name, BOUND), accept(tls, Replay::new(far), BOUND))
}

/// Both ends of a connection over which a request asks to leave HTTP.
pub(crate) async fn connected() -> (client::TlsStream<Counted>, server::TlsStream<Replay<TcpStream>>) {
    let ca = Ca::new();
    let connector = MeshTls::new(ca.identity("storefront")).connector(&[id("catalog")], Offer::Upgrade);
    let (client, server) = shake(&connector, &MeshTls::new(ca.identity("catalog"))).await;
    (client.unwrap().0, server.unwrap().0)
}

/// Shakes hands and lets the server speak, so that the client has read its ticket.
async fn shake_and_talk(connector: &Connector, tls: &MeshTls) -> (TlsInfo, TlsInfo) {
    let (client, server) = shake(connector, tls).await;
    let ((mut client, client_info), (mut server, server_info)) = (client.unwrap(), server.unwrap());
    server.write_all(b"hi").await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
    (client_info, server_info)
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is_and_what_to_speak() {
    let ca = Ca::new();
    let (shop, catalog) = (MeshTls::new(ca.identity("storefront")), MeshTls::new(ca.identity("catalog")));
    for (offer, protocol) in [
        (Offer::Http1, MeshProtocol::RemoraH2),
        (Offer::Http2, MeshProtocol::RemoraH2),
        (Offer::Tcp, MeshProtocol::Istio),
    ] {
        let connector = shop.connector(&[id("other"), id("catalog")], offer);
        let (client, server) = shake_and_talk(&connector, &catalog).await;
        assert_eq!((&client.peer.spiffe_id, &server.peer.spiffe_id), (&id("catalog"), &id("storefront")));
        assert_eq!((client.protocol, server.protocol), (Some(protocol), Some(protocol)));
        assert_eq!(server.sni.as_deref(), Some("catalog.shop"));
        assert_eq!((client.generation, server.generation), (shop.generation(), catalog.generation()));
    }
}

/// Takes any server of its own trust domain.
fn anybody(client: &Identity) -> Arc<SpiffeVerifier> {
    Arc::new(SpiffeVerifier::of_servers(Arc::clone(client.bundles()), Vec::new()))
}

#[tokio::test]
async fn an_envoy_that_knows_only_istios_protocols_is_understood() {
    let ca = Ca::new();
    let catalog = MeshTls::new(ca.identity("catalog"));
    let shop = ca.identity("storefront");
    for (alpn, protocol) in [
        (&[ISTIO_H2][..], Some(MeshProtocol::IstioH2)),
        (&[b"istio-peer-exchange", ISTIO_HTTP11], Some(MeshProtocol::IstioHttp11)),
        (&[b"h2", b"http/1.1"], None),
        (&[b"something-else"], None),
        (&[], None),
    ] {
        let config = client_config(&shop, owned(alpn), anybody(&shop)).unwrap();
        let (near, far) = pair().await;
        let name = server_name("catalog", [127, 0, 0, 1].into());
        let connect = TlsConnector::from(config).connect(name, near);
        let (client, server) = tokio::join!(connect, accept(&catalog, Replay::new(far), BOUND));
        client.unwrap();
        assert_eq!(server.unwrap().1.protocol, protocol, "{alpn:?}");
    }
}

#[tokio::test]
async fn a_valid_svid_of_another_workload_is_refused_with_both_names() {
    let ca = Ca::new();
    let (shop, thief) = (MeshTls::new(ca.identity("storefront")), MeshTls::new(ca.identity("thief")));
    let (client, server) = shake(&shop.connector(&[id("catalog")], Offer::Http1), &thief).await;
    let error = client.unwrap_err();
    assert_eq!(error.reason, "wrong_identity");
    for named in [
        "/sa/thief",
        "expected spiffe://example.org/ns/shop/sa/catalog",
        "we are spiffe://example.org/ns/shop/sa/storefront",
    ] {
        assert!(error.message.contains(named), "{}", error.message);
    }
    // The server hears an alert, before or after its own part is done.
    assert!(server.is_err_and(|error| error.reason != "timeout"));
}

#[tokio::test]
async fn each_refusal_has_its_word() {
    let (ca, other) = (Ca::new(), Ca::new());
    let catalog = MeshTls::new(ca.identity("catalog"));
    let any = |identity| MeshTls::new(identity).connector(&[], Offer::Http1);
    let now = SystemTime::now();
    let expired = Validity { not_before: now - 2 * HOUR, not_after: now - HOUR };
    let early = Validity { not_before: now + HOUR, not_after: now + 2 * HOUR };
    let stranger = other.identity_for("storefront", Validity::around(now, HOUR, HOUR), &ca);
    for (identity, reason) in [
        (ca.identity_for("storefront", expired, &ca), "expired"),
        (ca.identity_for("storefront", early, &ca), "not_yet_valid"),
        (stranger, "unknown_ca"),
    ] {
        let (_, server) = shake(&any(identity), &catalog).await;
        let error = server.unwrap_err();
        assert_eq!(error.reason, reason, "{}", error.message);
    }
    // And the server that the client does not trust.
    let distrusts = ca.identity_for("storefront", Validity::around(now, HOUR, HOUR), &other);
    let (client, server) = shake(&any(distrusts), &catalog).await;
    assert_eq!((client.unwrap_err().reason, server.unwrap_err().reason), ("unknown_ca", "unknown_ca"));
}

#[tokio::test]
async fn what_is_no_client_of_the_mesh_is_refused() {
    let tls = MeshTls::new(Ca::new().identity("catalog"));
    let refused = async |bytes: &[u8], close: bool, bound: Duration| {
        let (mut near, far) = pair().await;
        near.write_all(bytes).await.unwrap();
        if close {
            near.shutdown().await.unwrap();
        }
        accept(&tls, Replay::new(far), bound).await.unwrap_err().reason
    };
    assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n", false, BOUND).await, "protocol");
    assert_eq!(refused(b"\x16\x03\x01", true, BOUND).await, "closed");
    assert_eq!(refused(b"\x16\x03\x01", false, Duration::from_millis(10)).await, "timeout");
    // TLS without a certificate.
    let config = client_config(&tls.identity, vec![], anybody(&tls.identity)).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let (near, far) = pair().await;
    let connect = TlsConnector::from(Arc::new(config)).connect(server_name("a", [127, 0, 0, 1].into()), near);
    let (_, server) = tokio::join!(connect, accept(&tls, Replay::new(far), BOUND));
    assert_eq!(server.unwrap_err().reason, "no_certificate");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn sessions_are_resumed_within_a_generation_and_still_judged() {
    let ca = Ca::new();
    let catalog = MeshTls::new(ca.identity("catalog"));
    let shop = MeshTls::new(ca.identity("storefront"));
    let connector = shop.connector(&[id("catalog")], Offer::Http1);
    assert!(!shake_and_talk(&connector, &catalog).await.1.resumed);
    let (client, server) = shake_and_talk(&connector, &catalog).await;
    assert!(client.resumed && server.resumed);
    assert_eq!((client.peer.spiffe_id, server.peer.spiffe_id), (id("catalog"), id("storefront")));
    // A newer identity, on either side, begins anew.
    let renewed = MeshTls::new(ca.identity("catalog"));
    assert!(!shake_and_talk(&connector, &renewed).await.1.resumed);
    // So does another set of expected identities.
    assert!(!shake_and_talk(&shop.connector(&[], Offer::Http1), &catalog).await.1.resumed);
}

#[tokio::test]
async fn a_resumed_client_whose_certificate_has_expired_is_refused() {
    let ca = Ca::new();
    let catalog = MeshTls::new(ca.identity("catalog"));
    let shop = MeshTls::new(ca.identity("storefront"));
    let connector = shop.connector(&[], Offer::Http1);
    shake_and_talk(&connector, &catalog).await;
    let (near, far) = pair().await;
    let name = server_name("catalog.shop", [127, 0, 0, 1].into());
    // The ticket is good, but by this clock the certificate in it is not.
    let later = || SystemTime::now() + 2 * HOUR;
    let (client, server) = tokio::join!(
        connect(&connector, near, name, BOUND),
        handshake::accept_by(&catalog, Replay::new(far), BOUND, later)
    );
    assert!(client.unwrap().1.resumed);
    assert_eq!(server.unwrap_err().reason, "expired");
}

#[tokio::test]
async fn connectors_are_made_once_per_set_and_offer() {
    let tls = MeshTls::new(Ca::new().identity("a"));
    let first = tls.connector(&[id("b")], Offer::Http1);
    assert!(Arc::ptr_eq(&first.0, &tls.connector(&[id("b")], Offer::Http1).0));
    assert!(!Arc::ptr_eq(&first.0, &tls.connector(&[id("b")], Offer::Http2).0));
    assert!(!Arc::ptr_eq(&first.0, &tls.connector(&[], Offer::Http1).0));
    assert_eq!(first.generation(), tls.generation());
}

#[tokio::test]
async fn a_gateway_answers_clients_without_certificate() {
    let (folder, ca) = (Folder::new(), Ca::new());
    let issued = ca.0.issue(&id("gateway"), Validity::around(SystemTime::now(), HOUR, HOUR)).unwrap();
    let (certificate, key) = (folder.write("c.pem", &issued.chain_pem), folder.write("k.pem", &issued.key_pem));
    let gateway = GatewayTls::load(&certificate, &key).unwrap();
    let client = ca.identity("x");
    let config = client_config(&client, owned(&[b"h2"]), anybody(&client)).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let (near, far) = pair().await;
    let connect = TlsConnector::from(Arc::new(config)).connect(server_name("a", [127, 0, 0, 1].into()), near);
    let (client, server) = tokio::join!(connect, accept_gateway(&gateway, Replay::new(far), BOUND));
    client.unwrap();
    assert_eq!(server.unwrap().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert!(
        GatewayTls::load(Path::new("/nonexistent.pem"), &key).unwrap_err().to_string().contains("/nonexistent.pem")
    );
}

#[test]
fn names_that_are_not_dns_give_way_to_the_address() {
    let address = IpAddr::from([10, 0, 0, 1]);
    assert!(
        matches!(server_name("catalog.shop", address), ServerName::DnsName(name) if name.as_ref() == "catalog.shop")
    );
    for odd in ["", "a b", "x:80", "*.a"] {
        assert_eq!(server_name(odd, address), ServerName::from(address), "{odd:?}");
    }
}
