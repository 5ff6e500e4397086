//! `remora-instructions --file FILE [--record]`: instructions per request and per MiB; `make bench-instructions` runs it.
//!
//! Compares with the file, and fails where a path grew by more than 3 % over it or by more than 10 % over the first count ever
//! recorded, whatever has been recorded since, with traces or without, or where a hundredth of what spans of every request cost is more
//! than 3 %. With `--record` the file takes the new counts instead.
//!
//! `--counts COUNTS` writes what requests take to another file, and does no more; `--uncounted COUNTS` counts a proxy without metrics, and FILE
//! takes how much one with them, of which COUNTS are, is above.
//!
//! Counts of another compiler, valgrind or processor say nothing: there the comparison is SKIPPED.
#![allow(clippy::print_stdout)] // Its answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use remora_test::bench::{Counts, Scenario, Tracing};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The growth over the last recorded count that fails, in percent.
const GROWTH: u64 = 3;
/// The growth over the first recorded count that fails, in percent.
const GROWTH_EVER: u64 = 10;

/// The share of requests that are sampled where the cost of traces is told.
const SAMPLED: f64 = 0.01;
/// What so large a share of the cost of spans of every request may add to a path, in percent.
const SPANS: f64 = 3.0;
/// How often a path is counted that seems to have grown: what a busy machine adds it does not add each time.
const ATTEMPTS: u32 = 3;

/// The kept file.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    place: Place,
    first: Counts,
    counts: Counts,
    /// What traces of one request in a hundred add, in percent: the table of goals has them from here.
    traces: BTreeMap<String, f64>,
    /// What metrics add, in percent.
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
}

/// What is done about the kept file.
#[derive(Debug)]
enum Mode {
    Compare,
    Record,
    /// Nothing: counts of requests go to this one.
    Counts(PathBuf),
    /// It takes what metrics cost; the proxy that is counted has none, and this file counts of one that has.
    Uncounted(PathBuf),
}

/// What a count depends on beside the code.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    rustc: String,
    valgrind: String,
    /// Of those that cryptography and copying are chosen by what valgrind shows a program, whatever the processor has beyond them.
    cpu: Vec<String>,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
struct Counted(Scenario, Tracing);

impl Counted {
    /// Without traces and, of requests, with the telling of each that it is not sampled.
    fn all() -> impl Iterator<Item = Self> {
        let plain = Scenario::COUNTED.map(|scenario| Self(scenario, Tracing::Off));
        plain.into_iter().chain(Scenario::REQUESTS.map(|scenario| Self(scenario, Tracing::Unsampled)))
    }

    fn name(self) -> String {
        let what = match self.1 {
            Tracing::Off => "",
            Tracing::Unsampled => "-unsampled",
            Tracing::Sampled => "-sampled",
        };
        format!("{}{what}", self.0.name())
    }

    fn count(self) -> Option<u64> {
        self.0.instructions(self.1)
    }
}

/// What was recorded of a path, which its count may exceed by little.
#[derive(Clone, Copy, Debug)]
struct Recent {
    last: Option<u64>,
    first: Option<u64>,
}

impl Recent {
    fn of(name: &str, recorded: Option<&Recorded>) -> Self {
        let of = |counts: &Counts| counts.get(name).copied();
        Self { last: recorded.and_then(|all| of(&all.counts)), first: recorded.and_then(|all| of(&all.first)) }
    }

    fn is_exceeded_by(self, count: u64) -> bool {
        let over = |base: Option<u64>, percent: u64| base.is_some_and(|base| count * 100 > base * (100 + percent));
        over(self.last, GROWTH) || over(self.first, GROWTH_EVER)
    }

    /// Counts, again where it seems to have grown.
    fn count(self, path: Counted) -> Option<u64> {
        let mut count = path.count();
        for _ in 1..ATTEMPTS {
            if count.is_some_and(|count| !self.is_exceeded_by(count)) {
                break;
            }
            count = count.into_iter().chain(path.count()).min();
        }
        count
    }
}

impl Place {
    fn here() -> anyhow::Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let chosen_by = ["aes", "avx", "avx2", "bmi2", "erms", "pclmulqdq"];
        let cpu = chosen_by.into_iter().filter(|name| flags.split_whitespace().any(|flag| flag == *name));
        Ok(Self {
            rustc: said("rustc", "--version")?,
            valgrind: said("valgrind", "--version")?,
            cpu: cpu.map(str::to_owned).collect(),
        })
    }
}

fn said(program: &str, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| program.to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn arguments() -> anyhow::Result<(PathBuf, Mode)> {
    let (mut file, mut mode) = (None, Mode::Compare);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--file" => file = Some(PathBuf::from(words.next().context("--file lacks its value")?)),
            "--record" => mode = Mode::Record,
            "--counts" => mode = Mode::Counts(words.next().context("--counts lacks its value")?.into()),
            "--uncounted" => mode = Mode::Uncounted(words.next().context("--uncounted lacks its value")?.into()),
            _ => anyhow::bail!("unknown argument {word}"),
        }
    }
    Ok((file.context("--file FILE is missing")?, mode))
}

fn read<T: DeserializeOwned>(file: &Path) -> anyhow::Result<Option<T>> {
    if !file.exists() {
        return Ok(None);
    }
    let text = std::fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text).map(Some).with_context(|| file.display().to_string())
}

fn write(file: &Path, content: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(content)? + "\n";
    std::fs::write(file, text).with_context(|| file.display().to_string())?;
    println!("written to {}", file.display());
    Ok(())
}

/// In percent, to two places.
fn above(more: f64, base: f64) -> f64 {
    ((more / base - 1.0) * 10_000.0).round() / 100.0
}

/// Counts every path, and says how it is beside what was recorded `before`; and which have grown too much. What is to be recorded is counted once.
fn count_all(before: Option<&Recorded>, record: bool) -> anyhow::Result<(Counts, Vec<String>)> {
    let mut counts = Counts::new();
    let mut grown = Vec::new();
    println!("{:<20}{:>14}{:>14}{:>14}", "", "instructions", "recorded", "first");
    for path in Counted::all() {
        let name = path.name();
        let recent = Recent::of(&name, before);
        let Some(count) = (if record { path.count() } else { recent.count(path) }) else {
            println!("{name:<20}{:>14}", "not measurable");
            anyhow::ensure!(!path.0.is_compared(), "{name}: more requests took fewer instructions");
            continue;
        };
        let against = |base: Option<u64>| {
            base.map_or_else(|| "-".to_owned(), |base| format!("{:+.2} %", (count as f64 / base as f64 - 1.0) * 100.0))
        };
        println!("{name:<20}{count:>14}{:>14}{:>14}", against(recent.last), against(recent.first));
        if recent.is_exceeded_by(count) {
            grown.push(name.clone());
        }
        if path.0.is_compared() {
            counts.insert(name, count);
        }
    }
    Ok((counts, grown))
}

/// Of requests, without traces.
fn count_requests() -> anyhow::Result<Counts> {
    let paths = Scenario::REQUESTS.map(|scenario| Counted(scenario, Tracing::Off));
    paths.into_iter().map(|path| Ok((path.name(), path.count().context("requests took less than nothing")?))).collect()
}

/// Says what metrics cost, in percent above a proxy without them, which is what is counted here.
fn tell_metrics(with: &Counts) -> anyhow::Result<BTreeMap<String, f64>> {
    let costs = count_requests()?.into_iter().map(|(name, without)| {
        let with = with.get(&name).with_context(|| format!("{name} was not counted"))?;
        let more = above(*with as f64, without as f64);
        println!("{name:<20}{with:>14}, without metrics {without}: they add {more:.2} %");
        Ok((name, more))
    });
    costs.collect()
}

/// Says what sampling one request in a hundred costs, in percent above no traces at all; and the most, in percent, that a hundredth of
/// sampling every one is.
fn tell_traces(counts: &Counts) -> anyhow::Result<(BTreeMap<String, f64>, f64)> {
    let (mut costs, mut most) = (BTreeMap::new(), 0.0_f64);
    for scenario in Scenario::REQUESTS {
        let of = |tracing| counts[&Counted(scenario, tracing).name()] as f64;
        let sampled = Counted(scenario, Tracing::Sampled).count().context("sampled requests took less than nothing")?;
        let traced = (1.0 - SAMPLED) * of(Tracing::Unsampled) + SAMPLED * sampled as f64;
        let more = above(traced, of(Tracing::Off));
        println!("traces of {:.0} % of the requests: {more:+.2} % of {}", SAMPLED * 100.0, scenario.name());
        costs.insert(scenario.name().to_owned(), more);
        most = most.max((sampled as f64 / of(Tracing::Off) - 1.0) * 100.0 * SAMPLED);
    }
    Ok((costs, most))
}

fn main() -> anyhow::Result<()> {
    let (file, mode) = arguments()?;
    let before = read::<Recorded>(&file)?;
    let here = Place::here()?;
    let record = match mode {
        Mode::Compare => false,
        Mode::Record => true,
        Mode::Counts(file) => return write(&file, &count_requests()?),
        Mode::Uncounted(with) => {
            let with = read(&with)?.context("counts with metrics come first")?;
            let before = before.filter(|before| before.place == here).context("record the other counts first")?;
            return write(&file, &Recorded { metrics: tell_metrics(&with)?, ..before });
        }
    };
    if let Some(before) = &before
        && before.place != here
        && !record
    {
        println!("SKIPPED: the counts in {} are of {:?}, this is {here:?}", file.display(), before.place);
        return Ok(());
    }
    let (counts, grown) = count_all(before.as_ref(), record)?;
    let (traces, spans) = tell_traces(&counts)?;
    if record {
        // The first of a path stays what it was, also where the compiler changes.
        let metrics =
            before.as_ref().filter(|all| all.place == here).map(|all| all.metrics.clone()).unwrap_or_default();
        let mut first = before.map(|all| all.first).unwrap_or_default();
        for (name, count) in &counts {
            first.entry(name.clone()).or_insert(*count);
        }
        return write(&file, &Recorded { place: here, first, counts, traces, metrics });
    }
    anyhow::ensure!(before.is_some(), "{} does not exist: record it", file.display());
    anyhow::ensure!(
        grown.is_empty(),
        "more instructions than allowed ({GROWTH} % over the last, {GROWTH_EVER} % over the first): {grown:?}. \
         Where what ran most was changed, the profile that a release is built by knows it no more: `make pgo` writes it anew"
    );
    anyhow::ensure!(spans <= SPANS, "a hundredth of what spans of every request cost is {spans:.2} %, above {SPANS} %");
    Ok(())
}
