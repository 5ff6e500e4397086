//! The wire between the pods: the same orders with mTLS and without, each time captured whole and searched for a word
//! that stands in every body.

use anyhow::ensure;

use crate::capture::{Capture, Captured, Packet, count, random_token};
use shop_mesh::http_client::{Ask, Connection};
use shop_mesh::namespace;
use shop_mesh::pods::{CATALOG, GATEWAY, PRICING, Pod, STOREFRONT, meshed};
use shop_mesh::raised::{Mesh, door};
use shop_mesh::screen::Screen;
use shop_mesh::sidecar;

const ORDERS: usize = 20;

/// One direction of one leg of an order's way: from, to, and whether it carries answers.
struct Leg {
    name: String,
    from: Vec<Pod>,
    to: Vec<Pod>,
}

/// What one leg carried.
#[derive(Default)]
struct Carried {
    packets: usize,
    /// Packets with the token in plain sight.
    readable: usize,
    /// Packets that begin like a TLS record.
    tls: usize,
}

pub(crate) async fn show(screen: &Screen, mesh: &Mesh) -> anyhow::Result<()> {
    // Nothing was said between the pods before: handshakes and all are in the capture.
    let secret = random_token()?;
    screen.busy("ordering with mTLS on, capturing every frame");
    let on = observe("mtls-on.pcap", &secret).await?;
    screen.busy("switching mTLS off in six running sidecars");
    let mut configurations = Vec::new();
    for pod in meshed() {
        let with_mtls = std::fs::read_to_string(sidecar::config_path(pod))?;
        sidecar::reconfigure(pod, &without_mtls(&with_mtls)).await?;
        configurations.push((pod, with_mtls));
    }
    let open = random_token()?;
    screen.busy("ordering with mTLS off");
    let off = observe("mtls-off.pcap", &open).await?;
    screen.busy("switching mTLS on again");
    for (pod, with_mtls) in configurations {
        sidecar::reconfigure(pod, &with_mtls).await?;
    }
    print(screen, &on, &secret, &off, &open);
    claim(screen, &on, &secret, &off, &open)?;
    // And it works as before.
    mesh.store()?;
    orders(&secret, 1).await
}

/// The same configuration in plaintext: nobody's identity can be asked for then.
fn without_mtls(config: &str) -> String {
    let lines = config.lines().filter(|line| !line.trim_start().starts_with("identity:"));
    let lines = lines.map(|line| line.replace("mtls: strict", "mtls: off").replace("mtls: true", "mtls: false") + "\n");
    lines.collect()
}

async fn observe(file: &str, token: &str) -> anyhow::Result<Captured> {
    let capture = Capture::start(file).await?;
    orders(token, ORDERS).await?;
    capture.finish().await
}

/// Sends orders whose note is `token`, and checks that it came back from both services.
async fn orders(token: &str, number: usize) -> anyhow::Result<()> {
    let token = token.to_owned();
    namespace::within(&GATEWAY.namespace(), move || async move {
        let mut connection = Connection::open(door()).await?;
        for _ in 0..number {
            let answer = connection.send(&Ask::Order(token.clone())).await?.json()?;
            let both = answer["catalog_note"] == token.as_str() && answer["pricing_note"] == token.as_str();
            ensure!(both, "an order came back changed: {answer}");
        }
        Ok(())
    })
    .await
}

fn legs() -> Vec<Leg> {
    let hops = [
        (vec![GATEWAY], vec![STOREFRONT], "gateway", "storefront"),
        (vec![STOREFRONT], CATALOG.to_vec(), "storefront", "catalog"),
        (vec![STOREFRONT], vec![PRICING], "storefront", "pricing"),
    ];
    let both = hops.into_iter().flat_map(|(near, far, from, to)| {
        [
            Leg { name: format!("{from} → {to}"), from: near.clone(), to: far.clone() },
            Leg { name: format!("{from} ← {to}"), from: far, to: near },
        ]
    });
    both.collect()
}

impl Leg {
    fn carried(&self, captured: &Captured, token: &str) -> Carried {
        let mut carried = Carried::default();
        for packet in captured.packets.iter().filter(|packet| self.takes(packet)) {
            carried.packets += 1;
            carried.readable += usize::from(count(&packet.data, token.as_bytes()) > 0);
            carried.tls += usize::from(begins_a_tls_record(&packet.data));
        }
        carried
    }

    fn takes(&self, packet: &Packet) -> bool {
        let is_one = |pods: &[Pod], address| pods.iter().any(|pod| pod.address() == address);
        is_one(&self.from, *packet.source.ip()) && is_one(&self.to, *packet.destination.ip())
    }
}

/// Content type 20 to 23 and version 3.x (RFC 8446, section 5.1).
fn begins_a_tls_record(data: &[u8]) -> bool {
    matches!(data, [20..=23, 3, ..])
}

fn print(screen: &Screen, on: &Captured, secret: &str, off: &Captured, open: &str) {
    let rows = legs().into_iter().map(|leg| {
        let (on, off) = (leg.carried(on, secret), leg.carried(off, open));
        let share = |carried: &Carried| format!("{} %", 100 * carried.tls / carried.packets.max(1));
        vec![
            leg.name,
            on.packets.to_string(),
            share(&on),
            on.readable.to_string(),
            off.packets.to_string(),
            share(&off),
            off.readable.to_string(),
        ]
    });
    let heading = ["leg of an order", "mTLS on: packets", "TLS", "readable", "mTLS off: packets", "TLS", "readable"];
    screen.table(&heading, &rows.collect::<Vec<_>>());
}

fn claim(screen: &Screen, on: &Captured, secret: &str, off: &Captured, open: &str) -> anyhow::Result<()> {
    for leg in legs() {
        let carried = leg.carried(on, secret);
        ensure!(carried.packets > 0, "nothing was captured of {}: the orders went another way", leg.name);
        let readable = leg.carried(off, open).readable;
        ensure!(readable >= ORDERS, "{}: without mTLS {readable} packets were readable, not {ORDERS}", leg.name);
    }
    let found = on.count(secret);
    ensure!(found == 0, "with mTLS on, the word of the orders stands {found} times on the wire");
    screen.good(&format!(
        "the random word in each body occurs nowhere in the capture of all pods ({} TCP segments)",
        on.packets.len()
    ));
    screen.good(&format!(
        "with mTLS off the same orders show it {} times; the switch was a configuration reload, there and back",
        off.count(open)
    ));
    Ok(())
}
