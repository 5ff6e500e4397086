//! `remora install` and `remora uninstall`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use remora_model::{MtlsMode, TrustDomain};

use crate::cluster::Access;
use crate::inject::Compat;
use crate::install::objects::{Object, Options, default_mesh, objects};
use crate::install::{self, apply, remove};

/// Installs or updates the control plane in a cluster.
#[derive(Debug, Args)]
pub(super) struct Install {
    #[command(flatten)]
    access: Access,
    /// Only print the objects that would be applied.
    #[arg(long)]
    dry_run: bool,
    /// How --dry-run prints them.
    #[arg(short, long, value_enum, default_value_t = Output::Yaml, requires = "dry_run")]
    output: Output,
    /// The mesh's trust domain: the first part of every identity.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Where images come from: REGISTRY/control, REGISTRY/init, REGISTRY/proxy.
    #[arg(long, value_name = "REGISTRY", default_value = "localhost/remora")]
    image_registry: String,
    /// Understand another mesh's annotations, too.
    #[arg(long, value_name = "MESH", value_enum)]
    compat: Option<Compat>,
    /// How many control planes run.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    replicas: u16,
    /// The configuration of every sidecar. Without one, and without --mtls, the one that is there is kept.
    #[arg(long, value_name = "FILE", conflicts_with = "mtls")]
    mesh_config: Option<PathBuf>,
    /// What sidecars accept: only mTLS, or plaintext too (the default of a new mesh).
    #[arg(long, value_name = "MODE", value_enum)]
    mtls: Option<Mtls>,
    /// Where the webhook is, for a control plane that runs outside the cluster.
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Takes the control plane out of a cluster, with everything it made.
#[derive(Debug, Args)]
pub(super) struct Uninstall {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
struct Waiting {
    /// Whether to wait until it is done.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait for each step.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = remora_config::parse_duration)]
    timeout: Duration,
}

impl Waiting {
    fn bound(&self) -> Option<Duration> {
        self.wait.then_some(self.timeout)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Yaml,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mtls {
    Strict,
    Permissive,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// With the cluster.
    #[error(transparent)]
    Install(#[from] install::Error),
    /// The configuration's file.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The configuration.
    #[error("{0}")]
    Mesh(remora_config::Errors),
    /// The runtime, or standard output.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Install {
    /// Installs, telling each step on `out`.
    ///
    /// # Errors
    /// The cluster, or the configuration.
    pub(super) fn run(self, out: &mut (dyn Write + Send)) -> Result<(), Error> {
        let mesh = match (&self.mesh_config, self.mtls) {
            (Some(path), _) => Some(read_mesh(path)?),
            (None, Some(Mtls::Strict)) => Some(default_mesh(MtlsMode::Strict)),
            (None, Some(Mtls::Permissive)) => Some(default_mesh(MtlsMode::Permissive)),
            (None, None) => None,
        };
        let mut options = Options {
            trust_domain: self.trust_domain,
            image_registry: self.image_registry,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            compat: self.compat,
            replicas: self.replicas,
            mesh,
            webhook_url: self.webhook_url,
        };
        let default = || Some(default_mesh(MtlsMode::Permissive));
        if self.dry_run {
            options.mesh = options.mesh.or_else(default);
            return print(&objects(&options), self.output, out);
        }
        runtime()?.block_on(async {
            let client = self.access.client().await.map_err(install::Error::from)?;
            if options.mesh.is_none() && !apply::has_mesh(&client).await? {
                options.mesh = default();
            }
            let mut said = |line: String| drop(writeln!(out, "{line}"));
            Ok(apply::install(&client, &options, self.waiting.bound(), &mut said).await?)
        })
    }
}

impl Uninstall {
    /// Uninstalls, telling each step on `out`.
    ///
    /// # Errors
    /// The cluster.
    pub(super) fn run(self, out: &mut (dyn Write + Send)) -> Result<(), Error> {
        runtime()?.block_on(async {
            let client = self.access.client().await.map_err(install::Error::from)?;
            let mut said = |line: String| drop(writeln!(out, "{line}"));
            Ok(remove::uninstall(&client, self.waiting.bound(), &mut said).await?)
        })
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// What no proxy would take is not installed.
fn read_mesh(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    install::check_mesh(&path.display().to_string(), &text).map_err(Error::Mesh)?;
    Ok(text)
}

fn print(objects: &[Object], output: Output, out: &mut dyn Write) -> Result<(), Error> {
    match output {
        Output::Yaml => {
            for object in objects {
                write!(out, "---\n{}", crate::manifest::to_yaml(&object.value))?;
            }
        }
        Output::Json => {
            let items: Vec<_> = objects.iter().map(|object| &object.value).collect();
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
            writeln!(out, "{list:#}")?;
        }
    }
    Ok(())
}
