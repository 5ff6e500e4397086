//! Re-runs and repairs under load: not one connection reaches its destination past the proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use remora_test::netns::Netns;

use crate::pod::{BACKENDS, World, init, init_command, iptables, listener, ready, saved};

/// Runs per backend.
const ROUNDS: u32 = 120;
/// New connections a second, over all directions and families.
const RATE: u32 = 200;

/// What the listeners and the load count, until it ends.
#[derive(Default)]
struct Counts {
    /// Arrivals where only the proxy may take them.
    captured: AtomicU64,
    /// Arrivals at the original destination.
    direct: AtomicU64,
    opened: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

/// Threads that stop when this is dropped, also by a panic.
struct Load {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let outcome = thread.join();
            assert!(outcome.is_ok() || std::thread::panicking());
        }
    }
}

impl Load {
    fn start(world: &World) -> Self {
        let counts = Arc::new(Counts::default());
        let mut load = Self { counts: Arc::clone(&counts), threads: Vec::new() };
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            for (net, port, proxy) in [
                (&world.pod, 15001, true),
                (&world.pod, 15006, true),
                (&world.pod, 8080, false),
                (&world.server, 80, false),
            ] {
                let listener = net.enter(|| listener((any, port).into(), false)).unwrap();
                load.count_arrivals(listener, proxy);
            }
        }
        let out = [(world.server.v4().into(), 80), (IpAddr::from(world.server.v6()), 80)];
        let into = [(world.pod.v4().into(), 8080), (IpAddr::from(world.pod.v6()), 8080)];
        load.connect(&world.pod, out.map(SocketAddr::from));
        load.connect(&world.client, into.map(SocketAddr::from));
        load
    }

    fn count_arrivals(&mut self, listener: TcpListener, proxy: bool) {
        let counts = Arc::clone(&self.counts);
        socket2::SockRef::from(&listener).set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        self.threads.push(std::thread::spawn(move || {
            while !counts.stop.load(Ordering::Relaxed) {
                if listener.accept().is_ok() {
                    let count = if proxy { &counts.captured } else { &counts.direct };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }

    /// Opens connections at half the rate, to each address in turn.
    fn connect(&mut self, net: &Netns, to: [SocketAddr; 2]) {
        let counts = Arc::clone(&self.counts);
        self.threads.push(net.spawn(move || {
            let pause = Duration::from_secs(2) / RATE;
            let mut next = Instant::now();
            for address in to.into_iter().cycle() {
                if counts.stop.load(Ordering::Relaxed) {
                    return;
                }
                let opened = TcpStream::connect_timeout(&address, Duration::from_secs(5));
                let count = if opened.is_ok() { &counts.opened } else { &counts.failed };
                count.fetch_add(1, Ordering::Relaxed);
                // Fallen behind, it catches up: the rate holds over the whole test.
                next += pause;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }));
    }
}

/// Changes that open no hole by themselves; what they leave has to be repaired.
fn drift(pod: &Netns, backend: &str, round: u32) {
    for v6 in [false, true] {
        let run = |arguments: &[&str]| iptables(pod, backend, v6, &[&["-w", "5", "-t", "nat"], arguments].concat());
        match round % 6 {
            0 => run(&["-I", "REMORA_OUTPUT", "-m", "owner", "--uid-owner", "9999", "-j", "RETURN"]),
            1 => run(&["-D", "REMORA_OUTPUT", "-p", "tcp", "-m", "tcp", "--dport", "25", "-j", "RETURN"]),
            2 => run(&["-A", "OUTPUT", "-p", "tcp", "-j", "REMORA_OUTPUT"]),
            3 => {
                run(&["-N", "REMORA_OLD"]);
                run(&["-A", "PREROUTING", "-p", "tcp", "--dport", "1", "-j", "REMORA_OLD"]);
            }
            4 => run(&["-I", "OUTPUT", "-d", "192.0.2.0/24", "-j", "RETURN"].map(|word| match (v6, word) {
                (true, "192.0.2.0/24") => "2001:db8::/32",
                _ => word,
            })),
            _ => {}
        }
    }
}

#[test]
fn no_connection_passes_the_proxy_during_reruns_and_repairs() {
    if !ready() {
        return;
    }
    for backend in BACKENDS {
        let world = World::new();
        let flags = ["--backend", backend, "--exclude-outbound-ports", "25"];
        init(&world.pod, &flags).succeeded();
        let first = saved(&world.pod, backend);
        let load = Load::start(&world);
        for round in 0..ROUNDS {
            drift(&world.pod, backend, round);
            if round % 4 == 1 {
                killed_half_way(&world.pod, &flags, round);
            }
            if round % 6 == 5 {
                // A change of configuration and back.
                let more = [&flags[..], &["--exclude-inbound-ports", "9999"]].concat();
                init(&world.pod, &more).succeeded();
            }
            init(&world.pod, &flags).succeeded();
        }
        let again = init(&world.pod, &flags).succeeded();
        assert_eq!(again.stdout.matches("nothing changed").count(), 2, "{again:?}");
        let counts = Arc::clone(&load.counts);
        drop(load);
        let foreign = |line: &&String| !line.contains("192.0.2.0/24") && !line.contains("2001:db8::/32");
        assert_eq!(
            saved(&world.pod, backend).iter().filter(foreign).collect::<Vec<_>>(),
            first.iter().collect::<Vec<_>>()
        );
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!("{backend}: {} connections, {} captured", count(&counts.opened), count(&counts.captured));
        assert_eq!(count(&counts.direct), 0, "connections arrived past the proxy");
        assert_eq!(count(&counts.failed), 0, "connections failed");
        assert!(count(&counts.opened) > u64::from(ROUNDS), "the load never ran");
    }
}

/// The kubelet may kill an initialiser at any point; another run completes its work.
fn killed_half_way(pod: &Netns, flags: &[&str], round: u32) {
    let mut child = init_command(pod, flags).stdout(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(u64::from(round)));
    let _ = child.kill();
    child.wait().unwrap();
}
