//! One connection that carries as many bytes as it can: iperf3.

use serde_json::Value;

use crate::eventually;
use crate::pod::Pod;

/// What came through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bulk {
    pub(super) gbit_s: f64,
    pub(super) bytes: f64,
}

/// The connections of one test: what is agreed upon, and the bytes.
pub(super) const CONNECTIONS: u64 = 2;

/// Sends from `client` for some seconds, and reads what the receiver says of it.
///
/// # Panics
/// When iperf3 fails.
pub(super) fn run(client: &Pod, server: &Pod, port: u16, seconds: u64) -> Bulk {
    let (to, port, time) = (server.v4().to_string(), port.to_string(), seconds.max(1).to_string());
    // Its server takes one test at a time, and learns through two sidecars that the last one is over.
    eventually("iperf3's server is free", || {
        let output = client.run("iperf3", &["-c", &to, "-p", &port, "-t", &time, "-J"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if answer["error"].as_str().is_some_and(|error| error.contains("busy")) {
            return None;
        }
        Some(parse(&answer).unwrap_or_else(|| panic!("iperf3: {text}")))
    })
}

fn parse(answer: &Value) -> Option<Bulk> {
    let received = &answer["end"]["sum_received"];
    let (rate, bytes) = (received["bits_per_second"].as_f64()?, received["bytes"].as_f64()?);
    (bytes > 0.0 && answer.get("error").is_none()).then_some(Bulk { gbit_s: rate / 1e9, bytes })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Bulk, parse};

    #[test]
    fn what_the_receiver_says_counts() {
        let mut answer =
            json!({"end": {"sum_sent": {"bytes": 9e9}, "sum_received": {"bytes": 1e9, "bits_per_second": 8e9}}});
        assert_eq!(parse(&answer), Some(Bulk { gbit_s: 8.0, bytes: 1e9 }));
        answer["error"] = json!("interrupted");
        assert_eq!(parse(&answer), None);
    }
}
