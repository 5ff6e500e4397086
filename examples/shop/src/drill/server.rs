//! The authority as a server in a pod of its own: started, stopped, and run by a clock that is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use shop_mesh::http_client::{Ask, once};
use shop_mesh::pods::{AUTHORITY, PROXY_UID, Pod};
use shop_mesh::process::Process;
use shop_mesh::raised::{TRUST_DOMAIN, run, text};
use shop_mesh::{namespace, state};

use crate::authority;

/// Debian's `faketime`.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
const LISTEN: &str = "10.77.0.5:15012";
const ADMIN: u16 = 15013;
/// How long a join token may wait for its pod.
const TOKEN_TTL: &str = "5m";

/// How the authority runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// The longest life of what it issues, by its own clock.
    pub(crate) ttl: &'static str,
    /// Seconds that its clock is wrong by.
    pub(crate) skew: i32,
}

/// Certificates of ten seconds, renewed at half of them.
pub(crate) const AS_IT_SHOULD: Manner = Manner { ttl: "10s", skew: 0 };
/// What it issues has 12 seconds left when it comes.
pub(crate) const BEHIND: Manner = Manner { ttl: "72s", skew: -60 };
/// What it issues begins, by its own clock, a minute after everybody's now, but for the back-dating.
pub(crate) const AHEAD: Manner = Manner { ttl: "10s", skew: 60 };

/// A running `remora-certs serve`.
pub(crate) struct Server(Process);

impl Server {
    pub(crate) async fn start(manner: Manner) -> anyhow::Result<Self> {
        let (dir, admin) = (text(&authority::directory()), AUTHORITY.at(ADMIN).to_string());
        let arguments = [
            &["serve", "--dir", &dir, "--listen", LISTEN, "--admin", &admin, "--dns-name", "authority"][..],
            &["--join-tokens", "--rate", "6000", "--max-ttl", manner.ttl, "--grace", "2s"],
        ];
        let skew = format!("{:+}s", manner.skew);
        let wound = [("LD_PRELOAD", FAKETIME), ("FAKETIME", &skew), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        let environment = if manner.skew == 0 { &[][..] } else { &wound };
        if manner.skew != 0 && !Path::new(FAKETIME).exists() {
            bail!("there is no {FAKETIME}: apt-get install faketime");
        }
        let mut process = Process::start(AUTHORITY, 0, "remora-certs", &arguments.concat(), environment)?;
        process.wait_until(ready).await?;
        Ok(Self(process))
    }

    /// SIGTERM; returns when it has ended.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.0.terminate().await
    }
}

async fn ready() -> bool {
    let namespace = AUTHORITY.namespace();
    let asked = namespace::within(&namespace, || async {
        let reply = once(AUTHORITY.at(ADMIN), Ask::Get("/ready".to_owned())).await?;
        Ok(reply.status.is_success())
    });
    tokio::time::timeout(Duration::from_secs(2), asked).await.is_ok_and(|ready| ready.unwrap_or_default())
}

/// Whether the pod's sidecar asks the authority, by its configuration.
pub(crate) fn is_client(config: &Path, pod: Pod) -> anyhow::Result<bool> {
    let file = config.join(format!("{}.yaml", pod.name));
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.contains("\n  ca:"))
}

/// A join token for the pod's sidecar, where its configuration expects one.
pub(crate) async fn invite(pod: Pod) -> anyhow::Result<()> {
    let account = pod.account.context("only a pod with a sidecar has an identity")?;
    let (dir, id) = (text(&authority::directory()), format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}"));
    let token = run("remora-certs", &["token", "--dir", &dir, "--id", &id, "--ttl", TOKEN_TTL]).await?;
    let file = state::path(pod.name).join("token");
    fs::write(&file, token)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(&file, Some(PROXY_UID), Some(PROXY_UID)).context("cannot hand a token over")
}

/// Puts the bundle where the sidecars look for the roots that vouch for the authority itself.
pub(crate) fn publish_roots() -> anyhow::Result<()> {
    let (beside, file): (PathBuf, PathBuf) = (state::path("ca-roots.new"), state::path("ca-roots.pem"));
    fs::copy(authority::directory().join("bundle.pem"), &beside)?;
    fs::rename(beside, file).context("cannot publish the roots")
}
