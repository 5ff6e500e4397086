use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// The first flight of a real client.
fn client_hello(name: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(remora_certs::tls::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same handshake bytes in records of `size`.
fn in_records_of(size: usize, hello: &[u8]) -> Vec<u8> {
    let record = |fragment: &[u8]| [&[22, 3, 1, 0, fragment.len() as u8], fragment].concat();
    hello[5..].chunks(size).flat_map(record).collect()
}

fn tls(sni: Option<&str>, alpn: &[&[u8]]) -> Verdict {
    let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Verdict::Tls(ClientHello { sni: sni.map(Arc::from), alpn })
}

/// A ClientHello with exactly these extensions.
fn hello_with(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &(content.len() as u16).to_be_bytes(), content].concat())
        .collect();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(&extensions);
    let message = [&[1, 0], &(body.len() as u16).to_be_bytes()[..], &body].concat();
    [&[22, 3, 1], &(message.len() as u16).to_be_bytes()[..], &message].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    let entry = [&[0], &(name.len() as u16).to_be_bytes()[..], name].concat();
    [&(entry.len() as u16).to_be_bytes()[..], &entry].concat()
}

/// Every prefix of `bytes` is undecided, or judged as the whole is.
fn assert_stable(bytes: &[u8]) {
    let whole = classify(bytes);
    let mut decided = false;
    for end in 0..=bytes.len() {
        let verdict = classify(&bytes[..end]);
        assert!(
            verdict == whole || (!decided && verdict == Verdict::NeedMore),
            "{end} bytes of {bytes:02x?}: {verdict:?}"
        );
        decided |= verdict != Verdict::NeedMore;
    }
}

#[test]
fn reads_a_real_client_hello() {
    let hello = client_hello("catalog.shop", &[b"remora-h2", b"istio-http/1.1"]);
    assert_eq!(classify(&hello), tls(Some("catalog.shop"), &[b"remora-h2", b"istio-http/1.1"]));
    assert_eq!(classify(&client_hello("10.0.0.1", &[])), tls(None, &[]));
    // What follows in the same read changes nothing.
    assert_eq!(classify(&[&hello[..], b"\x17\x03\x03early"].concat()), classify(&hello));
    for size in [1, 7, 100] {
        assert_eq!(classify(&in_records_of(size, &hello)), classify(&hello), "records of {size}");
    }
}

#[test]
fn only_the_meshs_protocols_make_it_the_meshs() {
    let is_mesh = |alpn: &[&[u8]]| match classify(&client_hello("a", alpn)) {
        Verdict::Tls(hello) => hello.is_mesh(),
        other => panic!("{other:?}"),
    };
    for protocol in ["remora-h2", "istio-h2", "istio-http/1.1", "istio"] {
        assert!(is_mesh(&[b"x", protocol.as_bytes()]), "{protocol}");
    }
    assert!(!is_mesh(&[b"h2", b"http/1.1"]) && !is_mesh(&[]) && !is_mesh(&[b"istio-peer-exchange"]));
}

#[test]
fn http_is_told_by_its_request_line() {
    for http1 in [
        "GET /",
        "POST /x HTTP/1.0\r\n",
        "get / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "CONNECT a:443 HTTP/1.1\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "M-SEARCH * HTTP/1.1\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "\r\n\r\nPROPFIND /dav HTTP/1.1\r\n",
        "BREW /",
        "brew /ä HTTP/1.1",
        // Refused by us, and not by everyone.
        "\r\n\r\n\r\nGET /",
        "\rGET / HTTP/1.1\r\n",
        "GET  / HTTP/1.1\r\n",
        " GET /",
        "GET\t/admin\tHTTP/1.1\r\n",
        "PROPFIND\u{b}/dav",
        "brew\u{b}/dav\u{1f}HTTP/1.1\r\n",
        "brew /d\u{a0}v HTTP/01.1\r\n",
        "brew a\tHTTP/x HTTP/0.9",
        "brew / HTTP/2.0\r\n",
        "brew / http/.1",
        "G@T / HTTP/1.1",
        "GÄT / HTTP/1.1",
        "SOURCE /x ICE/1.1\r\n",
        "SOURCE http://a/ ICE/1.1\r\n",
        "GET_PARAMETER /x RTSP/1.0\r\n",
        "OPTIONS * RTSP/1.0\r\n",
        "OPTIONS http://a/ RTSP/1.0\r\n",
        "GET rtsp://a/x RTSP/1.0\r\n",
        "POST x://a/",
        "PROPFIND http://a/\r\n",
        "PROPFIND x-y://a/\r\n",
        "OPTIONS *\r\n",
        "GET http://a/\r\n",
        &format!("{} / HTTP/1.1", "X".repeat(40)),
        &format!("PROPFIND /{}", "x".repeat(LIMIT)),
        &format!("GET http://a/{}", "x".repeat(LIMIT)),
        &format!("OPTIONS http://a/{}", "x".repeat(LIMIT)),
        &format!("brew /{}", "x".repeat(LIMIT)),
        &"\r\n".repeat(LIMIT / 2),
        &format!("G@T{}", " ".repeat(LIMIT)),
        &format!("OPTIONS *{}RT", " ".repeat(LIMIT - 11)),
    ] {
        assert_eq!(classify(http1.as_bytes()), Verdict::Http1, "{http1:?}");
    }
    for http2 in ["PRI * HTTP/", "PRI * HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"] {
        assert_eq!(classify(http2.as_bytes()), Verdict::Http2, "{http2:?}");
    }
    for open in [
        "",
        "G",
        "GET",
        "GET ",
        "PRI ",
        "OPTIONS *",
        "OPTIONS * HTTP/",
        "OPTIONS * rt",
        "GET htt",
        "GET key",
        "brew /",
        "G@",
        "\r",
        "\r\n\r\n",
        "SSH-2.0-x",
        "PRIX",
    ] {
        assert_eq!(classify(open.as_bytes()), Verdict::NeedMore, "{open:?}");
    }
    for tcp in [
        "OPTIONS rtsp://a/ RTSP/1.0\r\n",
        "INVITE sip:a SIP/2.0\r\n",
        "SSH-2.0-OpenSSH_9.2 Debian\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "set key 0 60 5\r\n",
        "GET key\r\n",
        "CONNECT {\"verbose\":false}\r\n",
        "DESCRIBE rtsp://a/ RTSP/1.0\r\n",
        "REQMOD icap://a/ ICAP/1.0\r\n",
        "REGISTER sips:a S",
        "GNUTELLA CONNECT/0.6\r\n",
        "CONNECT\naccept-version:1.2\n",
        "NICK a\r\nUSER a 0 * :a\r\n",
        "EHLO a\r\n",
        "PUB a.b 5\r\n",
        "KEYS *\r\n",
        "SET key v",
        "get /key\r\n",
        "set /key 0",
        "gets http://a/\r\n",
        "brew / HTTP/x\r\n",
        "brew /dav v HTTP/1.1\r\n",
        "{",
        "<",
        "[1",
        "8=FIX.4.4\u{1}",
        "0\u{c}\u{2}\u{1}\u{1}`",
        "\t\r\n\0",
        &"x".repeat(LIMIT),
        &format!("AUTH {}", "x".repeat(LIMIT)),
        "\0\0\0\x08\x04\x52\x16\x2f",
        "PRI * FTP",
    ] {
        assert_eq!(classify(tcp.as_bytes()), Verdict::Tcp, "{tcp:?}");
    }
}

#[test]
fn splitting_anywhere_changes_nothing() {
    let hello = client_hello("a.example", &[b"istio"]);
    assert_stable(&hello);
    assert_stable(&in_records_of(1, &hello));
    assert_stable(&in_records_of(3, &hello));
    for text in [
        "OPTIONS * HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\r\n\nPOST http://a/x HTTP/1.0\r\n\r\n",
        "OPTIONS rtsp://a/ RTSP/1.0\r\n",
        "\r\n\r\n\r\n",
        "PRIORITY / HTTP/1.1\r\n",
        "\tbrew\t/\u{85}x\u{a0}\r HTTP/1.1\r\n",
        "brew /\u{e0} HTTP/1.1\r\n",
        "OPTIONS * RTSP/1.0\r\n",
        "DESCRIBE http://a/x http/1.1\r\n",
        "PROPFIND x-y://a/\r\n",
        "GET key\r\n",
        "0\u{c}\u{2}\u{1}\u{1}`",
    ] {
        assert_stable(text.as_bytes());
    }
    assert_stable(&[b"X".repeat(40), b" / HTTP/1.1".to_vec()].concat());
    assert_stable(&[b"brew /".to_vec(), b"x".repeat(LIMIT + 9), b" HTTP/1.1\r\n".to_vec()].concat());
    // 16 KiB of records of one byte each, ended just beyond the limit.
    let long = hello_with(&[(21, &[0; 2800]), (16, b"\0\x06\x05istio")]);
    assert_eq!(classify(&long), tls(None, &[b"istio"]));
    assert!(in_records_of(1, &long).len() > LIMIT);
    assert_stable(&in_records_of(1, &long));
    assert_eq!(classify(&in_records_of(1, &long)), tls(None, &[]));
}

#[test]
fn hostile_client_hellos_are_tls_without_details() {
    let alpn: &[u8] = b"\0\x06\x05istio";
    let mesh: &[&[u8]] = &[b"istio"];
    assert_eq!(classify(&hello_with(&[(0, &server_name(b"A")), (16, alpn)])), tls(Some("a"), mesh));
    for odd in [&b"a\0b"[..], b"", b"a b", &[b'a'; 300], "ä".as_bytes()] {
        assert_eq!(classify(&hello_with(&[(0, &server_name(odd)), (16, alpn)])), tls(None, mesh), "{odd:?}");
    }
    let nothing = tls(None, &[]);
    for broken in [
        hello_with(&[(0, &server_name(b"a")), (0, &server_name(b"b"))]),
        hello_with(&[(16, alpn), (16, alpn)]),
        hello_with(&[(0, b"\0\xff\0")]),
        hello_with(&[(16, b"\0\x09\x08istio")]),
        hello_with(&[(16, b"")]),
        // A handshake message of 16 MiB.
        vec![22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
        // The message goes on in a record of application data.
        [&[22, 3, 1, 0, 6, 1, 0, 1, 0, 0, 0], &b"\x17\x03\x03\0\x05"[..]].concat(),
        // ... or in an empty record.
        [&[22, 3, 1, 0, 6, 1, 0, 1, 0, 0, 0], &b"\x16\x03\x03\0\0"[..]].concat(),
    ] {
        assert_eq!(classify(&broken), nothing, "{broken:02x?}");
        assert_stable(&broken);
    }
    for other in [
        &b"\x16\x02"[..],
        b"\x16\x03\x05",
        b"\x16\x03\x01\0\0\x01",
        b"\x16\x03\x01\x40\x01\x01",
        b"\x16\x03\x01\0\x05\x02",
    ] {
        assert_eq!(classify(other), Verdict::Tcp, "{other:02x?}");
        assert_stable(other);
    }
}

#[test]
fn truncations_and_bit_flips_never_panic_and_stay_stable() {
    let hello = client_hello("a.example", &[b"istio", b"h2"]);
    for at in 0..hello.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = hello.clone();
            bytes[at] ^= flip;
            let verdict = classify(&bytes);
            for end in [at, at + 1, bytes.len() - 1] {
                let part = classify(&bytes[..end]);
                assert!(part == verdict || part == Verdict::NeedMore, "byte {at} ^ {flip:#x}, {end} bytes");
            }
        }
    }
}

const LIMITS: Limits = Limits {
    first_byte: Some(Duration::from_millis(20)),
    complete: Duration::from_secs(20),
    unclear: Duration::from_secs(10),
};

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_told_and_can_be_asked_again() {
    let (mut client, server) = duplex(64);
    let mut io = Replay::new(server);
    assert_eq!(inspect(&mut io, LIMITS).await.unwrap(), Inspected::Silent);
    let unbounded = Limits { first_byte: None, ..LIMITS };
    let (inspected, ()) = tokio::join!(inspect(&mut io, unbounded), async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    });
    assert_eq!(inspected.unwrap(), Inspected::Http1);
    let mut replayed = [0; 18];
    io.read_exact(&mut replayed).await.unwrap();
    assert_eq!(&replayed, b"GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_beginning_is_undecided_after_its_time_however_it_drips() {
    let (mut client, server) = duplex(64);
    let mut io = Replay::new(server);
    let start = Instant::now();
    let drip = async {
        for byte in b"OPTIONS" {
            client.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    };
    let inspected = async {
        let inspected = inspect(&mut io, LIMITS).await.unwrap();
        (inspected, start.elapsed())
    };
    let ((inspected, elapsed), ()) = tokio::join!(inspected, drip);
    assert_eq!(inspected, Inspected::Undecided);
    assert_eq!(elapsed.as_secs(), 10);
    assert_eq!(&io.prefix[..], b"OPTI");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_client_is_told_and_what_it_sent_is_kept() {
    let (client, server) = duplex(64);
    drop(client);
    assert_eq!(inspect(&mut Replay::new(server), LIMITS).await.unwrap(), Inspected::Eof);
    let (mut client, server) = duplex(64);
    client.write_all(b"HELO").await.unwrap();
    drop(client);
    let mut io = Replay::new(server);
    assert_eq!(inspect(&mut io, LIMITS).await.unwrap(), Inspected::Tcp);
    assert_eq!(&io.prefix[..], b"HELO");
}

#[tokio::test(start_paused = true)]
async fn a_client_hello_in_single_bytes_is_put_together_and_a_known_prefix_counts() {
    let hello = client_hello("a.example", &[b"istio"]);
    let (mut client, server) = duplex(1);
    let mut io = Replay::new(server);
    io.prefix.extend_from_slice(&hello[..1]);
    let (inspected, ()) =
        tokio::join!(inspect(&mut io, LIMITS), async { client.write_all(&hello[1..]).await.unwrap() });
    assert!(matches!(inspected.unwrap(), Inspected::Tls(hello) if hello.is_mesh()));
    assert_eq!(&io.prefix[..], hello);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_inspection_loses_nothing() {
    let (mut client, server) = duplex(64);
    let mut io = Replay::new(server);
    client.write_all(b"OPT").await.unwrap();
    let cancelled = timeout(Duration::from_secs(1), inspect(&mut io, LIMITS)).await;
    assert!(cancelled.is_err());
    client.write_all(b"IONS * HTTP/1.1\r\n").await.unwrap();
    assert_eq!(inspect(&mut io, LIMITS).await.unwrap(), Inspected::Http1);
    assert_eq!(&io.prefix[..], b"OPTIONS * HTTP/1.1\r\n");
}

#[tokio::test(start_paused = true)]
async fn half_a_client_hello_has_a_bound_of_its_own() {
    let (mut client, server) = duplex(64);
    client.write_all(&[0x16, 3, 1]).await.unwrap();
    let start = Instant::now();
    assert_eq!(inspect(&mut Replay::new(server), LIMITS).await.unwrap(), Inspected::Undecided);
    assert_eq!(start.elapsed().as_secs(), 20);
}
