use http::uri::PathAndQuery;

use super::*;
use crate::http::spelling::Form;

fn head(fields: &[(&'static str, &'static str)]) -> RequestHead {
    let headers = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    RequestHead {
        method: http::Method::GET,
        scheme: None,
        authority: None,
        path: PathAndQuery::from_static("/"),
        version: Version::HTTP_2,
        headers: headers.collect(),
        upgrade: None,
        protocol: None,
        spelling: Spelling::default(),
        repeats: false,
    }
}

fn receive(head: &mut RequestHead, trust: &Trust) -> Vec<&'static str> {
    let mut told = Vec::new();
    super::receive(head, trust, |fault| told.push(fault));
    told
}

fn names(head: &RequestHead) -> Vec<&str> {
    head.headers.keys().map(HeaderName::as_str).collect()
}

#[test]
fn the_hop_header_is_believed_from_our_own_sidecar_only() {
    let mut theirs = head(&[("x-remora-hop", "1.1")]);
    receive(&mut theirs, &Trust::default());
    assert_eq!((theirs.version, names(&theirs)), (Version::HTTP_2, vec![]));
    let mut ours = head(&[("x-remora-hop", "1.0")]);
    receive(&mut ours, &Trust { hop: true, ..Trust::default() });
    assert_eq!((ours.version, names(&ours)), (Version::HTTP_10, vec![]));
}

#[test]
fn a_target_is_taken_from_the_hop_only_where_it_is_the_path_that_rules_see() {
    for (path, hop, trusted, expected) in [
        ("/a%3C", "1.1;l;/a<", true, Some(&b"/a<"[..])),
        ("/a%3C", "1.1;l;/a<", false, None),
        ("/public", "1.1;l;/admin<", true, None),
        ("/a%3C", "1.1;l;/a< HTTP/1.1", true, None),
    ] {
        let mut head = head(&[("x-remora-hop", hop)]);
        head.path = PathAndQuery::from_static(path);
        receive(&mut head, &Trust { hop: trusted, ..Trust::default() });
        assert_eq!((head.spelling.target(), names(&head)), (expected, vec![]), "{path} {hop}");
    }
}

#[test]
fn what_a_client_should_not_have_said_is_told() {
    let (stranger, sidecar) = (Trust::default, || Trust { hop: true, ..Trust::default() });
    let application = || Trust { application: true, ..Trust::default() };
    for (fields, trust, expected) in [
        (&[("x-envoy-internal", "1"), ("l5d-dst-override", "a")][..], stranger(), &["forged_headers"][..]),
        (&[("x_forwarded_client_cert", "a")], stranger(), &["forged_headers"]),
        (&[("x_forwarded_client_cert", "a"), ("x-b", "1")], application(), &[]),
        (&[("x-remora-hop", "1.1")], stranger(), &["forged_headers"]),
        (&[("x-remora-hop", "1.1;t,ETag;/")], sidecar(), &[]),
        (&[("x-remora-hop", "2.0")], sidecar(), &["hop_word"]),
        (&[("x-remora-hop", "1.1;t;/admin"), ("x-envoy-a", "1")], sidecar(), &["hop_word", "forged_headers"]),
        (&[("connection", "close, te, x-a, transfer-encoding"), ("te", "trailers"), ("x-a", "1")], stranger(), &[]),
        (&[("connection", "close, Content-Length")], stranger(), &["connection_option"]),
        (&[("connection", "host")], application(), &["connection_option"]),
    ] {
        assert_eq!(receive(&mut head(fields), &trust), expected, "{fields:?}");
    }
    for (version, target, host, expected) in [
        (Version::HTTP_11, "a", "b", Some("host_overridden")),
        (Version::HTTP_11, "a:81", "a", Some("host_overridden")),
        (Version::HTTP_11, "a:80", "A", None),
        (Version::HTTP_2, "a", "b", None),
    ] {
        let mut head = head(&[("host", host)]);
        (head.version, head.authority) = (version, Some(target.parse().unwrap()));
        assert_eq!(receive(&mut head, &Trust::default()), [""; 0], "it is said by Host alone");
        head.scheme = Some(http::uri::Scheme::HTTP);
        let told = receive(&mut head, &Trust::default());
        assert_eq!(told.first().copied(), expected, "{version:?} {target} {host}");
    }
}

#[test]
fn what_is_taken_out_is_known_by_its_name() {
    let kinds = [
        ("x-remora-hop", Kind::Hop),
        ("x_remora-hop", Kind::Private),
        ("x-remora-reason", Kind::Private),
        ("x.forwarded~client.cert", Kind::Private),
        ("x-remora-reasons", Kind::Ordinary),
        ("te", Kind::OfAHop),
        ("keep-alive", Kind::OfAHop),
        ("http2-settings", Kind::OfAHop),
        ("l5d-dst-override", Kind::Foreign),
        ("link", Kind::Ordinary),
        ("content-type", Kind::Ordinary),
    ];
    for (name, kind) in kinds {
        assert_eq!(Kind::of(name), kind, "{name}");
    }
}

#[test]
fn a_response_says_why_nothing_was_delivered() {
    let mut headers = HeaderMap::new();
    assert_eq!(undelivered(&headers), None);
    headers.insert(&REASON, HeaderValue::from_static("UF cannot connect"));
    assert_eq!(undelivered(&headers), None);
    mark_undelivered(&mut headers);
    assert_eq!(undelivered(&headers).as_deref(), Some("cannot connect"));
    strip_hop(&mut headers);
    assert_eq!(headers.len(), 1);
}

#[test]
fn what_a_426_requires_crosses_the_hop_and_nothing_else_does() {
    let told = |head: &ResponseHead| {
        let fields = head.headers.get_all(header::UPGRADE).iter();
        fields.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join("; ")
    };
    for (status, expected) in [(426, "TLS/1.3, websocket; echo"), (200, "")] {
        let mut spelling = Spelling::default();
        spelling.learn("ETag", Form::of(b"ETag"), true);
        let fields = [("upgrade", "TLS/1.3, websocket"), ("connection", "upgrade"), ("upgrade", "echo")];
        let mut head = ResponseHead {
            status: StatusCode::from_u16(status).unwrap(),
            version: Version::HTTP_11,
            headers: head(&fields).headers,
            spelling: spelling.clone(),
        };
        pass_response(&mut head, Towards::Hop);
        assert!(!head.headers.contains_key(header::CONNECTION));
        assert!(!head.headers.contains_key(header::UPGRADE), "HTTP/2 has no such field");
        head.spelling = Spelling::default();
        learn_spelling(&mut head);
        pass_response(&mut head, Towards::Http1);
        assert_eq!((&told(&head)[..], &head.spelling), (expected, &spelling));
        assert!(!head.headers.contains_key(&HOP));
        pass_response(&mut head, Towards::Http2);
        assert_eq!(told(&head), "");
    }
}

#[test]
fn a_claimed_caller_is_replaced_or_removed() {
    let mut plaintext = head(&[("x-forwarded-client-cert", "URI=spiffe://evil/x")]);
    receive(&mut plaintext, &Trust::default());
    assert_eq!(names(&plaintext), Vec::<&str>::new());
    let mut verified = head(&[("x-forwarded-client-cert", "URI=spiffe://evil/x")]);
    let caller = HeaderValue::from_static("URI=spiffe://good/x");
    receive(&mut verified, &Trust { forwarded_client_cert: Some(caller.clone()), ..Trust::default() });
    assert_eq!(verified.headers.get_all(&FORWARDED_CLIENT_CERT).iter().collect::<Vec<_>>(), [&caller]);
}

#[test]
fn a_grpc_timeout_is_read_in_its_unit() {
    let timeout = |value: &'static str| {
        grpc_timeout(&HeaderMap::from_iter([(GRPC_TIMEOUT.clone(), HeaderValue::from_static(value))]))
    };
    assert_eq!(timeout("1m"), Some(Duration::from_millis(1)));
    assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    for invalid in ["", "m", "1", "1x", "-1m", "+1m", "123456789n", "1 m"] {
        assert_eq!(timeout(invalid), None, "{invalid:?}");
    }
}

#[test]
fn strangers_do_not_speak_for_other_proxies() {
    let fields = [("x-envoy-original-path", "/a"), ("l5d-dst-override", "b"), ("x-envoyage", "1")];
    let (mut stranger, mut peer) = (head(&fields), head(&fields));
    receive(&mut stranger, &Trust::default());
    assert_eq!(names(&stranger), ["x-envoyage"]);
    let caller = HeaderValue::from_static("URI=spiffe://good/x");
    receive(&mut peer, &Trust { forwarded_client_cert: Some(caller), ..Trust::default() });
    assert!(peer.headers.contains_key("l5d-dst-override"));
}

#[test]
fn what_reads_like_a_private_name_goes_too() {
    let fields = [
        ("x_forwarded_client_cert", "URI=spiffe://evil/x"),
        ("x-forwarded_client-cert", "URI=spiffe://evil/x"),
        ("x_remora_hop", "1.1"),
        ("x_forwarded_client_certs", "1"),
        ("x_request_id", "1"),
    ];
    let (mut theirs, mut application) = (head(&fields), head(&fields));
    receive(&mut theirs, &Trust::default());
    let mut left = names(&theirs);
    left.sort_unstable();
    assert_eq!(left, ["x_forwarded_client_certs", "x_request_id"]);
    receive(&mut application, &Trust { application: true, ..Trust::default() });
    assert_eq!(application.headers.len(), 5, "its own words are nobody's claim");
}

#[test]
fn hop_by_hop_fields_go_and_framing_stays() {
    let mut head = head(&[
        ("connection", "close, x-secret, content-length, host, te"),
        ("x-secret", "1"),
        ("content-length", "3"),
        ("host", "a"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip, trailers"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAA"),
    ]);
    receive(&mut head, &Trust::default());
    let mut left = names(&head);
    left.sort_unstable();
    assert_eq!(left, ["content-length", "host", "te"]);
    assert_eq!(head.headers[header::TE], "trailers");
}

#[test]
fn of_several_te_fields_trailers_stays_once() {
    for [first, second] in [["trailers", "gzip"], ["gzip", "Trailers"], ["trailers", "trailers"]] {
        let mut head = head(&[("te", first), ("te", second)]);
        receive(&mut head, &Trust::default());
        assert!(head.headers.get_all(header::TE).iter().eq(["trailers"]), "{first} and {second}");
    }
}

#[test]
fn what_stands_beside_a_name_in_connection_hides_it_not() {
    let mut head = head(&[("x-secret", "1")]);
    head.headers.insert(header::CONNECTION, HeaderValue::from_bytes(b"x-secret, \xff").unwrap());
    receive(&mut head, &Trust::default());
    assert!(names(&head).is_empty());
}

#[test]
fn an_error_is_a_status_and_a_sentence_or_grpc() {
    let error = Error::NoEndpoint { cluster: "a\u{e9}".into() };
    let (http, body) = error_response(&error, false);
    assert_eq!(http.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(http.headers[&REASON], "UH no healthy endpoint in cluster \"a?\"");
    assert!(matches!(body, Body::Full(_)));
    let (grpc, body) = error_response(&error, true);
    assert_eq!((grpc.status, &grpc.headers[&GRPC_STATUS]), (StatusCode::OK, &HeaderValue::from_static("14")));
    assert_eq!(grpc.headers[&GRPC_MESSAGE], "UH no healthy endpoint in cluster \"a%C3%A9\"");
    assert!(matches!(body, Body::Empty));
}
