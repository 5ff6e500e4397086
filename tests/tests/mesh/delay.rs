//! A long way: a pod in between that passes on every byte later than it came.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use remora_test::pod::Pod;

/// Relays connections to `port` of `pod` to `to`, each direction by `delay`; for as long as the test runs.
pub(crate) fn relay(pod: &Pod, port: u16, to: SocketAddr, delay: Duration) {
    pod.enter(|| {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        // A thread stays in the namespace in which it began. It outlives the test, so it must not hold the pod.
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let far = TcpStream::connect(to).unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                one_way(near.try_clone().unwrap(), far.try_clone().unwrap(), delay);
                one_way(far, near, delay);
            }
        });
    });
}

/// What is read waits for its time in a queue, so that it is late but not slow.
fn one_way(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, receiver) = channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
