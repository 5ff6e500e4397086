//! Names, and the way outside.

use std::net::{IpAddr, Ipv4Addr};

use crate::dns;
use crate::host::{Host, path, printed};

fn looked_up(host: &Host) -> String {
    printed(&host.run(&[], &["getent", "ahostsv4", "shop.example"]))
}

#[test]
fn other_names_are_the_hosts_name_servers() {
    let host = Host::new();
    let outside = host.mesh.pod("outside");
    dns::serve(&outside, outside.v4().into());
    host.resolv_conf(&format!("nameserver {}\n", outside.v4()));
    assert!(looked_up(&host).starts_with("192.0.2.77 "));
}

#[test]
fn a_name_server_on_the_hosts_loopback_is_reached() {
    let host = Host::new();
    dns::serve(&host.pod, IpAddr::from([127, 0, 0, 53]));
    // Over UDP, and over TCP.
    for options in ["edns0", "use-vc"] {
        host.resolv_conf(&format!("nameserver 127.0.0.53\noptions {options}\n"));
        assert!(looked_up(&host).starts_with("192.0.2.77 "), "{options}");
    }
}

#[test]
fn a_new_name_server_of_the_host_is_followed() {
    let host = Host::new();
    host.resolv_conf("nameserver 127.0.0.2\noptions timeout:1 attempts:1\n");
    let mut run = host.start(&[], &["sh", "-c", "echo up; until getent ahostsv4 shop.example; do sleep 0.1; done"]);
    let _ = run.printed("up");
    dns::serve(&host.pod, Ipv4Addr::LOCALHOST.into());
    host.resolv_conf("nameserver 127.0.0.1\n");
    let _ = run.printed("192.0.2.77");
    assert_eq!(run.wait().code(), Some(0));
}

#[test]
fn the_hosts_own_names_and_the_runs_name_are_known() {
    let host = Host::new();
    host.pod.hosts(&[("10.9.9.9".to_owned(), "printer")]).unwrap();
    let output = host.run(&["--name", "web"], &["getent", "hosts", "printer", "web"]);
    let words: Vec<String> = printed(&output).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["10.9.9.9", "printer", "10.213.13.2", "web"]);
}

#[test]
fn what_is_outside_sees_the_host() {
    let host = Host::new();
    let outside = host.mesh.pod("outside");
    let _peer = outside.peer("http", 8080, &[]);
    let url = format!("http://{}:8080/", outside.v4());
    let seen: serde_json::Value =
        serde_json::from_str(&printed(&host.run(&[], &[&path("curl"), "-sS", &url]))).unwrap();
    assert!(seen["peer"].as_str().unwrap().contains(&host.pod.v4().to_string()), "{seen}");
}

#[test]
fn nobody_outside_gets_in() {
    let host = Host::new();
    let outside = host.mesh.pod("outside");
    let _web = host.serve("web", &["--port", "8080"]);
    let address = host.address("web");
    let route = format!("{}/32", address);
    assert!(
        outside.output("ip", &["route", "add", &route, "via", &host.pod.v4().to_string()]).unwrap().status.success()
    );
    let url = format!("http://{address}:8080/name");
    let output = outside.run("curl", &["-sS", &url]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(host.get((address, 8080).into(), "/name").unwrap().body, "web");
}
