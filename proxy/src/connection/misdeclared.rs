//! TLS where nothing but HTTP is served: the port is declared wrongly, as a rule, and its operator is told so, now and then.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use remora_model::{Direction, FilterChain, Protocol};

use super::{Accepted, Carried};
use crate::Error;

/// The time between two lines about one port: such clients come again and again.
const AGAIN: Duration = Duration::from_secs(3600);

/// What was said by all workers. Locked only for a connection that is refused.
static MENTIONS: LazyLock<Mutex<Mentions>> = LazyLock::new(Mutex::default);

/// When it was last said of which port that it is declared wrongly. Holds no more than there are ports.
#[derive(Debug, Default)]
struct Mentions(HashMap<u16, Instant>);

impl Mentions {
    /// Whether `port` is to be spoken of at `now`, for the first time within an hour; from then on it counts as spoken of.
    /// `may_log` is asked only where it is, and has the last word.
    fn is_due(&mut self, port: u16, now: Instant, may_log: impl FnOnce() -> bool) -> bool {
        let recent = self.0.get(&port).is_some_and(|last| now.duration_since(*last) < AGAIN);
        let due = !recent && may_log();
        if due {
            self.0.insert(port, now);
        }
        due
    }
}

/// What is wrong, and what to declare instead.
fn sentence(port: u16, chain: &FilterChain, direction: Direction) -> String {
    const LET_PASS: &str = "declare `protocol: auto`, which lets TLS pass as it is, or `tcp`";
    let (because, instead) = match (direction, chain.protocol) {
        (Direction::Gateway, _) => ("a gateway without `tls`", "give it `tls`, or ask it for http://"),
        (_, Protocol::Http) => ("`protocol: http`", LET_PASS),
        (_, Protocol::Http2) => ("`protocol: http2`", LET_PASS),
        (_, Protocol::Auto | Protocol::Tcp) => ("no way for anything else", "give it one for other connections"),
    };
    format!("TLS came to port {port}, where only HTTP is served ({because}), and was refused: {instead}")
}

impl Accepted {
    /// Ends a connection that begins with TLS where there is nothing for it.
    pub(super) fn refuse_undeclared_tls(mut self) -> Option<Carried> {
        let (port, chain) = (self.orig_dst.socket().port(), self.chain.chain());
        let mut mentions = MENTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let due = mentions.is_due(port, Instant::now(), || self.worker.may_log());
        drop(mentions);
        if due {
            let sentence = sentence(port, chain, self.info.direction);
            tracing::warn!(direction = self.info.direction.as_str(), client = %self.info.client, chain = %chain.name, "{sentence}");
        }
        self.telemetry.failed(&Error::DownstreamProtocol("TLS, where only HTTP is served".into()));
        None
    }
}

#[cfg(test)]
mod tests {
    use remora_config::Environment;

    use super::*;

    #[test]
    fn a_port_is_spoken_of_once_an_hour() {
        let (mut mentions, start) = (Mentions::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(mentions.is_due(8443, at(0), || true));
        assert!(!mentions.is_due(8443, at(0), || true), "the next connection");
        assert!(!mentions.is_due(8443, at(3599), || panic!("asked in vain")));
        assert!(mentions.is_due(9443, at(1), || true), "another port");
        assert!(mentions.is_due(8443, at(3600), || true), "an hour later");
        assert!(!mentions.is_due(8443, at(7199), || true), "within the next hour");
        assert!(mentions.is_due(8443, at(7200), || true));
    }

    #[test]
    fn a_line_that_may_not_be_written_is_written_later() {
        let (mut mentions, now) = (Mentions::default(), Instant::now());
        assert!(!mentions.is_due(8443, now, || false));
        assert!(mentions.is_due(8443, now, || true));
    }

    #[test]
    fn the_sentence_names_the_port_what_is_declared_and_what_to_declare() {
        let text = "service: a\ninbound: {mtls: off, ports: [{port: 80, protocol: http}, {port: 81, protocol: http2}]}\n\
                    gateway: {listen: 127.0.0.1:82, routes: [{path: /, to: \"127.0.0.1:1\"}]}\n";
        let snapshot = remora_config::parse("test", text.as_bytes(), &Environment::default()).unwrap();
        let of = |direction| snapshot.listeners.iter().find(|listener| listener.direction == direction).unwrap();
        let inbound = &of(Direction::Inbound).chains;
        let told = sentence(80, &inbound[0], Direction::Inbound);
        assert!(
            told.contains("port 80,") && told.contains("`protocol: http`") && told.contains("`protocol: auto`"),
            "{told}"
        );
        let told = sentence(81, &inbound[1], Direction::Inbound);
        assert!(told.contains("port 81,") && told.contains("`protocol: http2`"), "{told}");
        let told = sentence(82, &of(Direction::Gateway).default_chain, Direction::Gateway);
        assert!(told.contains("port 82,") && told.contains("give it `tls`"), "{told}");
    }
}
