//! The Kubernetes API server: how it is found, and the names that all of Remora's objects agree on.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Where the control plane lives.
pub const NAMESPACE: &str = "remora-system";
/// The control plane's Deployment, Service and ServiceAccount.
pub const CONTROL: &str = "remora-control";
/// The Secret with the certificate authority's state.
pub const CA_SECRET: &str = "remora-ca";
/// The Secret with the webhook's own authority and certificate.
pub const WEBHOOK_SECRET: &str = "remora-webhook";
/// The ConfigMap with the roots of the mesh.
pub const TRUST_BUNDLE: &str = "remora-trust-bundle";
/// Its key.
pub const TRUST_BUNDLE_KEY: &str = "bundle.pem";
/// The ConfigMap with the proxies' configuration.
pub const MESH: &str = "remora-mesh";
/// Its key.
pub const MESH_KEY: &str = "mesh.yaml";
/// The MutatingWebhookConfiguration.
pub const INJECTOR: &str = "remora-injector";
/// The label of namespaces and pods, and the annotation of pods, that chooses injection.
pub const INJECT: &str = "remora.dev/inject";
/// What [`INJECT`] says on a namespace whose pods are injected.
pub const ENABLED: &str = "enabled";
/// Labels that all of our objects carry.
pub const LABELS: [(&str, &str); 2] =
    [("app.kubernetes.io/part-of", "remora"), ("app.kubernetes.io/managed-by", "remora")];
/// The same as a selector.
pub const SELECTOR: &str = "app.kubernetes.io/part-of=remora,app.kubernetes.io/managed-by=remora";

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which API server is meant.
#[derive(Clone, Debug, Default, Args)]
pub struct Access {
    /// The kubeconfig; otherwise $KUBECONFIG, ~/.kube/config, or the cluster this runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context, instead of its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// Why the API server does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable configuration.
    #[error("the Kubernetes API server cannot be found: {0}")]
    Access(String),
    /// A call failed.
    #[error("{what}: {}", told(source))]
    Call {
        /// What was asked for.
        what: String,
        /// What came back.
        source: kube::Error,
    },
}

impl Error {
    /// Says what was asked for.
    pub fn of(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Call { what, source }
    }

    /// The API server's status code, where it answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Call { source, .. } => code(source),
            Self::Access(_) => None,
        }
    }
}

/// The API server's status code, where it answered.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What a person needs of it: the server's message, or the chain of reasons.
pub(crate) fn told(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        let reason = source.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        next = source.source();
    }
    text
}

impl Access {
    /// A client whose calls end.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn client(&self) -> Result<Client, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Access(error.to_string());
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match (&self.kubeconfig, &self.context) {
            (Some(path), _) => {
                let read = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| failed(&error))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| failed(&error))?,
            (None, None) => Config::infer().await.map_err(|error| failed(&error))?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // Watches say themselves when they end; between two events this bounds nothing that matters.
        config.read_timeout = Some(TIMEOUT.max(Duration::from_secs(300)));
        config.write_timeout = Some(TIMEOUT);
        Client::try_from(config).map_err(|error| failed(&error))
    }
}

/// The labels of our objects as a map.
pub fn labels() -> std::collections::BTreeMap<String, String> {
    LABELS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
