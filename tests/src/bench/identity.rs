//! Handshakes and certificates in results: a table of their own, and keys of their own in the file.

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
    /// How many of them were resumed, 0 to 1.
    pub resumed: f64,
}

/// One measured round of certificates from the authority.
#[derive(Clone, Copy, Debug, Default)]
pub struct Certificates {
    /// Per second, as the clients saw them.
    pub rate: f64,
    /// CPU microseconds of the authority per certificate.
    pub cpu_us: f64,
}

/// What identity costs.
#[derive(Clone, Debug, Default)]
pub struct IdentityReport {
    certificates: Vec<Certificates>,
    rounds: BTreeMap<(&'static str, &'static str), Vec<Handshakes>>,
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Where there is one.
fn ratio(left: f64, right: f64) -> String {
    if right > 0.0 { format!("{:.2}", left / right) } else { "-".to_owned() }
}

impl IdentityReport {
    /// Adds a round.
    pub fn add(&mut self, resumed: Resumed, kind: Kind, round: Handshakes) {
        self.rounds.entry((resumed.name(), kind.name())).or_default().push(round);
    }

    /// Adds a round of certificates.
    pub fn add_certificates(&mut self, round: Certificates) {
        self.certificates.push(round);
    }

    /// Per second, and CPU microseconds each.
    fn certificates(&self) -> [f64; 2] {
        let of = |value: fn(&Certificates) -> f64| super::report::median(self.certificates.iter().map(value).collect());
        [of(|round| round.rate), of(|round| round.cpu_us)]
    }

    fn medians(&self, resumed: Resumed) -> [[f64; 3]; 2] {
        [Kind::Remora, Kind::Envoy].map(|kind| {
            let rounds = self.rounds.get(&(resumed.name(), kind.name())).map_or(&[][..], Vec::as_slice);
            let of = |value: fn(&Handshakes) -> f64| super::report::median(rounds.iter().map(value).collect());
            [of(|round| round.rate), of(|round| round.cpu_us), of(|round| round.resumed)]
        })
    }

    /// The table for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for resumed in [Resumed::No, Resumed::Yes] {
            let [ours, theirs] = self.medians(resumed);
            for (at, label) in ["handshakes/s", "CPU us/handshake (server)", "share resumed"].into_iter().enumerate() {
                let name = if at == 0 { resumed.name() } else { "" };
                let (left, right, digits) = (ours[at], theirs[at], if at == 2 { 2 } else { 0 });
                text +=
                    &format!("{name:<18}{label:<26}{left:>10.digits$}{right:>12.digits$}{:>18}\n", ratio(left, right));
            }
        }
        let [rate, cpu] = self.certificates();
        text += &format!("{:<18}{:<26}{rate:>10.0}\n", "ca", "certificates/s");
        text += &format!("{:<18}{:<26}{cpu:>10.0}\n", "", "CPU us/certificate");
        text
    }

    /// For the file: beside what it holds of chains. A round was of `handshakes`, and of as many certificates.
    #[must_use]
    pub fn json(&self, handshakes: u64) -> Value {
        let mut all = json!({
            "what": "TLS 1.3 handshakes with certificates on both sides against the server's sidecar; medians of interleaved rounds",
            "handshakes_per_round": handshakes,
        });
        for resumed in [Resumed::No, Resumed::Yes] {
            let [ours, theirs] = self.medians(resumed);
            let side = |[rate, cpu, share]: [f64; 3]| json!({ "per_second": rounded(rate), "cpu_us": rounded(cpu), "resumed": rounded(share) });
            all[resumed.name()] = json!({
                "remora": side(ours),
                "envoy": side(theirs),
                "ratio": json!({ "per_second": rounded(ours[0] / theirs[0]), "cpu_us": rounded(ours[1] / theirs[1]) }),
            });
        }
        let [rate, cpu] = self.certificates();
        all["ca"] = json!({
            "what": "certificates from `remora-certs serve` over kept connections: OIDC tokens (ES256), requests with P-256 keys made beforehand, each certificate recorded on disk before it is handed out; medians",
            "connections": super::authority::CONNECTIONS,
            "certificates_per_round": handshakes,
            "per_second": rounded(rate),
            "cpu_us": rounded(cpu),
        });
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
            report.add(Resumed::No, kind, Handshakes { rate, cpu_us: 100.0, resumed: 0.0 });
        }
        assert_eq!(report.json(5)["handshake-full"]["ratio"]["per_second"], 3.0);
        assert!(report.table().contains("3.00"), "{}", report.table());
    }

    #[test]
    fn certificates_are_told_by_their_medians() {
        let mut report = IdentityReport::default();
        for rate in [1_000.0, 9_000.0, 2_000.0] {
            report.add_certificates(Certificates { rate, cpu_us: rate / 10.0 });
        }
        let told = &report.json(5)["ca"];
        assert_eq!((&told["per_second"], &told["cpu_us"]), (&json!(2_000.0), &json!(200.0)));
    }
}
