use std::net::Ipv4Addr;

use super::*;

fn record(name: &str, last: u8, ports: &[u16]) -> Record {
    let id = crate::run::place::id(name).to_string();
    Record {
        name: name.to_owned(),
        address: Ipv4Addr::new(10, 0, 0, last),
        ports: ports.iter().copied().collect(),
        id,
        pid: 1,
    }
}

fn mesh(config: &str, mtls: MtlsMode, published: &[u16]) -> Result<Mesh, Error> {
    let file =
        std::env::temp_dir().join(format!("remora-run-{:?}-{}.yaml", std::thread::current().id(), std::process::id()));
    std::fs::write(&file, config).unwrap();
    let mesh = Mesh::new(Some(&file), mtls, published.iter().copied().collect(), "/run/remora".into());
    std::fs::remove_file(file).unwrap();
    mesh
}

/// What the sidecar makes of it.
fn snapshot(text: &str) -> remora_config::Snapshot {
    remora_config::parse("made", text.as_bytes(), &Environment::default())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn every_port_of_every_other_run_has_an_entry_and_its_identity() {
    let mesh = Mesh::new(None, MtlsMode::Permissive, BTreeSet::new(), "/run/remora".into()).unwrap();
    let (own, other) = (record("web", 2, &[8000]), record("api", 3, &[80, 90]));
    let text = mesh.configuration(&own, &[other, own.clone()]);
    let value: Value = serde_json::from_str(&text).unwrap();
    let entry = |port: u16| {
        json!({"host": format!("api:{port}"), "addresses": ["10.0.0.3"], "endpoints": [format!("10.0.0.3:{port}")],
               "identity": "spiffe://local.remora/ns/local/sa/api"})
    };
    assert_eq!(value["outbound"], json!([entry(80), entry(90)]));
    assert_eq!(value["inbound"], json!({"mtls": "permissive"}));
    assert_eq!(snapshot(&text).service.name.to_string(), "web");
}

#[test]
fn alone_it_is_valid_too() {
    let mesh = Mesh::new(None, MtlsMode::Strict, BTreeSet::new(), "/run/remora".into()).unwrap();
    let own = record("web", 2, &[]);
    let text = mesh.configuration(&own, std::slice::from_ref(&own));
    assert!(!text.contains("outbound"), "{text}");
    snapshot(&text);
}

#[test]
fn a_published_port_takes_plaintext_under_strict_too() {
    let mesh = mesh("inbound: {ports: [{port: 80, protocol: http}]}\n", MtlsMode::Strict, &[80, 81]).unwrap();
    let own = record("web", 2, &[80, 81, 82]);
    let text = mesh.configuration(&own, std::slice::from_ref(&own));
    let value: Value = serde_json::from_str(&text).unwrap();
    let ports = json!([{"port": 80, "protocol": "http", "mtls": "permissive"}, {"port": 81, "mtls": "permissive"}]);
    assert_eq!(value["inbound"], json!({"mtls": "strict", "ports": ports}));
    snapshot(&text);
}

#[test]
fn what_the_file_says_stays_and_wins() {
    let text = "drain_timeout: 3s\noutbound:\n  - {host: api:80, endpoints: ['10.9.9.9:80']}\n";
    let mesh = mesh(text, MtlsMode::Permissive, &[]).unwrap();
    let text = mesh.configuration(&record("web", 2, &[]), &[record("api", 3, &[80, 90])]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["drain_timeout"], "3s");
    assert_eq!(value["outbound"][0], json!({"host": "api:80", "endpoints": ["10.9.9.9:80"]}));
    assert_eq!(value["outbound"][1]["host"], "api:90");
    snapshot(&text);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let wrong =
        mesh("outbound:\n  - {host: api:80, endpoins: []}\n", MtlsMode::Permissive, &[]).unwrap_err().to_string();
    assert!(wrong.contains(".yaml:2:") && wrong.contains("outbound[0].endpoins: unknown field"), "{wrong}");
    let ours = mesh("service: x\n", MtlsMode::Permissive, &[]).unwrap_err().to_string();
    assert!(ours.contains("service: not in a file for `remora run`"), "{ours}");
    let broken = mesh("outbound: [\n", MtlsMode::Permissive, &[]).unwrap_err().to_string();
    assert!(broken.contains(".yaml:"), "{broken}");
}
