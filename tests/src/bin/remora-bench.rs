//! Measures; `make bench`, `make bench-scale` and `make bench-profile` run it.
//!
//! * `remora-bench run --envoy FILE`: Remora beside its peers.
//! * `remora-bench page`: writes anew what tells of the rounds that are kept.
//! * `remora-bench scale`: Remora alone, as work grows.
//! * `remora-bench profile`: a flame graph of each scenario.
//! * `remora-bench train`: nothing but the load of each scenario, for a proxy that writes down at its end what it did.
//!
//! All take `--output FOLDER [--picture FILE] [--seconds N] [--rounds N] [--only NAME,...]`.
#![allow(clippy::print_stdout)] // Its answers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit};
use remora_test::bench::{
    Ca, Chain, Costs, Curves, Growth, Kind, MOST, Machine, Report, Resumed, Round, Scenario, flame, page, picture,
    profile, scale_json, scale_picture, tables,
};

/// Beside scenarios, what can be chosen: handshakes come with h2-mtls.
const MORE: [&str; 2] = ["handshakes", "ca"];
/// Certificates in a round.
const CERTIFICATES: u64 = 1_000;

struct Arguments {
    mode: String,
    /// Where peers are measured.
    envoy: Option<PathBuf>,
    output: PathBuf,
    picture: Option<PathBuf>,
    seconds: f64,
    rounds: u32,
    only: Vec<String>,
}

fn arguments() -> anyhow::Result<Arguments> {
    let (mut envoy, mut output, mut picture, mut seconds, mut rounds, mut only) =
        (None, None, None, 6.0, 3, Vec::new());
    let mut words = std::env::args().skip(1);
    let mode = words.next().filter(|word| !word.starts_with("--")).context("run, page, scale, profile or train?")?;
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} lacks its value"))?;
        match flag.as_str() {
            "--envoy" => envoy = Some(value.into()),
            "--output" => output = Some(value.into()),
            "--picture" => picture = Some(value.into()),
            "--seconds" => seconds = value.parse().with_context(|| format!("--seconds {value}"))?,
            "--rounds" => rounds = value.parse().with_context(|| format!("--rounds {value}"))?,
            "--only" => only = value.split(',').map(str::to_owned).collect(),
            _ => anyhow::bail!("unknown flag {flag}"),
        }
    }
    for name in &only {
        let known = if mode == "scale" {
            Growth::ALL.map(Growth::name).to_vec()
        } else {
            [&Scenario::ALL.map(Scenario::name)[..], &MORE].concat()
        };
        anyhow::ensure!(known.contains(&name.as_str()), "nothing is named {name:?}; there are {}", known.join(", "));
    }
    anyhow::ensure!(seconds >= 1.0 && rounds >= 1, "--seconds and --rounds begin at 1");
    Ok(Arguments { mode, envoy, output: output.context("--output FOLDER is missing")?, picture, seconds, rounds, only })
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }

    fn envoy(&self) -> anyhow::Result<&Path> {
        self.envoy.as_deref().context("--envoy FILE is missing")
    }

    /// Where the picture goes.
    fn picture(&self, name: &str) -> PathBuf {
        self.picture.clone().unwrap_or_else(|| self.output.join(name))
    }

    fn versions(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let said = |program: &Path, argument: &str| {
            let output = Command::new(program).arg(argument).output().with_context(|| program.display().to_string())?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // The first word, or part of a path's last, that looks like one.
            let is_version = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.');
            anyhow::Ok(
                text.split(|letter: char| letter.is_whitespace() || letter == '/')
                    .find(is_version)
                    .unwrap_or("?")
                    .to_owned(),
            )
        };
        Ok(vec![
            ("remora", env!("CARGO_PKG_VERSION").to_owned()),
            ("envoy", said(self.envoy()?, "--version")?),
            ("haproxy", said(Path::new("haproxy"), "-v")?),
            ("h2load", said(Path::new("h2load"), "--version")?),
            ("iperf3", said(Path::new("iperf3"), "--version")?),
        ])
    }

    /// Stores what there is so far: a run that breaks off loses little.
    fn write(&self, report: &Report) -> anyhow::Result<()> {
        write(&self.output.join("rounds.json"), &(serde_json::to_string(report)? + "\n"))?;
        self.tell(report)
    }

    /// Stores what tells of it.
    fn tell(&self, report: &Report) -> anyhow::Result<()> {
        write(&self.output.join("results.json"), &(serde_json::to_string_pretty(&report.json())? + "\n"))?;
        write(&self.output.join("RESULTS.md"), &page(report))?;
        write(&self.picture("bench.svg"), &picture(report))
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

fn say(scenario: &str, round: u32, kind: Kind, values: &Round) {
    let values: Vec<_> = values.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
    println!("{scenario} {round} {}: {}", kind.name(), values.join(", "));
}

/// Every kind in turn, round for round, another one first in each; handshakes with what the last round left up.
fn measure(scenario: Scenario, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (name, envoy) = (scenario.name(), arguments.envoy()?);
    let mut chains = Kind::ALL.map(|kind| (kind, Chain::start(kind, scenario, envoy)));
    let handshakes_only = !arguments.wants(name);
    let (rounds, seconds) = if handshakes_only { (1, 1.0) } else { (arguments.rounds, arguments.seconds) };
    for round in 1..=rounds {
        for (kind, chain) in &mut chains {
            let measured = chain.round(seconds);
            say(name, round, *kind, &measured);
            if !handshakes_only {
                report.add(name, kind.name(), measured);
            }
        }
        chains.rotate_left(1);
    }
    if scenario != Scenario::H2Mtls || !arguments.wants("handshakes") {
        return Ok(());
    }
    for resumed in [Resumed::No, Resumed::Yes] {
        for round in 1..=arguments.rounds {
            for (kind, chain) in chains.iter().filter(|(kind, _)| *kind != Kind::Direct) {
                let measured = chain.handshakes(resumed, (arguments.seconds / 3.0).max(1.0));
                say(resumed.name(), round, *kind, &measured);
                report.add(resumed.name(), kind.name(), measured);
            }
            chains.rotate_left(1);
        }
    }
    Ok(())
}

fn measure_certificates(rounds: u32, report: &mut Report) -> anyhow::Result<()> {
    let ca = Ca::start()?;
    for round in 0..=rounds {
        let measured = ca.certificates(CERTIFICATES)?;
        say("ca", round, Kind::Remora, &measured);
        // The first warms up.
        if round > 0 {
            report.add("ca", Kind::Remora.name(), measured);
        }
    }
    Ok(())
}

/// What traces and metrics cost by the last count that is kept beside the results; nothing where there is none.
fn costs(folder: &Path) -> anyhow::Result<Costs> {
    let file = folder.join("instructions.json");
    if !file.exists() {
        return Ok(Costs::default());
    }
    let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}

fn beside_peers(arguments: &Arguments) -> anyhow::Result<()> {
    let mut machine = Machine::here();
    machine.versions = arguments.versions()?.into_iter().map(|(name, version)| (name.to_owned(), version)).collect();
    let (seconds, rounds, costs) = (arguments.seconds, arguments.rounds, costs(&arguments.output)?);
    let mut report = Report { seconds, rounds, machine, costs, ..Report::default() };
    for scenario in Scenario::ALL {
        if arguments.wants(scenario.name()) || scenario == Scenario::H2Mtls && arguments.wants("handshakes") {
            measure(scenario, arguments, &mut report)?;
            arguments.write(&report)?;
        }
    }
    if arguments.wants("ca") {
        measure_certificates(arguments.rounds, &mut report)?;
        arguments.write(&report)?;
    }
    println!("\n{}\nwritten to {}", tables(&report), arguments.output.display());
    Ok(())
}

/// Without measuring anything.
fn page_again(arguments: &Arguments) -> anyhow::Result<()> {
    let file = arguments.output.join("rounds.json");
    let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let report: Report = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
    arguments.tell(&Report { costs: costs(&arguments.output)?, ..report })
}

fn scale(arguments: &Arguments) -> anyhow::Result<()> {
    let mut all = Curves::new();
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    for growth in Growth::ALL.into_iter().filter(|growth| arguments.wants(growth.name())) {
        let mut points = Vec::new();
        for count in growth.points(files) {
            let measured = growth.measure(count, arguments.seconds);
            say(growth.name(), count, Kind::Remora, &measured);
            points.push((count, measured));
        }
        if growth == Growth::Connections
            && let Some((last, _)) = points.last()
            && *last < MOST
        {
            println!("SKIPPED: {MOST} connections: a process may open {files} files here, which is enough for {last}");
        }
        all.push((growth, points));
    }
    let json = serde_json::to_string_pretty(&scale_json(&all, arguments.seconds))? + "\n";
    write(&arguments.output.join("scale.json"), &json)?;
    write(&arguments.picture("bench-scale.svg"), &scale_picture(&all))
}

fn profiles(arguments: &Arguments) -> anyhow::Result<()> {
    for scenario in Scenario::ALL.into_iter().filter(|scenario| arguments.wants(scenario.name())) {
        let file = arguments.output.join(format!("{}.svg", scenario.name()));
        write(&file, &flame(scenario.name(), &profile(scenario, arguments.seconds)))?;
        println!("{}", file.display());
    }
    Ok(())
}

/// One round of each scenario through Remora alone, and handshakes.
fn train(arguments: &Arguments) -> anyhow::Result<()> {
    for scenario in Scenario::ALL.into_iter().filter(|scenario| arguments.wants(scenario.name())) {
        let mut chain = Chain::start(Kind::Remora, scenario, Path::new(""));
        say(scenario.name(), 1, Kind::Remora, &chain.round(arguments.seconds));
        if scenario == Scenario::H2Mtls {
            for resumed in [Resumed::No, Resumed::Yes] {
                say(resumed.name(), 1, Kind::Remora, &chain.handshakes(resumed, arguments.seconds));
            }
        }
        chain.end();
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    std::fs::create_dir_all(&arguments.output)?;
    match arguments.mode.as_str() {
        "run" => beside_peers(&arguments),
        "page" => page_again(&arguments),
        "scale" => scale(&arguments),
        "profile" => profiles(&arguments),
        "train" => train(&arguments),
        other => anyhow::bail!("{other}: neither run, page, scale, profile nor train"),
    }
}
