//! All rounds of a run; medians, spreads, and the files for programs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Kind;

/// One measured round: values by their names, which say the unit.
pub type Round = BTreeMap<String, f64>;

/// Rounds by scenario and kind, and what a person must know to repeat them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Seconds of load a round.
    pub seconds: f64,
    /// Rounds of each.
    pub rounds: u32,
    /// Where it ran.
    pub machine: Machine,
    /// Scenario, kind, rounds in their order.
    pub scenarios: BTreeMap<String, BTreeMap<String, Vec<Round>>>,
    /// As they were counted last: no part of this run.
    #[serde(skip)]
    pub costs: Costs,
}

/// What is added to the instructions of a request, in percent by scenario.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Costs {
    /// By traces of one request in a hundred.
    pub traces: BTreeMap<String, f64>,
    /// By metrics.
    pub metrics: BTreeMap<String, f64>,
}

/// What a machine is like, as far as numbers depend on it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The model of its processor.
    pub cpu: String,
    /// Processors to be had.
    pub cores: usize,
    /// The release of its kernel.
    pub kernel: String,
    /// What was measured, by version.
    pub versions: BTreeMap<String, String>,
}

/// The middle of the values, or of the two middle ones; NaN of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// To four digits that count.
pub(super) fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let factor = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * factor).round() / factor
}

impl Report {
    /// Adds a round.
    pub fn add(&mut self, scenario: &str, kind: &str, round: Round) {
        self.scenarios.entry(scenario.to_owned()).or_default().entry(kind.to_owned()).or_default().push(round);
    }

    fn values(&self, scenario: &str, kind: &str, name: &str) -> Vec<f64> {
        let rounds = self.scenarios.get(scenario).and_then(|kinds| kinds.get(kind));
        rounds.into_iter().flatten().filter_map(|round| round.get(name).copied()).collect()
    }

    /// A value's median over the rounds, where it was measured.
    #[must_use]
    pub fn median(&self, scenario: &str, kind: Kind, name: &str) -> Option<f64> {
        let values = self.values(scenario, kind.name(), name);
        (!values.is_empty()).then(|| median(values))
    }

    /// The smallest and the largest of a value.
    #[must_use]
    pub fn spread(&self, scenario: &str, kind: Kind, name: &str) -> Option<[f64; 2]> {
        let values = self.values(scenario, kind.name(), name);
        let (least, most) = (values.iter().copied().reduce(f64::min)?, values.iter().copied().reduce(f64::max)?);
        Some([least, most])
    }

    /// Medians, with the spread beside them, by scenario and kind.
    #[must_use]
    pub fn json(&self) -> Value {
        let scenarios: Map<_, _> = self.scenarios.iter().map(|(name, kinds)| (name.clone(), medians(kinds))).collect();
        json!({
            "what": "medians of interleaved rounds through two sidecars in two network namespaces; the spread is the smallest and the largest round",
            "seconds": self.seconds,
            "rounds": self.rounds,
            "machine": self.machine,
            "scenarios": scenarios,
        })
    }
}

fn medians(kinds: &BTreeMap<String, Vec<Round>>) -> Value {
    let of = |rounds: &Vec<Round>| {
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, value) in rounds.iter().flatten() {
            values.entry(name).or_default().push(*value);
        }
        let mut spread = Map::new();
        let mut all = Map::new();
        for (name, mut values) in values {
            values.sort_by(f64::total_cmp);
            spread.insert(name.to_owned(), json!([rounded(values[0]), rounded(values[values.len() - 1])]));
            all.insert(name.to_owned(), json!(rounded(median(values))));
        }
        all.insert("spread".to_owned(), Value::Object(spread));
        Value::Object(all)
    };
    Value::Object(kinds.iter().map(|(kind, rounds)| (kind.clone(), of(rounds))).collect())
}

impl Machine {
    /// This one; versions are the caller's to add.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: cpu.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            versions: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Report, Round, median, rounded};

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn numbers_have_four_digits() {
        assert_eq!([12_345.6, 1.23456, 0.001_234_56, 0.0].map(rounded), [12_350.0, 1.235, 0.001_235, 0.0]);
    }

    #[test]
    fn the_file_holds_medians_by_scenario_and_kind() {
        let mut report = Report::default();
        for cpu in [40.0, 50.0, 90.0] {
            let round = Round::from([("cpu_us_per_req".to_owned(), cpu), ("rps".to_owned(), 1e6 / cpu)]);
            report.add("h1-mtls", "remora", round);
        }
        let json = report.json();
        let remora = &json["scenarios"]["h1-mtls"]["remora"];
        assert_eq!(remora["cpu_us_per_req"], 50.0);
        assert_eq!(remora["rps"], 20_000.0);
        assert_eq!(remora["spread"]["cpu_us_per_req"], serde_json::json!([40.0, 90.0]));
        assert_eq!(report.spread("h1-mtls", Kind::Remora, "cpu_us_per_req"), Some([40.0, 90.0]));
        assert_eq!(report.median("h1-mtls", Kind::Envoy, "rps"), None);
    }
}
