//! What a person asks a sidecar: its admin pages and metrics, and a new configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http::StatusCode;

use crate::http_client::{self, Ask};
use crate::namespace;
use crate::pods::Pod;
use crate::state;

/// How long a sidecar may take to notice a changed file.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

const ADMIN: u16 = 15000;
const READINESS: u16 = 15021;

/// The configuration file that a sidecar watches.
pub fn config_path(pod: Pod) -> PathBuf {
    state::path(pod.name).join("config.yaml")
}

/// Whether the sidecar says it is ready.
pub async fn is_ready(pod: Pod) -> bool {
    ask(pod, READINESS, Ask::Get("/healthz/ready".to_owned())).await.is_ok()
}

/// An admin page.
pub async fn admin(pod: Pod, ask_for: Ask) -> anyhow::Result<String> {
    ask(pod, ADMIN, ask_for).await
}

async fn ask(pod: Pod, port: u16, ask: Ask) -> anyhow::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let reply = namespace::within(&pod.namespace(), move || http_client::once(address, ask)).await;
    let reply = reply.with_context(|| format!("the sidecar of {} at port {port}", pod.name))?;
    if reply.status != StatusCode::OK {
        bail!("the sidecar of {} answers {}: {}", pod.name, reply.status, reply.body.trim());
    }
    Ok(reply.body)
}

/// Every metric, as Prometheus gets them.
pub async fn metrics(pod: Pod) -> anyhow::Result<String> {
    admin(pod, Ask::Get("/stats/prometheus".to_owned())).await
}

/// The sum of a metric's series that carry all of `labels`.
pub async fn metric(pod: Pod, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<u64> {
    let page = metrics(pod).await?;
    Ok(sum(&page, name, labels))
}

/// The series of `name` that carry all of `labels`, added up.
pub fn sum(page: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let values = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (family, rest) = series.split_once('{').unwrap_or((series, ""));
        let carried = |(label, value): &(&str, &str)| rest.contains(&format!("{label}=\"{value}\""));
        (family == name && labels.iter().all(carried)).then(|| value.parse::<f64>().ok()).flatten()
    });
    values.sum::<f64>() as u64
}

/// Replaces the configuration of a running sidecar by another, if it is another, and waits until it is in use.
pub async fn reconfigure(pod: Pod, config: &str) -> anyhow::Result<()> {
    const RELOADS: &str = "remora_config_reloads_total";
    let file = config_path(pod);
    if std::fs::read_to_string(&file)? == config {
        return Ok(());
    }
    let counted = async |result| metric(pod, RELOADS, &[("result", result)]).await;
    let (applied, failed) = (counted("applied").await?, counted("failed").await?);
    let beside = file.with_extension("new");
    std::fs::write(&beside, config)?;
    std::fs::rename(&beside, &file)?;
    wait(pod, "has not taken its new configuration", || async {
        ensure!(counted("failed").await? == failed, "the sidecar of {} refuses its new configuration", pod.name);
        Ok(counted("applied").await? > applied)
    })
    .await
}

/// Waits until `done`.
pub async fn wait<F>(pod: Pod, complaint: &str, done: impl Fn() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<bool>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !done().await? {
        if tokio::time::Instant::now() > deadline {
            bail!("the sidecar of {} {complaint} after {} s", pod.name, PATIENCE.as_secs());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_series_are_added_up() {
        let page =
            "# HELP a_total words\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total_other 9\nb 2\n";
        assert_eq!(sum(page, "a_total", &[]), 7);
        assert_eq!(sum(page, "a_total", &[("x", "1"), ("y", "3")]), 4);
        assert_eq!(sum(page, "a_total", &[("x", "2")]), 0);
        assert_eq!(sum(page, "b", &[]), 2);
    }
}
