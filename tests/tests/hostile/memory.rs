//! Memory that comes to its end.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use remora_test::eventually;

use crate::bed::{Bed, Row, beds};
use crate::frames::{DATA, END_HEADERS, END_STREAM, H2, HEADERS, SETTINGS, frame, get, request};

/// Of a settings frame.
const ACK: u8 = 1;
/// What the proxy may have.
const LIMIT: u64 = 96 << 20;
/// What a sidecar may have unless told otherwise.
pub(crate) const USUAL: u64 = 256 << 20;

pub(crate) fn rows() -> [Row; 2] {
    [
        Row { name: "little-memory", counter: ("remora_memory_shortages_total", &[]), run: little_memory },
        Row {
            name: "crowds-that-read-nothing",
            counter: ("remora_http2_windows_narrowed_total", &[("peer", "endpoint")]),
            run: crowds_that_read_nothing,
        },
    ]
}

beds! {
    gateway a_gateway_with_little_memory ["little-memory"] => |rows| {
        let group = Group::new("little", LIMIT);
        let unread = |server: &remora_test::pod::Pod| {
            format!("    - {{path: /unread, endpoints: [\"{}\"], protocol: http}}\n", server.at(9001))
        };
        let mut bed = Bed::gateway_by(unread, "", |pod, config| pod.proxy_in_group(config, &group.0));
        // Takes connections, and never a byte of them.
        let listener = bed.server.enter(|| TcpListener::bind(bed.server.at(9001))).unwrap();
        std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
        // What the allocator keeps of the first time, it uses the second time.
        little_memory(&bed);
        let ran = rows.run(&mut bed);
        assert_eq!(group.kills(), 0, "the kernel had to end nothing");
        ran
    };

    gateway a_gateway_before_crowds_that_read_nothing ["crowds-that-read-nothing"] => |rows| {
        let group = Group::new("crowds", USUAL);
        let large = |server: &remora_test::pod::Pod| {
            format!("    - {{path: /big, endpoints: [\"{}\"], protocol: http2, timeouts: {{idle: 2s}}}}\n", server.at(8080))
        };
        let mut bed = Bed::gateway_by(large, "workers: 2", |pod, config| pod.proxy_in_group(config, &group.0));
        let ran = rows.run(&mut bed);
        assert_eq!(group.kills(), 0, "the kernel had to end nothing");
        ran
    };
}

#[test]
fn a_gateway_with_no_memory_left_serves_a_few() {
    // Less than it has from the beginning.
    let bed = Bed::gateway_with(|_| String::new(), "workers: 1", &["REMORA_MEMORY_LIMIT=1000000".to_owned()]);
    let count = |labels| bed.proxy.metric("remora_requests_total", labels);
    eventually("some are served and some refused", || {
        let mut streams: Vec<_> = (0..4).map(|_| bed.connect()).collect();
        for stream in &mut streams {
            stream.write_all(&b"GET /short HTTP/1.1\r\nhost: a\r\n\r\n".repeat(20)).unwrap();
            stream.write_all(b"GET /short HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        }
        streams.into_iter().for_each(|stream| drop(std::io::read_to_string(stream)));
        (count(&[("code", "200")]) > 0.0 && count(&[("code", "503"), ("flag", "OM")]) > 0.0).then_some(())
    });
}

/// A control group with a limit of memory, beyond which the kernel kills.
pub(crate) struct Group(pub(crate) PathBuf);

impl Group {
    pub(crate) fn new(name: &str, bytes: u64) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) =
            if v1.is_dir() { (v1, "memory.limit_in_bytes") } else { (v1.parent().unwrap(), "memory.max") };
        let group = Self(root.join(format!("remora-hostile-{}-{name}", std::process::id())));
        std::fs::create_dir(&group.0).unwrap();
        std::fs::write(group.0.join(limit), bytes.to_string()).unwrap();
        group
    }

    /// Has the limit be of a process that runs already, for what it takes from now on.
    pub(crate) fn takes(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Processes the kernel killed in it.
    pub(crate) fn kills(&self) -> u64 {
        let files = ["memory.oom_control", "memory.events"].map(|file| std::fs::read_to_string(self.0.join(file)));
        let text = files.into_iter().find_map(Result::ok).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group that still has a process cannot be removed.
        let parent = self.0.parent().unwrap().join("cgroup.procs");
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = std::fs::write(&parent, pid);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn little_memory(bed: &Bed) {
    let (shortages, part) = ("remora_memory_shortages_total", [b'm'; 16_000]);
    let before = bed.proxy.metric(shortages, &[]);
    let mut held = Vec::new();
    while bed.proxy.metric(shortages, &[]) == before {
        assert!(held.len() < 150, "{} MB are held", bed.memory() / 1e6);
        let mut h2 = bed.h2();
        // Its settings are there, and taken: 256 KiB a stream, less in a crowd.
        assert!(h2.settled() && h2.send(&frame(SETTINGS, ACK, 0, b"")));
        for _ in 0..50 {
            let id = h2.stream_id();
            h2.send(&frame(HEADERS, END_HEADERS, id, &request("POST", "/unread")));
            for _ in 0..h2.window / part.len() {
                h2.send(&frame(DATA, 0, id, &part));
            }
        }
        assert!(h2.settled());
        held.push(h2);
    }
    // Whoever comes now is served, if later; and so do all, however many.
    let pauses = bed.proxy.metric("remora_accept_pauses_total", &[]);
    for _ in 0..10 {
        let answer = bed.answer_to(b"GET /later HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert!(bed.proxy.metric("remora_accept_pauses_total", &[]) > pauses, "accepting is held back");
    assert_eq!(bed.proxy.admin("/stats").code, 200);
    drop(held);
    eventually("it is no longer short", || {
        let share = bed.proxy.metric("remora_memory_used_bytes", &[]) / LIMIT as f64;
        (share < 0.8).then_some(())
    });
}

/// More than the windows and buffers on its way.
const LARGE: &str = "/big/400000";
/// Requests of a crowd, fewer than one connection may have.
const CROWD: usize = 900;

fn crowds_that_read_nothing(bed: &Bed) {
    for connections in [1, 60] {
        let before = bed.memory();
        // Who reads goes on meanwhile, and gets all of it.
        let mut reads = bed.connect();
        let long = 8_000_000;
        reads.write_all(format!("GET /big/{long} HTTP/1.0\r\nhost: a\r\n\r\n").as_bytes()).unwrap();
        reads.read_exact(&mut [0; 100_000]).unwrap();
        let held: Vec<_> = (0..connections).map(|_| crowd(bed, CROWD / connections)).collect();
        let mut most = 0.0_f64;
        eventually("each is with the origin", || {
            most = most.max(bed.memory());
            (bed.origin.seen(LARGE).len() == CROWD).then_some(())
        });
        let mut rest = Vec::new();
        reads.read_to_end(&mut rest).unwrap();
        let body = rest.iter().rev().take_while(|byte| **byte == b'o').count();
        assert!(body == rest.len() && (long - 100_000..long).contains(&body), "{body} bytes of {}", rest.len());
        at_rest(bed, &mut most);
        println!("{CROWD} by {connections}: {:.1} MB beside {:.1} MB", (most - before) / 1e6, before / 1e6);
        drop(held);
        bed.proxy.metric_until("remora_requests_active", &[], |count| count <= 2.0);
        bed.origin.forget();
    }
}

/// So many large answers are asked for at once on a connection, and nothing is read.
fn crowd(bed: &Bed, requests: usize) -> H2 {
    let mut h2 = bed.h2();
    let ids: Vec<_> = (0..requests).map(|_| h2.stream_id()).collect();
    let heads: Vec<u8> = ids.iter().flat_map(|id| frame(HEADERS, END_STREAM | END_HEADERS, *id, &get(LARGE))).collect();
    assert!(h2.send(&heads));
    h2
}

/// Waits until memory grows no more.
pub(crate) fn at_rest(bed: &Bed, most: &mut f64) {
    let mut looks = 0;
    eventually("memory is at rest", || {
        let now = bed.memory();
        looks = if now > *most { 0 } else { looks + 1 };
        *most = most.max(now);
        (looks == 100).then_some(())
    });
}
