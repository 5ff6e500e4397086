//! Which replica of the catalog answered, under both ways of balancing, over the one connection of a gRPC client.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;

use shop_mesh::http_client::{Ask, Budget, Report, load};
use shop_mesh::namespace;
use shop_mesh::pods::{CATALOG, GATEWAY, STOREFRONT};
use shop_mesh::raised::{Mesh, door};
use shop_mesh::screen::Screen;
use shop_mesh::sidecar;

const REQUESTS: u64 = 300;
const CLIENTS: usize = 8;
/// What a third may differ by.
const TOLERANCE: f64 = 5.0;
/// What a replica gets at most that takes ten times as long as the others.
const SLOW_SHARE: f64 = 15.0;

pub(crate) async fn show(screen: &Screen, mesh: &Mesh) -> anyhow::Result<()> {
    mesh.store()?;
    let before = connections().await?;
    let robin = measure(screen, "round robin").await?;
    let config = std::fs::read_to_string(sidecar::config_path(STOREFRONT))?;
    sidecar::reconfigure(STOREFRONT, &config.replace("round_robin", "least_request")).await?;
    let least = measure(screen, "least request").await?;
    print(screen, &[("round robin", &robin), ("least request", &least)]);
    for share in robin.shares.values() {
        ensure!((share - 100.0 / 3.0).abs() < TOLERANCE, "round robin gave a replica {share:.1} % instead of a third");
    }
    let slow = least.shares.get(CATALOG[2].name).copied().unwrap_or(0.0);
    ensure!(slow < SLOW_SHARE, "least request gave the slow replica {slow:.1} %");
    let opened = connections().await? - before;
    ensure!(opened == 0 && before > 0, "the storefront's gRPC client opened {opened} connections beside its first");
    screen.good("round robin: a third each; the storefront's gRPC client kept the one connection it had");
    screen.good(&format!("least request: {} takes ten times as long and gets {slow:.1} %", CATALOG[2].name));
    Ok(())
}

/// How many HTTP/2 connections the storefront's application has made to its sidecar.
async fn connections() -> anyhow::Result<u64> {
    let labels = [("direction", "outbound"), ("protocol", "http2")];
    sidecar::metric(STOREFRONT, "remora_downstream_connections_total", &labels).await
}

struct Measured {
    counts: BTreeMap<String, u64>,
    /// Percent by replica.
    shares: BTreeMap<String, f64>,
    took: Duration,
}

async fn measure(screen: &Screen, how: &str) -> anyhow::Result<Measured> {
    screen.busy(&format!("{REQUESTS} requests, {CLIENTS} at a time, {how}"));
    let budget = Budget::new(REQUESTS);
    let started = Instant::now();
    let ask = Ask::Get("/products".to_owned());
    let report: Report = namespace::within(&GATEWAY.namespace(), move || load(door(), CLIENTS, ask, budget)).await?;
    let took = started.elapsed();
    ensure!(report.failures.is_empty(), "{} requests failed, one with: {}", report.failures.len(), report.failures[0]);
    let total = report.answered() as f64;
    let share = |pod: &str| 100.0 * report.by_replica.get(pod).copied().unwrap_or(0) as f64 / total;
    let shares = CATALOG.iter().map(|pod| (pod.name.to_owned(), share(pod.name))).collect();
    Ok(Measured { counts: report.by_replica, shares, took })
}

fn print(screen: &Screen, measured: &[(&str, &Measured)]) {
    let mut rows = Vec::new();
    for (how, measured) in measured {
        for (replica, share) in &measured.shares {
            let bar = "█".repeat((share / 2.5).round() as usize);
            let count = measured.counts.get(replica).copied().unwrap_or(0);
            let first = if rows.len() % CATALOG.len() == 0 { (*how).to_owned() } else { String::new() };
            let seconds =
                if first.is_empty() { String::new() } else { format!("{:.1} s", measured.took.as_secs_f64()) };
            let delay = if replica == CATALOG[2].name { "300 ms" } else { "30 ms" };
            let delay = delay.to_owned();
            rows.push(vec![first, replica.clone(), delay, count.to_string(), format!("{share:.1} %"), bar, seconds]);
        }
    }
    screen.table(&["balancing", "replica", "takes", "answers", "share", "", "took"], &rows);
}
