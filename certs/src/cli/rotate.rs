//! `remora-certs rotate`: what signs, and what is trusted, replaced in steps that break nothing.

mod status;

use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use remora_model::identity::KeyKind;

use self::status::Status;
use super::DAY;
use super::value::{duration, key_kind};
use crate::Error;
use crate::ca::rotation::Step;
use crate::ca::{CaDirectory, CaError, NewRoot};
use crate::verify::Clock;

/// How often a waiting rotation looks again.
const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(super) enum Rotate {
    /// Replace the root: does the next safe step, or refuses it and names who would be cut off.
    Root(Root),
    /// Make a new intermediate beneath the root, and sign with it.
    Intermediate(Intermediate),
    /// Say how far a rotation is, whether the next step is safe, and who is in its way.
    Status(Status),
}

#[derive(Debug, Args)]
pub(super) struct Root {
    /// The CA's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Do this step, which must be the next: start (trust both roots), issue (sign with the new one) or drop (trust
    /// the new one only).
    #[arg(long, value_name = "STEP")]
    step: Option<WantedStep>,
    /// Do all steps that are left (or the one of --step), waiting this long at most for them to be safe.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// Do the step even where it cuts workloads off, and name them. For drills and disasters.
    #[arg(long, conflicts_with = "wait")]
    force: bool,
    /// Days until a new root ends.
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    root_days: u32,
    /// Days until the new root's intermediate ends.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    intermediate_days: u32,
    /// What kind of keys the new root and its intermediate get: p256, ed25519 or rsa-2048.
    #[arg(long, value_name = "KIND", default_value = "p256", value_parser = key_kind)]
    key: KeyKind,
    /// A root made elsewhere, instead of a new one.
    #[arg(long, value_name = "FILE", requires = "root_key")]
    certificate: Option<PathBuf>,
    /// Its key: it signs the intermediate and is not kept.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    root_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Intermediate {
    /// The CA's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The root's key, where it is kept offline: it is used once and not copied.
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// Days until the intermediate ends.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    intermediate_days: u32,
    /// What kind of key it gets: p256, ed25519 or rsa-2048.
    #[arg(long, value_name = "KIND", default_value = "p256", value_parser = key_kind)]
    key: KeyKind,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WantedStep {
    Start,
    Issue,
    Drop,
}

impl From<WantedStep> for Step {
    fn from(step: WantedStep) -> Self {
        match step {
            WantedStep::Start => Self::Start,
            WantedStep::Issue => Self::Issue,
            WantedStep::Drop => Self::Drop,
        }
    }
}

pub(super) fn run(command: &Rotate, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Rotate::Root(arguments) => root(arguments, out),
        Rotate::Intermediate(arguments) => intermediate(arguments, out),
        Rotate::Status(arguments) => status::run(arguments, out),
    }
}

fn root(arguments: &Root, out: &mut dyn Write) -> Result<(), Error> {
    let new = NewRoot {
        root: DAY * arguments.root_days,
        intermediate: DAY * arguments.intermediate_days,
        key: arguments.key,
        given: arguments.certificate.clone().zip(arguments.root_key.clone()),
    };
    let deadline = arguments.wait.map(|wait| Instant::now() + wait);
    loop {
        let done = one_step(arguments, &new, deadline, out)?;
        // Of several steps only those that are asked for: a rotation that has ended is not begun again.
        if deadline.is_none() || arguments.step.is_some() || done == Step::Drop {
            return Ok(());
        }
    }
}

/// Does one step, once it is safe.
fn one_step(arguments: &Root, new: &NewRoot, deadline: Option<Instant>, out: &mut dyn Write) -> Result<Step, Error> {
    let mut told = None;
    loop {
        let ca = CaDirectory::open(&arguments.dir)?;
        let phase = ca.state().ok_or_else(|| CaError::Plugin(arguments.dir.clone()))?.phase;
        let step = arguments.step.map_or(Step::after(phase), Step::from);
        match ca.rotate_root(step, arguments.force, new, SystemTime::now()) {
            Ok((ca, broken)) => {
                for obstacle in broken {
                    writeln!(out, "broken: {obstacle}").map_err(Error::Output)?;
                }
                say(step, &ca, out)?;
                return Ok(step);
            }
            Err(Error::Ca(CaError::Refused { step, obstacles }))
                if deadline.is_some_and(|deadline| Instant::now() < deadline)
                    && obstacles.iter().all(|obstacle| obstacle.record().is_some()) =>
            {
                if told.replace(obstacles.len()) != Some(obstacles.len()) {
                    writeln!(out, "{step}: waiting for {} certificates", obstacles.len())
                        .and_then(|()| out.flush())
                        .map_err(Error::Output)?;
                }
                thread::sleep(POLL);
            }
            Err(error) => return Err(error),
        }
    }
}

fn say(step: Step, ca: &CaDirectory, out: &mut dyn Write) -> Result<(), Error> {
    let dir = ca.path().display();
    let (said, next) = match step {
        Step::Start => ("the trust bundle has the new root beside the old one, which still signs", "issue"),
        Step::Issue => ("the new root's intermediate signs; the old root is still trusted", "drop"),
        Step::Drop => {
            return writeln!(out, "drop: done; only the new root is trusted (bundle version {})", ca.bundle_version())
                .map_err(Error::Output);
        }
    };
    writeln!(
        out,
        "{step}: done; {said} (bundle version {})\nNext: remora-certs rotate root --dir {dir} --step {next}",
        ca.bundle_version()
    )
    .and_then(|()| out.flush())
    .map_err(Error::Output)
}

fn intermediate(arguments: &Intermediate, out: &mut dyn Write) -> Result<(), Error> {
    let ca = CaDirectory::open(&arguments.dir)?;
    let lifetime = DAY * arguments.intermediate_days;
    let ca = ca.rotate_intermediate(arguments.root_key.as_deref(), lifetime, arguments.key, SystemTime::now())?;
    let name = ca.state().map_or("", |state| &state.signer.certificate);
    writeln!(out, "{name} signs from now on, until {}", Clock(&ca.authority().validity().not_after))
        .map_err(Error::Output)
}
