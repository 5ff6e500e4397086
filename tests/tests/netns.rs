//! The namespace guard itself: pods reach each other in both families, and nothing stays behind.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};

use remora_test::netns::Bridge;

/// Names of this process's namespaces that exist now, with `part` in them.
fn existing(part: &str) -> usize {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return 0 };
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(part)).count()
}

#[test]
fn pods_reach_each_other_in_both_families() {
    let bridge = Bridge::new().unwrap();
    let (a, b) = (bridge.pod("a").unwrap(), bridge.pod("b").unwrap());
    for address in [IpAddr::from(b.v4()), IpAddr::from(b.v6())] {
        let listener = b.enter(|| TcpListener::bind((address, 0))).unwrap();
        let to = listener.local_addr().unwrap();
        let mut client = a.enter(|| TcpStream::connect(to)).unwrap();
        let (mut server, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), if to.is_ipv4() { IpAddr::from(a.v4()) } else { a.v6().into() });
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }
}

#[test]
fn commands_run_inside_and_as_another_user() {
    let bridge = Bridge::new().unwrap();
    let pod = bridge.pod("user").unwrap();
    pod.hosts(&[(pod.v4().to_string(), "myself.test")]).unwrap();
    let addresses = pod.output("ip", &["-o", "addr", "show", "eth0"]).unwrap();
    assert!(String::from_utf8_lossy(&addresses.stdout).contains(&pod.v4().to_string()));
    let output =
        pod.command_as(1337, 1337, "sh").args(["-c", "id -u; id -G; getent hosts myself.test"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("1337\n1337\n"), "{text}");
    assert!(text.contains(&pod.v4().to_string()), "{text}");
}

#[test]
#[allow(clippy::zombie_processes, reason = "the guard must end the process, not its parent")]
fn nothing_stays_behind_after_a_panic() {
    let part = format!("-{}", "panics");
    let outcome = std::thread::spawn({
        let name = part.clone();
        move || {
            let bridge = Bridge::new().unwrap();
            let pod = bridge.pod(&name[1..]).unwrap();
            let child = pod.command("sleep").arg("1000").spawn().unwrap();
            assert_eq!(existing(&name), 1);
            std::panic::panic_any(child.id());
        }
    })
    .join();
    let pid = *outcome.unwrap_err().downcast::<u32>().unwrap();
    assert_eq!(existing(&part), 0, "the namespace is gone");
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(state.contains(") Z "), "the process inside was killed: {state}");
}
