//! Medians, ratios, the table and the file.

use std::collections::BTreeMap;

use super::{Kind, Scenario};

/// One measured round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Requests per second, as the client saw them.
    pub rate: f64,
    /// CPU microseconds per request, both sidecars together.
    pub cpu_us: f64,
    /// Resident memory after the round: the client's sidecar, the server's.
    pub rss_mib: [f64; 2],
}

/// All rounds by scenario and kind.
#[derive(Clone, Debug, Default)]
pub struct Report {
    rounds: BTreeMap<(&'static str, &'static str), Vec<Round>>,
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The medians of some rounds: rate, CPU, memory of the larger sidecar.
fn medians(rounds: &[Round]) -> [f64; 3] {
    [
        median(rounds.iter().map(|round| round.rate).collect()),
        median(rounds.iter().map(|round| round.cpu_us).collect()),
        median(rounds.iter().map(|round| round.rss_mib[0].max(round.rss_mib[1])).collect()),
    ]
}

impl Report {
    /// Adds a round.
    pub fn add(&mut self, scenario: Scenario, kind: Kind, round: Round) {
        self.rounds.entry((scenario.name(), kind.name())).or_default().push(round);
    }

    fn scenario(&self, scenario: Scenario) -> [[f64; 3]; 2] {
        [Kind::Remora, Kind::Envoy]
            .map(|kind| medians(self.rounds.get(&(scenario.name(), kind.name())).map_or(&[], Vec::as_slice)))
    }

    /// The table for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<10}{:<24}{:>12}{:>12}{:>18}\n",
            "chain", "median of interleaved", "Remora", "Envoy", "Remora / Envoy"
        );
        for scenario in [Scenario::H1Mtls, Scenario::H2Mtls] {
            let [ours, theirs] = self.scenario(scenario);
            let rows = [("requests/s", 0, 0), ("CPU us/request (both)", 1, 1), ("RSS MiB (larger)", 2, 1)];
            for (at, (label, value, digits)) in rows.into_iter().enumerate() {
                let chain = if at == 0 { scenario.name() } else { "" };
                let (left, right) = (ours[value], theirs[value]);
                text += &format!(
                    "{chain:<10}{label:<24}{left:>12.digits$}{right:>12.digits$}{:>18.2}\n",
                    left / right,
                    digits = digits
                );
            }
        }
        text
    }

    /// The file for a program.
    #[must_use]
    pub fn json(&self, requests: u64) -> serde_json::Value {
        let round = |value: f64, digits: i32| (value * 10_f64.powi(digits)).round() / 10_f64.powi(digits);
        let chains: serde_json::Map<_, _> = [Scenario::H1Mtls, Scenario::H2Mtls]
            .into_iter()
            .map(|scenario| {
                let both = self.scenario(scenario);
                let sides: serde_json::Map<_, _> = [Kind::Remora, Kind::Envoy]
                    .into_iter()
                    .zip(both)
                    .map(|(kind, [rate, cpu, rss])| {
                        let rounds: Vec<_> =
                            self.rounds.get(&(scenario.name(), kind.name())).into_iter().flatten().collect();
                        let value = serde_json::json!({
                            "requests_per_second": round(rate, 0),
                            "cpu_us_per_request": round(cpu, 1),
                            "rss_mib": round(rss, 1),
                            "rounds": rounds.iter().map(|one| serde_json::json!({
                                "requests_per_second": round(one.rate, 0),
                                "cpu_us_per_request": round(one.cpu_us, 1),
                                "rss_mib": one.rss_mib.map(|rss| round(rss, 1)),
                            })).collect::<Vec<_>>(),
                        });
                        (kind.name().to_owned(), value)
                    })
                    .collect();
                let [[rate, cpu, rss], [their_rate, their_cpu, their_rss]] = both;
                let mut value = serde_json::Value::Object(sides);
                value["ratio"] = serde_json::json!({
                    "requests_per_second": round(rate / their_rate, 2),
                    "cpu_us_per_request": round(cpu / their_cpu, 2),
                    "rss_mib": round(rss / their_rss, 2),
                });
                (scenario.name().to_owned(), value)
            })
            .collect();
        serde_json::json!({
            "what": "h2load through two sidecars in two network namespaces, mTLS between, metrics on, traces at 1 %; medians of interleaved rounds",
            "requests_per_round": requests,
            "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "chains": chains,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Report, Round, Scenario, median};

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn ratios_compare_like_with_like() {
        let mut report = Report::default();
        for (kind, cpu_us) in [(Kind::Remora, 40.0), (Kind::Envoy, 100.0)] {
            report.add(Scenario::H1Mtls, kind, Round { rate: 1_000.0, cpu_us, rss_mib: [10.0, 20.0] });
        }
        assert_eq!(report.json(5)["chains"]["h1-mtls"]["ratio"]["cpu_us_per_request"], 0.4);
        assert!(report.table().contains("0.40"), "{}", report.table());
    }
}
