use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use remora_model::WeightedCluster;

use super::*;

fn head(method: &str, authority: &str, path: &str) -> RequestHead {
    RequestHead {
        method: method.parse().unwrap(),
        scheme: None,
        authority: (!authority.is_empty()).then(|| authority.parse().unwrap()),
        path: path.parse().unwrap(),
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        upgrade: None,
        protocol: None,
        spelling: Default::default(),
        repeats: false,
    }
}

fn route(name: &str, path: PathMatch) -> Route {
    Route {
        name: name.into(),
        matcher: RouteMatch { path, ..RouteMatch::default() },
        clusters: vec![WeightedCluster { cluster: ClusterId(0), weight: 1 }],
        request_timeout: None,
        retry_idempotent: false,
        prefix_rewrite: None,
    }
}

fn prefix(path: &str) -> Route {
    route(path, PathMatch::Prefix(path.into()))
}

fn host(domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    VirtualHost { domains: domains.iter().map(|&domain| domain.into()).collect(), routes }
}

fn one(routes: Vec<Route>) -> RouteTable {
    RouteTable { virtual_hosts: vec![host(&["*"], routes)] }
}

fn selected<'a>(table: &'a RouteTable, authority: &str, path: &str) -> Option<&'a str> {
    select(table, &head("GET", authority, path)).map(|route| &*route.name)
}

#[test]
fn prefixes_match_whole_segments_without_the_query() {
    let table =
        one(vec![route("exact", PathMatch::Exact("/api/health".into())), prefix("/api"), prefix("/dir/"), prefix("/")]);
    for (path, name) in [
        ("/api", "/api"),
        ("/api/", "/api"),
        ("/api/x", "/api"),
        ("/api?x=/y", "/api"),
        ("/apix", "/"),
        ("/API", "/"),
        ("/x/api", "/"),
        ("/api/health", "exact"),
        ("/api/health?x", "exact"),
        ("/api/health/", "/api"),
        ("/dir/x", "/dir/"),
        ("/dir", "/"),
        ("*", "/"),
        ("/x?/api", "/"),
    ] {
        assert_eq!(selected(&table, "a", path), Some(name), "{path}");
    }
}

#[test]
fn paths_are_compared_as_they_are_forwarded() {
    let table = one(vec![prefix("/api"), prefix("/")]);
    for path in ["/x/../api", "//api", "/%61pi", "/./api", "/api%2fx", "/x/%2e%2e/api"] {
        assert_eq!(selected(&table, "a", path), Some("/"), "{path}");
    }
    assert_eq!(selected(&table, "a", "/api/../x"), Some("/api"));
}

#[test]
fn the_most_specific_domain_wins_whatever_the_order() {
    let table = RouteTable {
        virtual_hosts: vec![
            host(&["*"], vec![prefix("/any")]),
            host(&["*.example"], vec![prefix("/short")]),
            host(&["*.shop.example", "other"], vec![prefix("/long")]),
            host(&["a.shop.example"], vec![prefix("/exact")]),
        ],
    };
    let answers_at = |authority, path| selected(&table, authority, path) == Some(path);
    assert!(answers_at("a.shop.example", "/exact"));
    assert!(answers_at("A.Shop.EXAMPLE:8080", "/exact"));
    assert!(answers_at("a.shop.example.", "/exact"));
    assert!(answers_at("b.shop.example", "/long"));
    assert!(answers_at("c.b.shop.example", "/long"));
    assert!(answers_at("other:1", "/long"));
    assert!(answers_at("shop.example", "/short"));
    assert!(answers_at("example", "/any"));
    assert!(answers_at("", "/any"));
    assert!(answers_at("[::1]:80", "/any"));
    // Its host answers for it even without a route.
    assert_eq!(selected(&table, "a.shop.example", "/any"), None);
}

#[test]
fn a_star_needs_a_label_and_bytes_may_not_split_a_character() {
    let table = RouteTable { virtual_hosts: vec![host(&["*.a"], vec![prefix("/")])] };
    assert_eq!(selected(&table, ".a", "/"), None);
    assert_eq!(selected(&table, "b.a", "/"), Some("/"));
    assert!(fit("*.ä", "xä").is_none());
    assert!(select(&RouteTable::default(), &head("GET", "a", "/")).is_none());
}

#[test]
fn methods_and_headers_must_all_hold() {
    let mut narrow = prefix("/");
    narrow.matcher.methods = vec![Method::GET, Method::HEAD];
    let name = HeaderName::from_static("x-a");
    narrow.matcher.headers = vec![
        HeaderMatch { name: name.clone(), value: Some("1".into()) },
        HeaderMatch { name: HeaderName::from_static("x-b"), value: None },
    ];
    let table = one(vec![narrow]);
    let request = |method, headers: &[(&'static str, &'static str)]| {
        let mut head = head(method, "a", "/");
        for &(name, value) in headers {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        select(&table, &head).is_some()
    };
    assert!(request("GET", &[("x-a", "1"), ("x-b", "")]));
    assert!(request("HEAD", &[("x-a", "0"), ("x-a", "1"), ("x-b", "2")]));
    assert!(!request("POST", &[("x-a", "1"), ("x-b", "")]));
    assert!(!request("GET", &[("x-a", "2"), ("x-b", "")]));
    assert!(!request("GET", &[("x-a", "1")]));
}

#[test]
fn clusters_share_the_range_by_weight() {
    let mut split = prefix("/");
    let share = |cluster, weight| WeightedCluster { cluster: ClusterId(cluster), weight };
    split.clusters = vec![share(1, 0), share(2, 90), share(3, 10), share(4, 0)];
    let nth = |n: u64| ((n * (1 << 32)).div_ceil(1000)) as u32;
    let picks: Vec<_> = (0..1000).map(|n| pick_cluster(&split, nth(n)).0).collect();
    assert_eq!(picks.iter().filter(|&&cluster| cluster == 2).count(), 900);
    assert_eq!(picks.iter().filter(|&&cluster| cluster == 3).count(), 100);
    assert_eq!((pick_cluster(&split, 0).0, pick_cluster(&split, u32::MAX).0), (2, 3));
}

#[test]
fn a_rewrite_replaces_the_matched_part_only() {
    let rewritten = |matcher: PathMatch, replacement: &str, path: &str| {
        let mut route = route("r", matcher);
        route.prefix_rewrite = Some(replacement.into());
        rewrite(&route, &path.parse().unwrap()).map(|path| path.to_string())
    };
    let api = || PathMatch::Prefix("/api".into());
    assert_eq!(rewritten(api(), "/", "/api/x/../y?q=/api").as_deref(), Some("/x/../y?q=/api"));
    assert_eq!(rewritten(api(), "/", "/api").as_deref(), Some("/"));
    assert_eq!(rewritten(api(), "/v2", "/api").as_deref(), Some("/v2"));
    assert_eq!(rewritten(api(), "/v2/", "/api//x").as_deref(), Some("/v2//x"));
    assert_eq!(rewritten(api(), "/v2", "/api/?").as_deref(), Some("/v2/?"));
    assert_eq!(rewritten(PathMatch::Prefix("/".into()), "/v2", "/x").as_deref(), Some("/v2/x"));
    assert_eq!(rewritten(PathMatch::Exact("/a".into()), "/b", "/a?x").as_deref(), Some("/b?x"));
    assert_eq!(rewritten(PathMatch::Prefix("/".into()), "/v2", "*"), None);
    assert_eq!(rewrite(&prefix("/api"), &"/api".parse().unwrap()), None);
}
