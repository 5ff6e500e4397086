use super::*;

#[test]
fn durations() {
    let millis = |text| duration(text).map(|duration| duration.as_millis());
    assert_eq!(millis("0"), Ok(0));
    assert_eq!(millis("0s"), Ok(0));
    assert_eq!(millis("250ms"), Ok(250));
    assert_eq!(millis("15s"), Ok(15_000));
    assert_eq!(millis("5m"), Ok(300_000));
    assert_eq!(millis("8760h"), Ok(8760 * 3_600_000));
    for text in ["", "1", "s", "1 s", "1.5s", "-1s", "+1s", "1S", "1sec", "8761h", "18446744073709551616ms", "١s"] {
        assert!(duration(text).is_err(), "{text:?} was accepted");
    }
    assert_eq!(duration("30").unwrap_err().suggestion.as_deref(), Some("30s"));
    assert!(positive_duration("0ms").is_err());
}

#[test]
fn hosts_and_ports() {
    let host = |text: &str| HostPort::parse(text).map(|parsed| (parsed.host, parsed.port.get()));
    let name = |name: &str, port| Ok((Host::Name(name.into()), port));
    assert_eq!(host("catalog:50051"), name("catalog", 50051));
    assert_eq!(host("Catalog.Shop.svc.:80"), name("catalog.shop.svc", 80));
    assert_eq!(host("a_b-c.1x:1"), name("a_b-c.1x", 1));
    assert_eq!(host("10.0.0.1:80"), Ok((Host::Ip([10, 0, 0, 1].into()), 80)));
    assert_eq!(host("[::ffff:10.0.0.1]:80"), Ok((Host::Ip([10, 0, 0, 1].into()), 80)));
    let long = format!("{}:80", "a.".repeat(128));
    let label = format!("{}:80", "a".repeat(64));
    for text in [
        "",
        ":",
        "a",
        ":80",
        "a:",
        "a:0",
        "a:+1",
        "a:65536",
        "a..b:80",
        "a-:80",
        "ä:80",
        "1.2.3:80",
        "*:80",
        "a/b:80",
        "::1:80",
        "[::1]",
        "[a]:80",
        "http://a:80",
        &long,
        &label,
    ] {
        assert!(HostPort::parse(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn networks() {
    let shown = |text| network(text).map(|network| network.to_string());
    assert_eq!(shown("10.7.0.2"), Ok("10.7.0.2/32".into()));
    assert_eq!(shown("10.8.0.0/24"), Ok("10.8.0.0/24".into()));
    assert_eq!(shown("fd00::/8"), Ok("fd00::/8".into()));
    assert_eq!(shown("::ffff:10.7.0.2"), Ok("10.7.0.2/32".into()));
    assert_eq!(network("10.8.0.1/24").unwrap_err().suggestion.as_deref(), Some("10.8.0.0/24"));
    for text in ["", "10.8", "10.8.0.0/33", "10.8.0.0/", "/8", "a/8", "10.8.0.0-10.8.0.9"] {
        assert!(network(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn prefixes_lose_their_trailing_slashes() {
    let shown = |text| prefix(text).map(|path| path.to_string());
    assert_eq!(shown("/"), Ok("/".into()));
    assert_eq!(shown("//"), Ok("/".into()));
    assert_eq!(shown("/api/"), Ok("/api".into()));
    assert_eq!(shown("/api"), Ok("/api".into()));
    assert_eq!(path("/api/").as_deref(), Ok("/api/"));
}

#[test]
fn domains_are_lower_case_and_have_no_port() {
    let shown = |text| domain(text).map(|domain| domain.to_string());
    assert_eq!(shown("*"), Ok("*".into()));
    assert_eq!(shown("A.Example."), Ok("a.example".into()));
    assert_eq!(shown("*.Example"), Ok("*.example".into()));
    assert_eq!(shown("[FD00::1]"), Ok("[fd00::1]".into()));
    for text in ["", "*.", "*.*", "a*.b", "a.example:80", "10.0.0.1:80", "10.0.0", "a b"] {
        assert!(domain(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn ratios() {
    assert_eq!(ratio("0.01"), Ok(0.01));
    assert_eq!(ratio("1"), Ok(1.0));
    for text in ["", "1.01", "-0.1", "nan", "inf", "1%"] {
        assert!(ratio(text).is_err(), "{text:?} was accepted");
    }
}
