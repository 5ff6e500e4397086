//! `remora-bench --envoy FILE --output FILE [--rounds N] [--requests N]`: Remora beside Envoy; `make bench` runs it.
#![allow(clippy::print_stdout)] // Its answers.

use std::path::PathBuf;

use anyhow::Context;
use remora_test::bench::{Ca, Chain, IdentityReport, Kind, Report, Resumed, Scenario};

struct Arguments {
    envoy: PathBuf,
    output: PathBuf,
    rounds: u32,
    requests: u64,
}

fn arguments() -> anyhow::Result<Arguments> {
    let (mut envoy, mut output, mut rounds, mut requests) = (None, None, 5, 30_000);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} lacks its value"))?;
        match flag.as_str() {
            "--envoy" => envoy = Some(value.into()),
            "--output" => output = Some(value.into()),
            "--rounds" => rounds = value.parse()?,
            "--requests" => requests = value.parse()?,
            _ => anyhow::bail!("unknown flag {flag}"),
        }
    }
    Ok(Arguments {
        envoy: envoy.context("--envoy FILE is missing")?,
        output: output.context("--output FILE is missing")?,
        rounds,
        requests,
    })
}

/// Full and resumed, interleaved as everything else.
fn measure_handshakes(chains: &[(Kind, Chain)], rounds: u32, count: u64, report: &mut IdentityReport) {
    for resumed in [Resumed::No, Resumed::Yes] {
        for round in 0..=rounds {
            for (kind, chain) in chains {
                let measured = chain.handshakes(resumed, count);
                println!(
                    "{} {round}/{rounds} {:<8}{:>8.0} handshakes/s{:>8.1} us/handshake",
                    resumed.name(),
                    format!("{kind:?}"),
                    measured.rate,
                    measured.cpu_us
                );
                // The first warms up.
                if round > 0 {
                    report.add(resumed, *kind, measured);
                }
            }
        }
    }
}

fn measure_certificates(rounds: u32, count: u64, report: &mut IdentityReport) -> anyhow::Result<()> {
    let ca = Ca::start()?;
    for round in 0..=rounds {
        let measured = ca.certificates(count)?;
        println!("ca {round}/{rounds} {:>8.0} certificates/s{:>8.1} us/certificate", measured.rate, measured.cpu_us);
        // The first warms up.
        if round > 0 {
            report.add_certificates(measured);
        }
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let Arguments { envoy, output, rounds, requests } = arguments()?;
    let mut report = Report::default();
    let mut identity = IdentityReport::default();
    let handshakes = (requests / 10).max(100);
    for scenario in [Scenario::H1Mtls, Scenario::H2Mtls] {
        let chains = [Kind::Remora, Kind::Envoy].map(|kind| (kind, Chain::start(kind, scenario, &envoy)));
        for (kind, chain) in &chains {
            let warm = chain.round(requests / 4);
            println!("{} {kind:?}: warm, {:.0} requests/s", scenario.name(), warm.rate);
        }
        for round in 1..=rounds {
            for (kind, chain) in &chains {
                let measured = chain.round(requests);
                println!(
                    "{} {round}/{rounds} {:<8}{:>8.0} requests/s{:>8.1} us/request{:>7.1} MiB",
                    scenario.name(),
                    format!("{kind:?}"),
                    measured.rate,
                    measured.cpu_us,
                    measured.rss_mib[0].max(measured.rss_mib[1])
                );
                report.add(scenario, *kind, measured);
            }
        }
        if scenario == Scenario::H2Mtls {
            measure_handshakes(&chains, rounds, handshakes, &mut identity);
        }
    }
    measure_certificates(rounds, handshakes, &mut identity)?;
    println!("\n{}{}", report.table(), identity.table());
    let mut results = report.json(requests);
    results["identity"] = identity.json(handshakes);
    std::fs::write(&output, serde_json::to_string_pretty(&results)? + "\n")?;
    println!("written to {}", output.display());
    Ok(())
}
