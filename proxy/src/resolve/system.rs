//! The system's names, without the C library, which static binaries may lack: /etc/hosts, then DNS as /etc/resolv.conf says (search list, ndots,
//! timeouts). Both files are looked at again for every question, since an orchestrator may write them late.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

/// The port of DNS.
const DNS: u16 = 53;
/// How long what a file says is good.
const OF_A_FILE: Duration = Duration::from_secs(5);

/// What a name resolves to, and for how long that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) good_for: Duration,
}

/// The system's resolver.
#[derive(Debug)]
pub(super) struct System {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    port: u16,
    servers: Mutex<Servers>,
}

/// The name servers, and the file they were read from.
#[derive(Debug, Default)]
struct Servers {
    text: Option<Vec<u8>>,
    /// Why there are none.
    trouble: Option<String>,
    resolver: Option<TokioResolver>,
}

impl Default for System {
    fn default() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into(), DNS)
    }
}

impl System {
    /// What these files say, with name servers at `port`.
    pub(super) fn new(hosts: PathBuf, resolv_conf: PathBuf, port: u16) -> Self {
        Self { hosts, resolv_conf, port, servers: Mutex::default() }
    }

    /// Asks for both kinds of addresses of `host`.
    ///
    /// # Errors
    /// Nobody knows the name, or nobody can be asked.
    pub(super) async fn lookup(&self, host: &str) -> io::Result<Found> {
        let of_a_file = |addresses| Ok(Found { addresses, good_for: OF_A_FILE });
        if let Ok(ip) = host.parse() {
            return of_a_file(vec![ip]);
        }
        let known = std::fs::read(&self.hosts).map(|text| in_hosts(&text, host)).unwrap_or_default();
        if !known.is_empty() {
            return of_a_file(known);
        }
        if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
            // Never asked of anybody else (RFC 6761, section 6.3).
            return of_a_file(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let resolver = self.resolver()?;
        let answer = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
        let ttl = answer.as_lookup().answers().iter().map(|record| record.ttl).min().unwrap_or_default();
        Ok(Found { addresses: answer.iter().collect(), good_for: Duration::from_secs(ttl.into()) })
    }

    /// The resolver for what /etc/resolv.conf says now.
    fn resolver(&self) -> io::Result<TokioResolver> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::fs::read(&self.resolv_conf);
        let unchanged = servers.text.is_some() && servers.text.as_ref() == text.as_ref().ok();
        if !unchanged {
            let built = text.as_ref().map_err(ToString::to_string).and_then(|text| self.build(text));
            let trouble = built.as_ref().err().cloned();
            if trouble != servers.trouble
                && let Some(trouble) = &trouble
            {
                tracing::warn!("no name server, so only {} is asked: {trouble}", self.hosts.display());
            }
            *servers = Servers { text: text.ok(), trouble, resolver: built.ok() };
        }
        let trouble = || servers.trouble.clone().unwrap_or_default();
        servers.resolver.clone().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, trouble()))
    }

    fn build(&self, text: &[u8]) -> Result<TokioResolver, String> {
        let complaint = |error: &dyn std::fmt::Display| format!("{}: {error}", self.resolv_conf.display());
        let (mut config, mut options) = parse_resolv_conf(text).map_err(|error| complaint(&error))?;
        for connection in config.name_servers.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = self.port;
        }
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        // Every question is asked because an answer is no longer good.
        options.cache_size = 0;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.with_options(options).build().map_err(|error| complaint(&error))
    }
}

/// The addresses that a hosts file gives a name; what cannot be read in it is passed over.
fn in_hosts(text: &[u8], host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let text = String::from_utf8_lossy(text);
    let mut addresses = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        if words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host)) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
