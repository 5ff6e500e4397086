//! What the numbers are to be, and whether they are.

use super::{Kind, Report, Scenario};

/// One goal, and what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// What it is about.
    pub what: String,
    /// What it is compared with; what it must not exceed, or must reach.
    pub bound: Bound,
    /// The measured value, or ratio; `None` where a part of it was not measured.
    pub measured: Option<f64>,
}

/// Which side of a limit is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Not above.
    AtMost(f64),
    /// Not below.
    AtLeast(f64),
}

impl Goal {
    /// Whether it is met; `None` where it was not measured.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        self.measured.map(|measured| match self.bound {
            Bound::AtMost(limit) => measured <= limit,
            Bound::AtLeast(limit) => measured >= limit,
        })
    }
}

/// Every goal, in the order of the table.
#[must_use]
pub fn goals(report: &Report) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |what: String, bound: Bound, measured: Option<f64>| goals.push(Goal { what, bound, measured });
    let ratio = |scenario: &str, name: &str, peer: Kind| {
        Some(report.median(scenario, Kind::Remora, name)? / report.median(scenario, peer, name)?)
    };
    let haproxy = [("h1-plain", 1.1), ("h2-mtls", 1.2), ("h2-plain", 1.4)];
    for scenario in Scenario::REQUESTS.map(Scenario::name) {
        let mut cpu = |peer: Kind, limit: f64| {
            let what = format!("{scenario}: CPU per request / {}'s", peer.name());
            add(what, Bound::AtMost(limit), ratio(scenario, "cpu_us_per_req", peer));
        };
        cpu(Kind::Envoy, 0.40);
        if let Some((_, limit)) = haproxy.iter().find(|(name, _)| *name == scenario) {
            cpu(Kind::Haproxy, *limit);
        }
        cpu(Kind::Relay, 1.25);
    }
    for (scenario, throughput, cpu) in [("tcp-plain", 1.2, 0.8), ("tcp-mtls", 1.1, 0.95)] {
        let what = format!("{scenario}: throughput / envoy's");
        add(what, Bound::AtLeast(throughput), ratio(scenario, "gbit_s", Kind::Envoy));
        let what = format!("{scenario}: CPU per byte / envoy's");
        add(what, Bound::AtMost(cpu), ratio(scenario, "cpu_s_per_gb", Kind::Envoy));
    }
    for scenario in Scenario::REQUESTS.map(Scenario::name) {
        let added = |kind: Kind| {
            Some(report.median(scenario, kind, "p99_1k_ms")? - report.median(scenario, Kind::Direct, "p99_1k_ms")?)
        };
        let more = added(Kind::Remora).zip(added(Kind::Haproxy)).map(|(ours, theirs)| ours - theirs);
        let what = format!("{scenario}: added p99 at 1,000 requests/s, ms above haproxy's");
        add(what, Bound::AtMost(0.0), more);
        let what = format!("{scenario}: p99 of the cold first burst / envoy's");
        add(what, Bound::AtMost(1.0), ratio(scenario, "cold_p99_ms", Kind::Envoy));
    }
    let own = |name: &str| report.median("h1-mtls", Kind::Remora, name);
    add("RSS idle, MiB".to_owned(), Bound::AtMost(8.0), own("rss_idle_mib"));
    add("RSS under the h1-mtls load, MiB".to_owned(), Bound::AtMost(20.0), own("rss_load_mib"));
    let handshakes = ratio("handshake-full", "handshakes_per_cpu_s", Kind::Envoy);
    add("full handshakes per CPU second / envoy's".to_owned(), Bound::AtLeast(1.0), handshakes);
    add("start to ready, ms".to_owned(), Bound::AtMost(100.0), own("start_ms"));
    let costs = [("traces at 1 %", &report.costs.traces), ("metrics", &report.costs.metrics)];
    for (name, cost) in costs {
        for scenario in Scenario::REQUESTS.map(Scenario::name) {
            let what = format!("{scenario}: instructions with {name}, % above without");
            add(what, Bound::AtMost(3.0), cost.get(scenario).copied());
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::{Bound, Report, goals};
    use crate::bench::Costs;

    fn report(remora: f64, envoy: f64) -> Report {
        let mut report = Report::default();
        for (kind, cpu) in [("remora", remora), ("envoy", envoy)] {
            report.add("h2-mtls", kind, [("cpu_us_per_req".to_owned(), cpu)].into());
        }
        report
    }

    #[test]
    fn a_goal_is_met_up_to_its_limit() {
        let cpu =
            |report: Report| goals(&report).into_iter().find(|goal| goal.what == "h2-mtls: CPU per request / envoy's");
        let met = |remora| cpu(report(remora, 100.0)).unwrap().met();
        assert_eq!([met(40.0), met(41.0)], [Some(true), Some(false)]);
    }

    #[test]
    fn what_traces_and_metrics_cost_is_a_goal_of_each_path() {
        let of = |percent: f64| [("h2-plain".to_owned(), percent)].into();
        let report = Report { costs: Costs { traces: of(3.1), metrics: of(2.9) }, ..Report::default() };
        let met = |path: &str, name: &str| {
            let what = format!("{path}: instructions with {name}, % above without");
            goals(&report).into_iter().find(|goal| goal.what == what).unwrap().met()
        };
        assert_eq!([met("h2-plain", "traces at 1 %"), met("h1-plain", "traces at 1 %")], [Some(false), None]);
        assert_eq!([met("h2-plain", "metrics"), met("h1-plain", "metrics")], [Some(true), None]);
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let goals = goals(&report(40.0, 100.0));
        assert_eq!(goals.iter().filter(|goal| goal.met().is_some()).count(), 1);
        let relay = goals.iter().find(|goal| goal.what == "h1-plain: CPU per request / relay's").unwrap();
        assert_eq!((relay.bound, relay.measured), (Bound::AtMost(1.25), None));
    }
}
