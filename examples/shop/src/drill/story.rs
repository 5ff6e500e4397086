//! The acts, one after another, under a load that lasts through all of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use shop_mesh::pods::{self, CATALOG, DRILLED, PRICING, Pod};
use shop_mesh::raised::{self, Mesh};
use shop_mesh::screen::Screen;
use shop_mesh::sidecar;

use crate::Cli;
use crate::authority;
use crate::certs;
use crate::counts::Counts;
use crate::floors::{self, ByPod, Floor};
use crate::load;
use crate::server::{self, Server};
use crate::swaps::Swaps;

/// How long the mesh is left alone before and after: long enough for the load to be under way.
const CALM: Duration = Duration::from_secs(2);

/// What went wrong, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    failed_requests: u64,
    handshake_errors: u64,
    broken_streams: u64,
}

impl Verdict {
    pub(crate) fn is_clean(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failed_requests, handshake_errors, broken_streams } = self;
        write!(
            f,
            "failed requests: {failed_requests}, handshake errors: {handshake_errors}, broken streams: {broken_streams}"
        )
    }
}

/// What the drill holds in its hands.
struct Drill<'a> {
    screen: &'a Screen,
    /// Whose certificates come from the authority.
    clients: Vec<Pod>,
    swaps: Vec<Arc<Swaps>>,
}

/// Raises the mesh, plays the acts, counts.
pub(crate) async fn run(screen: &Screen, cli: &Cli, mesh: &mut Mesh) -> anyhow::Result<Verdict> {
    screen.title("The mesh");
    let (drill, server) = raise(screen, cli, mesh).await?;
    let counts = Arc::new(Counts::default());
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let loads = load::start(&counts);
    let watch = tokio::spawn(floors::watch(Arc::clone(&stop)));
    let swapping = drill.start_swapping(cli, &stop);
    screen.title("Rotation under load");
    let played = drill.play(cli, server, began).await;
    stop.store(true, Ordering::Relaxed);
    let mut seen = watch.await.context("the watch panicked")??;
    for (pod, swapping) in swapping {
        let serials = swapping.await.context("a swap panicked")?;
        // Where the drill is to fail, swaps may fail too.
        match serials {
            Ok(serials) => seen.entry(pod.name).or_default().serials.extend(serials),
            Err(error) if !cli.drop_early => return Err(error),
            Err(_) => {}
        }
    }
    let lasted = began.elapsed();
    counts.stop();
    loads.end().await?;
    played?;
    screen.title("What was counted");
    floors::count(&mut seen).await?;
    drill.report(cli, &counts, &seen, lasted)?;
    let verdict = Verdict {
        failed_requests: counts.failed_requests.get(),
        handshake_errors: seen.values().map(|seen| seen.failures).sum(),
        broken_streams: counts.broken.get(),
    };
    if !cli.drop_early {
        drill.check_floors(cli, &counts, &seen, lasted)?;
    }
    Ok(verdict)
}

async fn raise<'a>(screen: &'a Screen, cli: &Cli, mesh: &mut Mesh) -> anyhow::Result<(Drill<'a>, Server)> {
    screen.busy("making the authority, the pods and their first certificates");
    raised::prepare(&DRILLED, &cli.config).await?;
    raised::wire(&DRILLED, pods::TRACES.address()).await?;
    let mut swaps = Vec::new();
    let mut clients = Vec::new();
    for pod in pods::sidecars(&DRILLED) {
        if server::is_client(&cli.config, pod)? {
            server::invite(pod).await?;
            clients.push(pod);
        } else {
            let of_pod = Swaps::new(pod);
            of_pod.begin().await?;
            swaps.push(of_pod);
        }
    }
    server::publish_roots()?;
    let server = Server::start(server::AS_IT_SHOULD).await?;
    for pod in DRILLED.into_iter().filter(Pod::is_redirected) {
        raised::redirect(pod).await?;
    }
    mesh.start(&DRILLED).await?;
    let (asking, reading) = (clients.len(), swaps.len());
    screen.good(&format!("sidecars are ready: {asking} ask the authority, {reading} read files"));
    Ok((Drill { screen, clients, swaps }, server))
}

type Swapping = Vec<(Pod, tokio::task::JoinHandle<anyhow::Result<std::collections::BTreeSet<String>>>)>;

impl Drill<'_> {
    /// Spreads the swaps over the length of the drill.
    fn start_swapping(&self, cli: &Cli, stop: &Arc<AtomicBool>) -> Swapping {
        let each = (cli.swaps / self.swaps.len() as u64).max(1);
        let pace = Duration::from_secs(cli.secs) / u32::try_from(each).unwrap_or(u32::MAX);
        let start = |swaps: &Arc<Swaps>| (swaps.pod(), tokio::spawn(Arc::clone(swaps).run(pace, Arc::clone(stop))));
        self.swaps.iter().map(start).collect()
    }

    fn swapped(&self) -> u64 {
        self.swaps.iter().map(|swaps| swaps.count()).sum()
    }

    async fn play(&self, cli: &Cli, mut server: Server, began: Instant) -> anyhow::Result<()> {
        tokio::time::sleep(CALM).await;
        if !cli.drop_early {
            self.rotate_intermediate().await?;
            server = self.restart(server, server::AS_IT_SHOULD).await?;
            self.screen.good("the authority was stopped and came back; every sidecar that asks it has renewed since");
        }
        if !cli.drop_early && !cli.short {
            server = self.restart(server, server::BEHIND).await?;
            self.screen.good("its clock was wound back by 60 s, and every sidecar that asks it has renewed since");
            server = self.restart(server, server::AHEAD).await?;
            self.screen.good("its clock was wound forward by 60 s, and every sidecar that asks it has renewed since");
            server.stop().await?;
            server = Server::start(server::AS_IT_SHOULD).await?;
        }
        self.rotate_root(cli).await?;
        while !cli.drop_early && (began.elapsed().as_secs() < cli.secs || self.swapped() < cli.swaps) {
            self.screen.progress(&format!("{} swaps", self.swapped()));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(CALM).await;
        server.stop().await
    }

    /// Stops the authority for a while and starts it in another manner; returns when its clients have renewed.
    async fn restart(&self, server: Server, manner: server::Manner) -> anyhow::Result<Server> {
        server.stop().await?;
        tokio::time::sleep(CALM).await;
        let before = self.serials().await?;
        let server = Server::start(manner).await?;
        for (pod, old) in before.iter().filter(|(pod, _)| self.clients.contains(pod)) {
            sidecar::wait(*pod, "has no new certificate", async || Ok(certs::served(*pod).await?.serial != *old))
                .await?;
        }
        Ok(server)
    }

    /// From the first root to the second, as the tool allows it; early, if the drill is to fail.
    async fn rotate_root(&self, cli: &Cli) -> anyhow::Result<()> {
        let screen = self.screen;
        let old = certs::served(PRICING).await?.anchors;
        let pricing = self.swaps.iter().find(|swaps| swaps.pod() == PRICING).context("pricing has no files")?;
        let held = pricing.hold().await;
        authority::step("start").await?;
        self.must_be_refused("issue", pricing).await?;
        let before = certs::served(PRICING).await?.serial;
        drop(held);
        sidecar::wait(PRICING, "has no new certificate", async || Ok(certs::served(PRICING).await?.serial != before))
            .await?;
        // It knows both roots now, and keeps a certificate of the old one.
        let held = pricing.hold().await;
        authority::step("issue").await?;
        screen.good("every sidecar trusts both roots; what is issued from here on is the new one's");
        self.wait_for_new(&self.serials().await?, Some(PRICING)).await?;
        self.must_be_refused("drop", pricing).await?;
        if cli.drop_early {
            authority::force("drop").await?;
            screen.note("the old root was dropped nevertheless, by --force");
            tokio::time::sleep(CALM * 2).await;
            return Ok(());
        }
        drop(held);
        authority::step("drop").await?;
        self.wait("still trusts the old root", |served| served.anchors.is_disjoint(&old)).await?;
        screen.good("no sidecar trusts the old root any more");
        screen.plain(&format!("status: {}", authority::status().await?));
        Ok(())
    }

    /// A new intermediate beneath the same root: nobody has to be told.
    async fn rotate_intermediate(&self) -> anyhow::Result<()> {
        let before = self.serials().await?;
        authority::rotate_intermediate().await?;
        self.wait_for_new(&before, None).await?;
        self.screen.good("every sidecar has a certificate of a new intermediate");
        Ok(())
    }

    async fn must_be_refused(&self, step: &str, held: &Swaps) -> anyhow::Result<()> {
        let id = held.id()?;
        let status = authority::status().await?;
        status.check_needed(&id)?;
        self.screen.plain(&format!("status: {status}"));
        let why = authority::refused(step, &id).await?;
        self.screen.good(&format!("{step} is refused: {why}"));
        Ok(())
    }

    async fn serials(&self) -> anyhow::Result<Vec<(Pod, String)>> {
        let mut serials = Vec::new();
        for pod in pods::sidecars(&DRILLED) {
            serials.push((pod, certs::served(pod).await?.serial));
        }
        Ok(serials)
    }

    /// Twice: the one that was being issued when the signer changed may still be the old one's.
    async fn wait_for_new(&self, before: &[(Pod, String)], except: Option<Pod>) -> anyhow::Result<()> {
        let mut before = before.to_vec();
        for _ in 0..2 {
            for (pod, old) in before.iter().filter(|(pod, _)| Some(*pod) != except) {
                let renewed = async || Ok(certs::served(*pod).await?.serial != *old);
                sidecar::wait(*pod, "has no new certificate", renewed).await?;
            }
            before = self.serials().await?;
        }
        Ok(())
    }

    async fn wait(&self, complaint: &str, done: impl Fn(&certs::Served) -> bool) -> anyhow::Result<()> {
        for pod in pods::sidecars(&DRILLED) {
            sidecar::wait(pod, complaint, async || Ok(done(&certs::served(pod).await?))).await?;
        }
        Ok(())
    }

    fn report(&self, cli: &Cli, counts: &Counts, seen: &ByPod, lasted: Duration) -> anyhow::Result<()> {
        let recorded = authority::recorded()?;
        floors::print(self.screen, seen);
        let screen = self.screen;
        screen.plain(&format!("{} s under load, at least {} asked for", lasted.as_secs(), cli.secs));
        screen.plain(&format!("HTTP/1.1: {} requests answered and right", counts.requests.get()));
        screen.plain(&format!(
            "gRPC: {} streams complete, {} told to end after the grace; {} messages answered and right",
            counts.streams.get(),
            counts.told_streams.get(),
            counts.messages.get()
        ));
        let kilobytes = counts.bytes.get() >> 10;
        screen.plain(&format!("TCP: {} connections complete, {kilobytes} KiB came back", counts.connections.get()));
        screen.plain(&format!("{} swaps of files, each taken into use", self.swapped()));
        let (certificates, signers, anchors) = recorded;
        screen.plain(&format!(
            "the authority: {certificates} certificates by {signers} intermediates of {anchors} roots"
        ));
        for reason in counts.reasons() {
            screen.note(&reason);
        }
        if !cli.drop_early {
            ensure!(signers >= 3 && anchors == 2, "{signers} intermediates of {anchors} roots, not 3 of 2");
        }
        Ok(())
    }

    /// A drill in which little happened proves little.
    fn check_floors(&self, cli: &Cli, counts: &Counts, seen: &ByPod, lasted: Duration) -> anyhow::Result<()> {
        ensure!(lasted.as_secs() >= cli.secs, "the load lasted {} s only", lasted.as_secs());
        ensure!(self.swapped() >= cli.swaps, "{} swaps only", self.swapped());
        for (what, count, floor) in [
            ("requests", &counts.requests, 20 * cli.secs),
            ("gRPC streams", &counts.streams, cli.secs / 4),
            ("gRPC messages", &counts.messages, 20 * cli.secs),
            ("TCP connections", &counts.connections, cli.secs / 2),
        ] {
            ensure!(count.get() >= floor, "{} {what} only, not {floor} or more", count.get());
        }
        for pod in pods::sidecars(&DRILLED) {
            let seen = seen.get(pod.name).with_context(|| format!("{} was never looked at", pod.name))?;
            // A slow replica is asked less often.
            let handshakes = if pod == CATALOG[2] { 2 } else { 4 };
            Floor { serials: 5, anchors: 2, handshakes }.check(pod, seen)?;
        }
        Ok(())
    }
}
