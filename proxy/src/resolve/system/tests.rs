//! Files of the test's own and a name server on loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::UdpSocket;

use super::*;

/// A folder with the two files.
struct Etc(PathBuf);

impl Etc {
    fn new(hosts: &str, resolv_conf: Option<&str>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("remora-resolve-test-{}-{count}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let etc = Self(folder);
        etc.write("hosts", hosts);
        if let Some(text) = resolv_conf {
            etc.write("resolv.conf", text);
        }
        etc
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn system(&self, port: u16) -> System {
        System::new(self.0.join("hosts"), self.0.join("resolv.conf"), port)
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Knows one name, with two addresses of each family; writes down what it is asked.
async fn name_server(name: &'static str, ttl: u32) -> (u16, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = asked.clone();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut packet).await.unwrap();
            let (question, kind) = question(&packet[12..length]);
            told.lock().unwrap().push(question.clone());
            let known = question == name;
            let records: &[&[u8]] = match kind {
                1 => &[&[10, 0, 0, 1], &[10, 0, 0, 2]],
                _ => &[&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]],
            };
            let records = if known { records } else { &[] };
            let mut answer = packet[..2].to_vec();
            answer.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
            answer.extend(&packet[12..12 + question.len() + 1 + 4]);
            for record in records {
                answer.extend([0xc0, 12, 0, kind, 0, 1]);
                answer.extend(ttl.to_be_bytes());
                answer.extend([0, record.len() as u8]);
                answer.extend(*record);
            }
            socket.send_to(&answer, client).await.unwrap();
        }
    });
    (port, asked)
}

/// The name in a question, in lower case with its last dot, and the type.
fn question(mut bytes: &[u8]) -> (String, u8) {
    let mut name = String::new();
    while bytes[0] != 0 {
        let length = usize::from(bytes[0]);
        name.push_str(&String::from_utf8_lossy(&bytes[1..=length]).to_ascii_lowercase());
        name.push('.');
        bytes = &bytes[length + 1..];
    }
    (name, bytes[2])
}

fn ips(all: &[&str]) -> Vec<IpAddr> {
    all.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_service_is_found_by_the_search_list_with_its_life() {
    let (port, asked) = name_server("catalog.shop.svc.cluster.local.", 7).await;
    let etc = Etc::new("", Some("nameserver 127.0.0.1\nsearch a.example shop.svc.cluster.local\noptions ndots:5\n"));
    let system = etc.system(port);
    let found = system.lookup("catalog").await.unwrap();
    let mut addresses = found.addresses;
    addresses.sort_unstable();
    assert_eq!((addresses, found.good_for), (ips(&["10.0.0.1", "10.0.0.2", "fd00::1"]), Duration::from_secs(7)));
    assert!(asked.lock().unwrap().contains(&"catalog.a.example.".to_owned()), "in the order of the list");

    asked.lock().unwrap().clear();
    system.lookup("catalog.shop.svc.cluster.local.").await.unwrap();
    assert!(asked.lock().unwrap().iter().all(|name| name == "catalog.shop.svc.cluster.local."), "rooted, no search");
    let error = system.lookup("nobody").await.unwrap_err();
    assert!(asked.lock().unwrap().contains(&"nobody.".to_owned()), "{error}");
    // Nothing is kept: whoever asks wants to know anew.
    asked.lock().unwrap().clear();
    system.lookup("catalog").await.unwrap();
    assert!(!asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_is_read_again() {
    let (port, asked) = name_server("catalog.", 60).await;
    let etc = Etc::new("10.9.9.9 Catalog other # gone\nnonsense catalog\n", Some("nameserver 127.0.0.1\n"));
    let system = etc.system(port);
    let found = system.lookup("catalog").await.unwrap();
    assert_eq!(found, Found { addresses: ips(&["10.9.9.9"]), good_for: OF_A_FILE });
    etc.write("hosts", "fd00::9 catalog\n10.9.9.8 catalog.\n");
    assert_eq!(system.lookup("catalog").await.unwrap().addresses, ips(&["fd00::9", "10.9.9.8"]));
    assert!(asked.lock().unwrap().is_empty());
    etc.write("hosts", "");
    assert_eq!(system.lookup("catalog").await.unwrap().good_for, Duration::from_secs(60));
    assert!(system.lookup("gone").await.is_err());
}

#[tokio::test]
async fn without_name_servers_only_the_hosts_file_is_asked_until_there_are_some() {
    let (port, _) = name_server("catalog.", 60).await;
    let etc = Etc::new("10.9.9.9 known\n", None);
    let system = etc.system(port);
    assert_eq!(system.lookup("known").await.unwrap().addresses, ips(&["10.9.9.9"]));
    assert_eq!(system.lookup("localhost").await.unwrap().addresses, ips(&["127.0.0.1", "::1"]));
    assert_eq!(system.lookup("10.1.2.3").await.unwrap().addresses, ips(&["10.1.2.3"]));
    let error = system.lookup("catalog").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    etc.write("resolv.conf", "search a.example\n");
    let error = system.lookup("catalog").await.unwrap_err();
    assert!(error.to_string().contains("resolv.conf"), "{error}");
    etc.write("resolv.conf", "nameserver 127.0.0.1\n");
    assert_eq!(system.lookup("catalog").await.unwrap().addresses.len(), 3);
}
