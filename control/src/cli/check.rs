//! `remora check`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};

use crate::check::{self, Line, Local, Place, Verdict};
use crate::cluster::Access;

/// Looks at a machine, a pod from inside or a cluster: one line each, with what to do about what is wrong
///
/// Nothing that is looked at is changed. The exit code is 0 where nothing failed (warnings alone are 0, too), 1 where
/// something did, and 2 for a wrong command line.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// What to look at [default: pod, inside of one; otherwise machine]
    #[arg(value_enum)]
    place: Option<Where>,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Of a machine or a pod: a proxy's configuration to look at, instead of the one of the proxy that runs here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    /// Of a machine or a pod: what remora-init was told, where that is neither its defaults nor what injection says
    #[arg(last = true, value_name = "REMORA-INIT'S ARGUMENTS", allow_hyphen_values = true)]
    init: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Where {
    /// This machine, in this network namespace
    Machine,
    /// An injected pod, from inside
    Pod,
    /// A cluster, through its API server
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line each
    Text,
    /// A list of {place, check, result, says, remedy}
    Json,
}

impl Check {
    /// Looks, writes what was seen on `out`, and says how it ended.
    pub(super) fn run(self, out: &mut dyn Write) -> ExitCode {
        let place = match self.place {
            Some(Where::Machine) => Place::Machine,
            Some(Where::Pod) => Place::Pod,
            Some(Where::Cluster) => Place::Cluster,
            None if check::is_pod() => Place::Pod,
            None => Place::Machine,
        };
        if let Err(wrong) = self.fits(place) {
            let kind = ErrorKind::ArgumentConflict;
            super::Remora::command().error(kind, wrong).exit();
        }
        match self.looked(place).and_then(|lines| write(&lines, self.output, out).map(|()| lines)) {
            Ok(lines) if lines.iter().any(|line| line.finding.result == Verdict::Failure) => ExitCode::FAILURE,
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => super::ended(Err(error)),
        }
    }

    /// Whether the options are about `place`.
    fn fits(&self, place: Place) -> Result<(), String> {
        let local = self.config.is_some() || !self.init.is_empty();
        let remote = self.access.kubeconfig.is_some() || self.access.context.is_some();
        match place {
            Place::Cluster if local => {
                Err("--config and arguments for remora-init are for `check machine` and `check pod`".to_owned())
            }
            Place::Machine | Place::Pod if remote => {
                Err("--kubeconfig and --context are for `check cluster`".to_owned())
            }
            Place::Cluster => Ok(()),
            Place::Machine | Place::Pod => check::arguments(&self.local()).map_err(|error| error.to_string()),
        }
    }

    fn local(&self) -> Local {
        Local { config: self.config.clone(), init: self.init.clone() }
    }

    fn looked(&self, place: Place) -> io::Result<Vec<Line>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match place {
                Place::Machine => check::machine::check(&self.local()).await.map_err(io::Error::other),
                Place::Pod => check::pod::check(&self.local()).await.map_err(io::Error::other),
                Place::Cluster => Ok(check::cluster::check(&self.access).await),
            }
        })
    }
}

fn write(lines: &[Line], format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Text => write!(out, "{}", check::text(lines)),
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(lines)?),
    }
}
