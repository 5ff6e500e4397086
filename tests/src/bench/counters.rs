//! What sidecars say they carried: each kind is asked in its own way.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::scenario::{Kind, Protocol, Scenario};
use crate::metrics::Metrics;
use crate::pod::Pod;
use crate::sidecar::ask;

/// Requests (connections of bytes), and TLS handshakes, that one sidecar counted.
pub(super) fn counted(kind: Kind, scenario: Scenario, pod: &Pod, direction: &str) -> (u64, u64) {
    let is_tcp = scenario.protocol() == Protocol::Tcp;
    let page = |port: u16, path: &str| {
        let answer = ask(pod, SocketAddr::from(([127, 0, 0, 1], port)), "GET", path);
        answer.unwrap_or_else(|| panic!("{kind:?} does not tell of {path}")).body
    };
    match kind {
        Kind::Remora => {
            let metrics = Metrics::parse(&page(15_020, "/metrics"));
            let name = if is_tcp { "remora_tcp_connections_total" } else { "remora_requests_total" };
            let of = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels) as u64;
            (of(name, &[("direction", direction)]), of("remora_tls_handshakes_total", &[]))
        }
        Kind::Envoy => {
            let text = page(15_000, "/stats");
            let name = if is_tcp {
                format!("tcp.{direction}.downstream_cx_total")
            } else {
                format!("http.{direction}.downstream_rq_total")
            };
            (valued(&text, &name), valued(&text, "listener.0.0.0.0_15006.ssl.handshake"))
        }
        Kind::Haproxy => {
            let socket = pod.folder().join("haproxy/stats");
            let say = |what: &str| stats(&socket, what).unwrap_or_else(|| panic!("HAProxy does not tell of {what}"));
            let column = if is_tcp { "stot" } else { "req_tot" };
            (frontend(&say("show stat"), column), valued(&say("show info"), "CumSslConns"))
        }
        Kind::Relay => {
            let text = page(15_000, "/");
            let mut words = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
            (words.next().unwrap_or(0), words.next().unwrap_or(0))
        }
        Kind::Direct => (0, 0),
    }
}

/// The number behind `NAME: `; 0 where there is none.
fn valued(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// A column of the frontend in HAProxy's table (`show stat`).
fn frontend(table: &str, column: &str) -> u64 {
    let mut lines = table.trim_start_matches("# ").lines();
    let at = lines.next().and_then(|head| head.split(',').position(|name| name == column));
    let row = lines.find(|line| line.starts_with("sidecar,FRONTEND,"));
    at.zip(row).and_then(|(at, row)| row.split(',').nth(at)?.parse().ok()).unwrap_or(0)
}

/// HAProxy's answer to a command.
pub(super) fn stats(socket: &Path, command: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    writeln!(stream, "{command}").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::{frontend, valued};

    #[test]
    fn counters_of_peers_are_read() {
        assert_eq!(valued("a.b_total: 7\na.b: 12\n", "a.b"), 12);
        assert_eq!(valued("CumSslConns: 3\n", "CumSslConns"), 3);
        assert_eq!(valued("", "CumSslConns"), 0);
        let table = "# pxname,svname,stot,req_tot,\nnext,BACKEND,1,2,\nsidecar,FRONTEND,32,4096,\n";
        assert_eq!((frontend(table, "req_tot"), frontend(table, "stot"), frontend(table, "x")), (4_096, 32, 0));
    }
}
