use super::*;

#[test]
fn only_service_and_method_make_a_grpc_name() {
    let cases = [
        ("/shop.Catalog/List", Some(("shop.Catalog", "List"))),
        ("/a/b/c", None),
        ("/a/", None),
        ("//b", None),
        ("a/b", None),
        ("", None),
    ];
    for (path, expected) in cases {
        assert_eq!(grpc_method(path), expected, "{path}");
    }
}

#[test]
fn a_response_without_grpc_status_is_judged_by_its_http_status() {
    for (http, grpc) in [(200, 2), (400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (503, 14), (500, 2)] {
        assert_eq!(grpc_status_of(StatusCode::from_u16(http).ok()), Some(grpc), "{http}");
    }
    assert_eq!(grpc_status_of(None), None);
}

#[test]
fn what_is_no_code_is_unknown() {
    for (text, expected) in [("0", 0), ("16", 16), ("17", 2), ("-1", 2), ("", 2), ("256", 2)] {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", text.parse().unwrap());
        assert_eq!(grpc_status(&trailers), Some(expected), "{text:?}");
    }
    assert_eq!(grpc_status(&HeaderMap::new()), None);
}

#[test]
fn methods_nobody_knows_do_not_name_spans() {
    assert_eq!(known_method(&Method::from_bytes(b"GETX").unwrap()), None);
    assert_eq!(known_method(&Method::PATCH), Some("PATCH"));
}
