//! What a row costs the proxies, beside what it costs who does the harm. What an allocator kept of the row before may be used again unseen,
//! and of rows that last the processor bound finds only what keeps a proxy busy.

use std::thread::available_parallelism;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;

use crate::bed::Bed;

/// A byte sent takes no more bytes of memory at any time, and a second of the sender's no more of processor time.
const TIMES: f64 = 100.0;
/// Bytes that a proxy may take besides, for each processor: what a worker has for its first connections of a kind, what its allocator asks for
/// at once, and what the kernel counts later.
const MEMORY: f64 = 2e6;
/// A byte sent may have so many be logged, lines of the access log included: it tells each failed request.
const LOG: f64 = 20.0;
/// Bytes that may be logged besides.
const LINES: f64 = 64e3;
/// Seconds of processor time besides. The programs are not optimised.
const CPU: f64 = 1.0;
/// And in each second, for the good client and by themselves; two sidecars take 0.1.
const GOOD_CPU: f64 = 0.3;

/// What was spent when a row begins.
pub(crate) struct Cost {
    begun: Instant,
    /// Bytes that attacker and server sent, as [`sent_by`] tells them.
    sent: f64,
    /// Seconds of processor time of this thread, which does the harm of most rows.
    own: f64,
    /// The same of all proxies.
    cpu: f64,
    /// Bytes of memory of each.
    memory: Vec<f64>,
    /// Bytes that all have logged.
    logged: f64,
}

impl Cost {
    pub(crate) fn of_now(bed: &Bed) -> Self {
        let memory = bed.proxies().map(|proxy| memory(proxy, "VmRSS")).collect();
        // From here on the most that each has taken is told anew (proc(5)).
        bed.proxies().for_each(|proxy| {
            let refs = format!("/proc/{}/clear_refs", proxy.pid());
            std::fs::write(&refs, "5").unwrap_or_else(|error| panic!("{refs}: {error}"));
        });
        Self { begun: Instant::now(), sent: sent(bed), own: own_cpu(), cpu: cpu(bed), memory, logged: logged(bed) }
    }

    /// Asserts that what was spent since is in proportion, and says what it was.
    pub(crate) fn bounds(&self, bed: &Bed, row: &str) -> String {
        let bytes = sent(bed) - self.sent;
        let most = TIMES * bytes + MEMORY * available_parallelism().unwrap().get() as f64;
        let mut spent = format!("for {bytes} bytes");
        for (proxy, before) in bed.proxies().zip(&self.memory) {
            let taken = memory(proxy, "VmHWM") - before;
            let name = proxy.pod().name();
            assert!(taken <= most, "{row}: {bytes} bytes made {name} take {taken} of memory");
            spent += &format!(" {:.2} MB at {name}", taken / 1e6);
        }
        let logged = logged(bed) - self.logged;
        assert!(logged <= LOG * bytes + LINES, "{row}: {bytes} bytes made proxies log {logged}");
        let (own, proxies, elapsed) = (own_cpu() - self.own, cpu(bed) - self.cpu, self.begun.elapsed().as_secs_f64());
        let most = TIMES * own + GOOD_CPU * elapsed + CPU;
        assert!(proxies <= most, "{row}: {own} s of processor time made proxies take {proxies}, within {elapsed} s");
        spent + &format!(", {logged} bytes of log, {proxies:.2} s for {own:.4}")
    }
}

fn sent(bed: &Bed) -> f64 {
    let has_proxy = |pod: &Pod| bed.proxies().any(|proxy| proxy.pod().name() == pod.name());
    // Where there is a proxy, what leaves is its own, and what reaches it of the same pod passes the loopback interface.
    [&bed.attacker, &bed.server].map(|pod| sent_by(pod, if has_proxy(pod) { "lo" } else { "eth0" })).iter().sum()
}

/// Bytes that left an interface of a pod, with all heads. By the loopback one that is also what the good client sends where it is in the same
/// pod, what a proxy sends its application, and what is asked of a proxy's metrics.
fn sent_by(pod: &Pod, interface: &str) -> f64 {
    let counts = pod.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let mut interfaces = counts.lines().filter_map(|line| line.split_once(':'));
    let (_, counts) = interfaces.find(|(name, _)| name.trim() == interface).unwrap();
    // Eight fields are of what was received.
    counts.split_whitespace().nth(8).unwrap().parse().unwrap()
}

fn logged(bed: &Bed) -> f64 {
    bed.proxies().map(|proxy| proxy.stdout().len() + proxy.stderr().len()).sum::<usize>() as f64
}

fn own_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

fn cpu(bed: &Bed) -> f64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
    bed.proxies().map(|proxy| ticks_of(proxy) / ticks).sum()
}

/// Fields 14 and 15 of proc(5)'s /proc/PID/stat, where the third is the first behind the program's name.
fn ticks_of(proxy: &Sidecar) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum()
}

/// Bytes of memory in which a proxy lies: `VmRSS` now, `VmHWM` at most.
pub(crate) fn memory(proxy: &Sidecar, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let line = line.unwrap_or_else(|| panic!("{} has no {field}: {status}", proxy.pod().name()));
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<f64>().unwrap() * 1024.0
}
