//! Handshakes in results: a table of their own, and keys of their own in the file.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Kind, Resumed};

/// One measured round of handshakes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshakes {
    /// Per second, as the client saw them.
    pub rate: f64,
    /// CPU microseconds per handshake of the sidecar that serves.
    pub cpu_us: f64,
}

/// What identity costs.
#[derive(Clone, Debug, Default)]
pub struct IdentityReport {
    rounds: BTreeMap<(&'static str, &'static str), Vec<Handshakes>>,
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl IdentityReport {
    /// Adds a round.
    pub fn add(&mut self, resumed: Resumed, kind: Kind, round: Handshakes) {
        self.rounds.entry((resumed.name(), kind.name())).or_default().push(round);
    }

    fn medians(&self, resumed: Resumed) -> [[f64; 2]; 2] {
        [Kind::Remora, Kind::Envoy].map(|kind| {
            let rounds = self.rounds.get(&(resumed.name(), kind.name())).map_or(&[][..], Vec::as_slice);
            let of = |value: fn(&Handshakes) -> f64| super::report::median(rounds.iter().map(value).collect());
            [of(|round| round.rate), of(|round| round.cpu_us)]
        })
    }

    /// The table for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for resumed in [Resumed::No, Resumed::Yes] {
            let [ours, theirs] = self.medians(resumed);
            for (at, label) in ["handshakes/s", "CPU us/handshake (server)"].into_iter().enumerate() {
                let name = if at == 0 { resumed.name() } else { "" };
                let (left, right) = (ours[at], theirs[at]);
                text += &format!("{name:<18}{label:<26}{left:>10.0}{right:>12.0}{:>18.2}\n", left / right);
            }
        }
        text
    }

    /// For the file: beside what it holds of chains.
    #[must_use]
    pub fn json(&self, handshakes: u64) -> Value {
        let mut all = json!({
            "what": "TLS 1.3 handshakes with certificates on both sides against the server's sidecar; medians of interleaved rounds",
            "handshakes_per_round": handshakes,
        });
        for resumed in [Resumed::No, Resumed::Yes] {
            let [ours, theirs] = self.medians(resumed);
            let side = |[rate, cpu]: [f64; 2]| json!({ "per_second": rounded(rate), "cpu_us": rounded(cpu) });
            all[resumed.name()] = json!({
                "remora": side(ours),
                "envoy": side(theirs),
                "ratio": side([ours[0] / theirs[0], ours[1] / theirs[1]]),
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_compare_like_with_like() {
        let mut report = IdentityReport::default();
        for (kind, rate) in [(Kind::Remora, 3_000.0), (Kind::Envoy, 1_000.0)] {
            report.add(Resumed::No, kind, Handshakes { rate, cpu_us: 100.0 });
        }
        assert_eq!(report.json(5)["handshake-full"]["ratio"]["per_second"], 3.0);
        assert!(report.table().contains("3.00"), "{}", report.table());
    }
}
