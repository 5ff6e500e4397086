use http::HeaderName;

use super::*;

const LIMITS: Limits = Limits { head_bytes: 10_000, headers: 100 };

fn request(authority: Option<&str>, fields: &[(&'static str, &'static str)]) -> RequestHead {
    let headers = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut head = RequestHead::unread();
    head.version = http::Version::HTTP_2;
    head.headers = headers.collect();
    head.authority = authority.map(|authority| authority.parse().unwrap());
    head
}

#[test]
fn an_authority_names_a_host_and_perhaps_a_port() {
    for good in ["a", "a:80", "a:", "[::1]:8080"] {
        assert_eq!(authority(&request(Some(good), &[]), false).unwrap().unwrap(), good);
    }
    for bad in ["user@a", "user:word@a:80", "a:70000", "a:8o"] {
        let Ok(_) = bad.parse::<Authority>() else { continue };
        assert!(authority(&request(Some(bad), &[]), false).is_err(), "{bad}");
    }
    for bad in ["user@a", "a:70000"] {
        assert!(authority(&request(None, &[("host", bad)]), false).is_err(), "{bad}");
    }
    assert!(authority(&request(None, &[]), false).is_err() && authority(&request(None, &[]), true).unwrap().is_none());
}

#[test]
fn lists_are_limited_and_the_crumbs_of_a_cookie_are_one_field() {
    let list = |count: usize, name: &'static str, value: &'static str| {
        let list = std::iter::repeat_n((HeaderName::from_static(name), HeaderValue::from_static(value)), count);
        list.collect::<HeaderMap>()
    };
    let checked = |list: HeaderMap| fields(&mut RequestHead { headers: list, ..RequestHead::unread() }, &LIMITS);
    assert!(checked(list(100, "a", "b")).is_ok());
    let many = checked(list(101, "a", "b ")).unwrap_err();
    assert!(matches!(many, Error::InvalidHead(InvalidHead::TooManyFields(100))), "{many}");
    assert!(checked(list(200, "cookie", "a=1")).is_ok());
    let large = checked(list(300, "cookie", "a=1")).unwrap_err();
    assert!(matches!(large, Error::InvalidHead(InvalidHead::TooLarge(10_000))), "{large}");
    let blank = checked(list(1, "a", "b ")).unwrap_err();
    assert!(matches!(blank, Error::DownstreamProtocol(_)), "{blank}");
}

#[test]
fn whitespace_around_values_is_malformed_and_no_part_of_grpcs() {
    for (kind, good) in [("text/plain", false), ("application/grpc", true), ("application/grpc ", false)] {
        let mut head = request(Some("a"), &[("content-type", kind), ("x", " a b\t"), ("x", " "), ("y", "c")]);
        assert_eq!(fields(&mut head, &LIMITS).is_ok(), good, "{kind}");
        let values: Vec<_> = head.headers.get_all("x").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values == [&b"a b"[..], b""], good, "{values:?}");
    }
}

#[test]
fn a_length_is_one_number() {
    for (lengths, good) in [
        (&["3"][..], true),
        (&["0"], true),
        (&["3", "3"], false),
        (&["3, 3"], false),
        (&["03"], false),
        (&[""], false),
        (&["18446744073709551615"], false),
    ] {
        let lines: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
        assert_eq!(fields(&mut request(Some("a"), &lines), &LIMITS).is_ok(), good, "{lengths:?}");
    }
}

#[test]
fn a_path_begins_with_a_slash_and_is_ascii() {
    for (method, path, good) in [
        (Method::GET, "/a?b", true),
        (Method::OPTIONS, "*", true),
        (Method::GET, "*", false),
        (Method::GET, "/\u{e9}", false),
    ] {
        let mut head = request(Some("a"), &[]);
        (head.method, head.path) = (method, path.parse().unwrap());
        assert_eq!(target(&head, false).is_ok(), good, "{path}");
        assert!(target(&head, true).is_err(), "no path");
    }
    let mut tunnel = request(Some("a"), &[]);
    tunnel.method = Method::CONNECT;
    assert!(target(&tunnel, true).is_ok());
}

#[test]
fn crumbs_become_one_cookie() {
    let mut headers = request(None, &[("cookie", "a=1"), ("x", "1"), ("cookie", "b=2"), ("cookie", "c=3")]).headers;
    join_cookies(&mut headers);
    assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    let mut one = request(None, &[("cookie", "a=1")]).headers;
    join_cookies(&mut one);
    assert_eq!(one[header::COOKIE], "a=1");
}
