//! Certificates replaced again and again while customers keep coming.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use shop_mesh::http_client::{Ask, Budget, load};
use shop_mesh::namespace;
use shop_mesh::pods::{GATEWAY, Pod, meshed};
use shop_mesh::process;
use shop_mesh::raised::{self, Mesh, door};
use shop_mesh::screen::Screen;
use shop_mesh::sidecar;

const ROUNDS: usize = 6;
const CLIENTS: usize = 4;
/// How many new certificates both sides must have seen in handshakes.
const WANTED: usize = 20;
/// How long a round waits for all of its certificates to be seen; those that nobody met by then are not counted.
const PATIENCE: Duration = Duration::from_secs(10);

/// A handshake as a sidecar's log tells it.
#[derive(Debug, PartialEq, Eq)]
struct Handshake {
    own: String,
    peer: String,
}

pub(crate) async fn show(screen: &Screen, mesh: &Mesh) -> anyhow::Result<()> {
    mesh.store()?;
    let before = served_serials().await?;
    set_log_level("debug").await?;
    let budget = Budget::endless();
    let customers = Arc::clone(&budget);
    let ask = Ask::Get("/products".to_owned());
    let customers = tokio::spawn(async move {
        namespace::within(&GATEWAY.namespace(), move || load(door(), CLIENTS, ask, customers)).await
    });
    let rotated = rotate(screen, &budget).await;
    budget.stop();
    let report = customers.await.context("the customers' task")??;
    set_log_level("info").await?;
    let issued = rotated?;
    let seen = seen_by_both(&handshakes()?, &issued);
    print(screen, &issued, &seen);
    ensure!(issued.values().all(|serials| serials.len() == ROUNDS), "a rotation issued a serial twice");
    ensure!(before.values().all(|serial| !issued.values().any(|new| new.contains(serial))), "an old serial came back");
    ensure!(report.failures.is_empty(), "{} requests failed, one with: {}", report.failures.len(), report.failures[0]);
    ensure!(report.answered() > 0, "no request was answered during the rotation");
    let number: usize = seen.values().map(BTreeSet::len).sum();
    ensure!(number >= WANTED, "only {number} new serials were seen by both sides in handshakes, not {WANTED}");
    screen.good(&format!("{} requests during {ROUNDS} rotations of every certificate, none failed", report.answered()));
    screen.good(&format!("{number} new serials met in handshakes: shown by one sidecar, verified by another"));
    Ok(())
}

/// Issues every sidecar a new certificate, round after round; the serials by pod.
async fn rotate(screen: &Screen, budget: &Budget) -> anyhow::Result<BTreeMap<&'static str, BTreeSet<String>>> {
    let mut issued: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
    screen.busy(&format!("{ROUNDS} new certificates for each sidecar under load"));
    for round in 1..=ROUNDS {
        // From the back to the front: a caller with a new certificate makes new connections, and so meets the new ones
        // of those it calls.
        let mut pods: Vec<Pod> = meshed().collect();
        pods.reverse();
        for pod in pods {
            let old = served_serial(pod).await?;
            raised::issue(pod).await?;
            let renewed = sidecar::wait(pod, "has not picked up its new certificate", || async {
                Ok(served_serial(pod).await? != old)
            });
            renewed.await?;
            issued.entry(pod.name).or_default().insert(served_serial(pod).await?);
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let all = round * issued.len();
        loop {
            let seen: usize = seen_by_both(&handshakes()?, &issued).values().map(BTreeSet::len).sum();
            let answered = budget.answered();
            screen
                .progress(&format!("round {round} of {ROUNDS}: {seen} new serials met, {answered} requests answered"));
            if seen == all || tokio::time::Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(issued)
}

async fn set_log_level(level: &str) -> anyhow::Result<()> {
    for pod in meshed() {
        sidecar::admin(pod, Ask::Post(format!("/logging?level={level}"))).await?;
    }
    Ok(())
}

async fn served_serials() -> anyhow::Result<BTreeMap<&'static str, String>> {
    let mut serials = BTreeMap::new();
    for pod in meshed() {
        serials.insert(pod.name, served_serial(pod).await?);
    }
    Ok(serials)
}

/// The serial number of the certificate that the sidecar shows its peers now.
async fn served_serial(pod: Pod) -> anyhow::Result<String> {
    let page = sidecar::admin(pod, Ask::Get("/certs".to_owned())).await?;
    let page: serde_json::Value = serde_json::from_str(&page).context("/certs is no JSON")?;
    let serial = page["identity"]["serial"].as_str().map(str::to_owned);
    serial.with_context(|| format!("/certs of {} names no serial: {page}", pod.name))
}

/// The handshakes in the logs of all sidecars.
fn handshakes() -> anyhow::Result<Vec<Handshake>> {
    let mut found = Vec::new();
    for pod in meshed() {
        let log = std::fs::read(process::log_path(pod, "remora-proxy"))?;
        found.extend(String::from_utf8_lossy(&log).lines().filter_map(handshake));
    }
    Ok(found)
}

/// The handshake that a line of a log tells of.
fn handshake(line: &str) -> Option<Handshake> {
    if !line.contains("mTLS handshake") {
        return None;
    }
    let field = |name: &str| {
        let words = line.split_whitespace();
        let value = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).next();
        value.map(|value| value.trim_matches('"').to_owned())
    };
    Some(Handshake { own: field("serial")?, peer: field("peer_serial")? })
}

/// Of the issued serials, by pod, those that their owner showed in a handshake and a peer verified in one.
fn seen_by_both<'a>(
    handshakes: &[Handshake],
    issued: &BTreeMap<&'a str, BTreeSet<String>>,
) -> BTreeMap<&'a str, BTreeSet<String>> {
    let shown: BTreeSet<&str> = handshakes.iter().map(|handshake| handshake.own.as_str()).collect();
    let verified: BTreeSet<&str> = handshakes.iter().map(|handshake| handshake.peer.as_str()).collect();
    let met = |serial: &&String| shown.contains(serial.as_str()) && verified.contains(serial.as_str());
    issued.iter().map(|(pod, serials)| (*pod, serials.iter().filter(met).cloned().collect())).collect()
}

fn print(
    screen: &Screen,
    issued: &BTreeMap<&'static str, BTreeSet<String>>,
    seen: &BTreeMap<&'static str, BTreeSet<String>>,
) {
    let rows = meshed().map(|pod| {
        let count = |serials: &BTreeMap<&'static str, BTreeSet<String>>| serials.get(pod.name).map_or(0, BTreeSet::len);
        let example = seen.get(pod.name).and_then(|serials| serials.first()).map_or("-", String::as_str);
        let example: String = example.chars().take(16).collect();
        vec![pod.name.to_owned(), count(issued).to_string(), count(seen).to_string(), format!("{example}…")]
    });
    screen.table(&["sidecar", "new certificates", "met in handshakes", "one serial"], &rows.collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_read_from_a_line_of_a_log() {
        let line = "2026-11-23T14:00:00Z DEBUG remora_proxy::tls: mTLS handshake side=\"server\" \
                    peer=spiffe://shop.example/ns/shop/sa/storefront peer_serial=\"4a01\" serial=5b02 resumed=false";
        assert_eq!(handshake(line), Some(Handshake { own: "5b02".to_owned(), peer: "4a01".to_owned() }));
        assert_eq!(handshake(&line.replace("mTLS handshake", "hello")), None);
    }

    #[test]
    fn a_serial_counts_when_one_side_showed_it_and_the_other_verified_it() {
        let one = |own: &str, peer: &str| Handshake { own: own.to_owned(), peer: peer.to_owned() };
        let issued = BTreeMap::from([("a", BTreeSet::from(["1".to_owned(), "2".to_owned()]))]);
        assert!(seen_by_both(&[one("1", "9"), one("2", "9")], &issued)["a"].is_empty());
        assert_eq!(seen_by_both(&[one("1", "9"), one("9", "1")], &issued)["a"].len(), 1);
    }
}
