//! The tables for a person: on the terminal, and in RESULTS.md.

use std::fmt::Write as _;

use super::goals::{Bound, goals};
use super::picture::{Group, bars, shown};
use super::scenario::Protocol;
use super::{Kind, Report, Scenario};

/// Values in the order of their columns, and whether their spread is shown.
const COLUMNS: [(&str, &str, bool); 20] = [
    ("rps", "requests/s", true),
    ("messages_s", "messages/s", true),
    ("gbit_s", "Gbit/s", true),
    ("handshakes_s", "handshakes/s", true),
    ("certificates_s", "certificates/s", true),
    ("cpu_us_per_req", "CPU µs/request", true),
    ("cpu_us_per_message", "CPU µs/message", true),
    ("cpu_s_per_gb", "CPU s/GB", true),
    ("cpu_us_per_handshake", "CPU µs/handshake", true),
    ("cpu_us_per_certificate", "CPU µs/certificate", true),
    ("handshakes_per_cpu_s", "handshakes/CPU s", true),
    ("p50_ms", "p50 ms", false),
    ("p99_ms", "p99 ms", true),
    ("p50_1k_ms", "p50 ms at 1,000/s", false),
    ("p99_1k_ms", "p99 ms at 1,000/s", true),
    ("cold_p99_ms", "cold p99 ms", true),
    ("rss_idle_mib", "RSS MiB idle", true),
    ("rss_load_mib", "RSS MiB loaded", true),
    ("start_ms", "ready after ms", true),
    ("resumed", "share resumed", false),
];

/// What a scenario's CPU is called.
const CPU: [&str; 4] = ["cpu_us_per_req", "cpu_us_per_message", "cpu_s_per_gb", "cpu_us_per_handshake"];

/// All tables: goals first, then each scenario.
#[must_use]
pub fn tables(report: &Report) -> String {
    let mut text = goals_table(report);
    let known = Scenario::ALL.map(Scenario::name).into_iter();
    for name in known.chain(["handshake-full", "handshake-resumed", "ca"]) {
        if report.scenarios.contains_key(name) {
            let _ = write!(text, "\n### {name}\n\n{}", scenario_table(report, name));
        }
    }
    text
}

fn goals_table(report: &Report) -> String {
    let mut text = "| goal | measured | limit | met |\n|---|---|---|---|\n".to_owned();
    for goal in goals(report) {
        let measured = goal.measured.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let limit = match goal.bound {
            Bound::AtMost(limit) => format!("≤ {limit}"),
            Bound::AtLeast(limit) => format!("≥ {limit}"),
        };
        let met = goal.met().map_or("not measured", |met| if met { "yes" } else { "**no**" });
        let _ = writeln!(text, "| {} | {measured} | {limit} | {met} |", goal.what);
    }
    text
}

fn scenario_table(report: &Report, scenario: &str) -> String {
    let kinds: Vec<_> =
        Kind::ALL.into_iter().filter(|kind| report.scenarios[scenario].contains_key(kind.name())).collect();
    let columns: Vec<_> = COLUMNS
        .into_iter()
        .filter(|(name, ..)| kinds.iter().any(|kind| report.median(scenario, *kind, name).is_some()))
        .collect();
    let cpu = CPU.into_iter().find(|name| report.median(scenario, Kind::Remora, name).is_some());
    let mut text = String::from("| |");
    for (_, title, _) in &columns {
        let _ = write!(text, " {title} |");
    }
    let _ = writeln!(text, " remora's CPU / its |\n|---|{}---|", "---|".repeat(columns.len()));
    for kind in kinds {
        let _ = write!(text, "| {} |", kind.name());
        for (name, _, spread) in &columns {
            let _ = write!(text, " {} |", cell(report, scenario, kind, name, *spread));
        }
        let of = |kind: Kind| report.median(scenario, kind, cpu?);
        let ratio =
            of(Kind::Remora).zip(of(kind)).map_or_else(|| "-".to_owned(), |(ours, its)| format!("{:.2}", ours / its));
        let _ = writeln!(text, " {ratio} |");
    }
    text
}

fn cell(report: &Report, scenario: &str, kind: Kind, name: &str, spread: bool) -> String {
    let Some(value) = report.median(scenario, kind, name) else { return "-".to_owned() };
    match report.spread(scenario, kind, name).filter(|_| spread) {
        Some([least, most]) => format!("{} ({}–{})", shown(value), shown(least), shown(most)),
        None => shown(value),
    }
}

/// The page that stands beside the files.
#[must_use]
pub fn page(report: &Report) -> String {
    let machine = &report.machine;
    let versions: Vec<_> = machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "# Results\n\n\
         Written by `make bench SECS={:.0} ROUNDS={}` (root; Debian 12). Only ratios within one run mean anything: [how it is \
         measured](../docs/performance.md).\n\n\
         - Machine: {}, {} processors, kernel {}.\n\
         - Measured: {}.\n\
         - Remora and the relay are release builds by a [profile](../docs/performance.md#by-a-profile) of Remora under this load, where the \
         compiler is that profile's; Envoy and HAProxy are as they are published.\n\
         - Medians of {} interleaved rounds, each with sidecars started anew (but of handshakes and `ca`); in parentheses the smallest and \
         the largest. CPU is user and system time of both sidecars together (of handshakes the server's, of `ca` the authority's), RSS \
         that of the larger one.\n\
         - Raw rounds: [rounds.json](rounds.json); medians: [results.json](results.json). The peers' configurations: \
         [envoy](envoy), [haproxy](haproxy), [relay](relay).\n\
         - What traces and metrics cost is counted by `make bench-instructions`, at another time: [instructions.json](instructions.json).\n\n\
         ![CPU of both sidecars](../docs/bench.svg)\n\n## Goals\n\n{}\n\
         HAProxy is no mesh: it has no identity of its peers beyond their chain, no original destination, no traces; it is shown as \
         what a request costs at least. The relay has no feature at all.\n",
        report.seconds,
        report.rounds,
        machine.cpu,
        machine.cores,
        machine.kernel,
        versions.join(", "),
        report.rounds,
        tables(report).replacen("\n### ", "\n## Scenarios\n\n### ", 1),
    )
}

/// CPU of both sidecars by scenario, as a picture.
#[must_use]
pub fn picture(report: &Report) -> String {
    let groups = Scenario::ALL.into_iter().filter_map(|scenario| {
        let name = scenario.name();
        let value = CPU.into_iter().find(|value| report.median(name, Kind::Remora, value).is_some())?;
        let unit = COLUMNS.iter().find(|(column, ..)| *column == value).map_or("", |(_, title, _)| title);
        let bar = |kind: Kind| Some((kind.name().to_owned(), report.median(name, kind, value)?));
        let bars: Vec<_> = Kind::ALL.into_iter().filter_map(bar).collect();
        let what = if scenario.protocol() == Protocol::Tcp { "one connection" } else { "32 connections" };
        let what = if scenario == Scenario::GrpcStream { "32 streams" } else { what };
        Some(Group { title: format!("{name}, {what}: {unit}"), bars })
    });
    bars("CPU of both sidecars (shorter is better)", &groups.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::{Report, page, picture, tables};
    use crate::bench::Round;

    fn report() -> Report {
        let mut report = Report { seconds: 6.0, rounds: 3, ..Report::default() };
        for (kind, cpu) in [("remora", 40.0), ("envoy", 100.0)] {
            let round = Round::from([("cpu_us_per_req".to_owned(), cpu), ("rps".to_owned(), 20_000.0)]);
            report.add("h1-mtls", kind, round);
        }
        report
    }

    #[test]
    fn ratios_compare_like_with_like() {
        let text = tables(&report());
        assert!(text.contains("| envoy | 20000 (20000–20000) | 100 (100–100) | 0.40 |"), "{text}");
        assert!(text.contains("| h1-mtls: CPU per request / envoy's | 0.40 | ≤ 0.4 | yes |"), "{text}");
        assert!(text.contains("| h1-mtls: CPU per request / relay's | - | ≤ 1.25 | not measured |"), "{text}");
    }

    #[test]
    fn the_page_says_the_command_and_the_picture_the_unit() {
        assert!(page(&report()).contains("make bench SECS=6 ROUNDS=3"));
        assert!(picture(&report()).contains("h1-mtls, 32 connections: CPU µs/request"));
    }
}
