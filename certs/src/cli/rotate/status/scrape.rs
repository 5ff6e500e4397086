//! What proxies say themselves: their own root, and when they last saw a peer of each.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::Serialize;

/// The longest a proxy may take for each of connecting, and sending more.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is read of a proxy's metrics, in bytes.
const MOST: u64 = 16 * 1024 * 1024;

const OWN: &str = "remora_identity_anchor{";
const SEEN: &str = "remora_tls_peer_anchor_last_seen_seconds{";

/// One proxy's metrics.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Scraped {
    pub(super) url: String,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// The roots (SHA-256) of its own certificate.
    own_anchors: Vec<String>,
    /// When it last saw a peer of each root, in seconds since 1970.
    peer_anchors_last_seen: BTreeMap<String, f64>,
}

/// Asks the proxy at `url`; that it does not answer is part of the result.
pub(super) fn scrape(url: &str) -> Scraped {
    match fetch(url) {
        Ok(text) => parse(url, &text),
        Err(error) => Scraped { url: url.to_owned(), error: Some(error.to_string()), ..Scraped::default() },
    }
}

/// HTTP/1.0, so that the answer is not in chunks and ends with the connection (RFC 9112, section 6.3).
fn fetch(url: &str) -> io::Result<String> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
    let rest = url.strip_prefix("http://").ok_or_else(|| invalid("a URL here begins with http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, "metrics"));
    let address = host.to_socket_addrs()?.next().ok_or_else(|| invalid("no address of that name"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(answer),
        _ => Err(io::Error::other(format!("answered {:?}", status.chars().take(80).collect::<String>()))),
    }
}

fn parse(url: &str, text: &str) -> Scraped {
    let mut scraped = Scraped { url: url.to_owned(), ..Scraped::default() };
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Some(anchor) = label(series, "anchor") else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        if series.starts_with(OWN) && value > 0.0 {
            scraped.own_anchors.push(anchor);
        } else if series.starts_with(SEEN) {
            scraped.peer_anchors_last_seen.insert(anchor, value);
        }
    }
    scraped
}

/// The value of a label; those asked for here have nothing escaped in them.
fn label(series: &str, name: &str) -> Option<String> {
    let start = series.find(&format!("{name}=\""))? + name.len() + 2;
    series[start..].split('"').next().filter(|value| value.bytes().all(|byte| byte.is_ascii_hexdigit())).map(Into::into)
}

impl Scraped {
    /// Whether its own certificate leads to `anchor`.
    pub(super) fn holds(&self, anchor: &str) -> bool {
        self.own_anchors.iter().any(|own| own == anchor)
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let url = &self.url;
        if let Some(error) = &self.error {
            return writeln!(out, "{url}: {error}");
        }
        for anchor in &self.own_anchors {
            writeln!(out, "{url}: own certificate of root {anchor}")?;
        }
        for (anchor, seen) in &self.peer_anchors_last_seen {
            writeln!(out, "{url}: last saw a peer of root {anchor} at {seen}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const METRICS: &str = "# HELP remora_identity_anchor x\nremora_identity_anchor{anchor=\"aa\",serial=\"01\"} 1\n\
        remora_tls_peer_anchor_last_seen_seconds{anchor=\"bb\"} 1800000005\nother{anchor=\"cc\"} 1\n";

    #[test]
    fn a_proxys_roots_are_read() {
        let scraped = parse("u", METRICS);
        assert!(scraped.holds("aa") && !scraped.holds("bb") && !scraped.holds("cc"));
        assert_eq!(scraped.peer_anchors_last_seen, BTreeMap::from([("bb".to_owned(), 1_800_000_005.0)]));
    }

    #[test]
    fn a_proxy_is_asked_over_http_and_may_fail() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for status in ["200 OK", "503 Down"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let n = stream.read(&mut request).unwrap();
                let answer = format!("HTTP/1.0 {status}\r\n\r\n{METRICS}");
                assert!(request[..n].starts_with(b"GET /metrics HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let url = format!("http://{address}/metrics");
        assert!(scrape(&url).holds("aa"));
        assert_eq!(scrape(&url).error.as_deref(), Some("answered \"HTTP/1.0 503 Down\""));
        server.join().unwrap();
        assert!(scrape(&url).error.is_some() && scrape("https://x").error.is_some());
    }
}
