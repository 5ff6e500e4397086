//! The applications of the tests: they know nothing of a mesh. The binary `remora-peer` runs them.
//!
//! [`http`] answers HTTP/1.1, HTTP/2 and gRPC on one port and tells what it saw; [`tcp`] speaks none of them.

pub mod http;
pub mod tcp;

use std::net::SocketAddr;
use std::time::Duration;

/// How an application behaves; from the command line.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it calls itself.
    pub name: String,
    /// How long every answer waits.
    pub delay: Duration,
}

impl Behaviour {
    /// Reads `--listen ADDRESS --name NAME --delay MILLISECONDS`.
    ///
    /// # Errors
    /// An unknown flag or a value that does not parse.
    pub fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut behaviour = Self { listen: ([127, 0, 0, 1], 0).into(), name: "peer".to_owned(), delay: Duration::ZERO };
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| anyhow::anyhow!("{flag} lacks its value"))?;
            match flag.as_str() {
                "--listen" => behaviour.listen = value.parse()?,
                "--name" => behaviour.name = value,
                "--delay" => behaviour.delay = Duration::from_millis(value.parse()?),
                _ => anyhow::bail!("unknown flag {flag}"),
            }
        }
        Ok(behaviour)
    }
}
