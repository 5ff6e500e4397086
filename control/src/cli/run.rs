//! `remora run`.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ipnet::Ipv4Net;
use remora_model::MtlsMode;
use remora_model::capture::OWN_PORTS;

use crate::inject::annotations;
use crate::run::{self, Error, Name, Options, inside::Inside};

/// What `remora run` ends with where it fails itself: no command uses it.
const FAILED: u8 = 125;

/// Runs a command beside a sidecar, in a network of its own, and takes everything down when it ends (root)
///
/// The exit code is the command's; 128 and the signal where one ended it; 125 where `remora run` fails itself.
#[derive(Args, Debug)]
pub(super) struct Run {
    /// What other runs call it: a DNS label [default: the command's file name, with a number where that is taken]
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Ports the command serves: other runs reach them by mTLS
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = port)]
    port: Vec<u16>,
    /// A port of the command that the host can reach, too, at 127.0.0.1 or another address of the host
    #[arg(short, long, value_name = "[ADDRESS:]HOST:PORT", value_parser = publish)]
    publish: Vec<(SocketAddr, u16)>,
    /// Ports of the host's 127.0.0.1 that the command reaches at its own 127.0.0.1
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = port)]
    host_port: Vec<u16>,
    /// Which inbound connections are taken: strict, permissive or off
    #[arg(long, value_name = "MODE", default_value = "permissive", value_parser = annotations::mtls)]
    mtls: MtlsMode,
    /// More for the sidecar's configuration (YAML): routes, timeouts, protocols
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The OTLP collector that gets a span of every request; one on this host's loopback is reached, too
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    tracing: Option<http::Uri>,
    /// How long each certificate lives; it is replaced at half of that
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = life)]
    identity_life: Duration,
    /// Where the sidecar's log goes, and stays [default: shown only where it fails]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Whom the command runs as, with that user's groups and HOME [default: root]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The IPv4 network that all runs share, /16 to /29 [default: 10.213.13.0/24]
    #[arg(long, value_name = "NETWORK", value_parser = subnet)]
    subnet: Option<Ipv4Net>,
    /// Where the runs keep what they know of each other
    #[arg(long, value_name = "FOLDER", default_value = "/run/remora", env = "REMORA_RUN_STATE", hide = true)]
    state: PathBuf,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What `remora run` starts as the first process beside its sidecar.
#[derive(Args, Debug)]
pub(super) struct RunInside {
    network: PathBuf,
    mounts: PathBuf,
    orders: PathBuf,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What `remora run` starts others by, for signals to reach them.
#[derive(Args, Debug)]
pub(super) struct RunCommand {
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Run {
    pub(super) fn run(self) -> ExitCode {
        ended(run::run(&self.options()))
    }

    fn options(self) -> Options {
        let like = || Name::Like(label(&self.command[0]));
        Options {
            name: self.name.map_or_else(like, Name::Given),
            ports: self.port.into_iter().collect(),
            publish: self.publish,
            host_ports: self.host_port.into_iter().collect(),
            mtls: self.mtls,
            config: self.config,
            tracing: self.tracing,
            identity_life: self.identity_life,
            log: self.log,
            user: self.user,
            subnet: self.subnet,
            state: self.state,
            command: self.command,
        }
    }
}

impl RunInside {
    pub(super) fn run(self) -> ExitCode {
        let Self { network, mounts, orders, command } = self;
        ended(run::inside::run(&Inside { network, mounts, orders, command }))
    }
}

impl RunCommand {
    pub(super) fn run(self) -> ExitCode {
        ended(run::inside::become_command(&self.command))
    }
}

fn ended(result: Result<u8, Error>) -> ExitCode {
    result.map_or_else(
        |error| {
            eprintln!("error: {error}");
            ExitCode::from(FAILED)
        },
        ExitCode::from,
    )
}

/// A DNS label out of a command's path.
fn label(command: &OsString) -> String {
    let file = std::path::Path::new(command).file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let letters = file.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    let label: String = letters.collect::<String>().trim_matches('-').chars().take(50).collect();
    name(&label).unwrap_or_else(|_| "run".to_owned())
}

fn name(text: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = !text.is_empty() && text.len() <= 63 && text.bytes().all(inner);
    if !is_label || text.starts_with('-') || text.ends_with('-') {
        return Err("a DNS label: a-z, 0-9 and - inside, at most 63".to_owned());
    }
    if text == "localhost" || text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("means something else already".to_owned());
    }
    Ok(text.to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a port: 1 to 65535".to_owned()),
        Ok(port) if OWN_PORTS.contains(&port) => Err("is the sidecar's own".to_owned()),
        Ok(port) => Ok(port),
    }
}

fn publish(text: &str) -> Result<(SocketAddr, u16), String> {
    let (host, inner) = text.rsplit_once(':').ok_or("[ADDRESS:]HOST:PORT, such as 8080:80")?;
    let (address, outer) = host.rsplit_once(':').unwrap_or(("127.0.0.1", host));
    let ip: IpAddr = address
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .map_err(|_| format!("{address}: an IP address"))?;
    let outer =
        outer.parse().ok().filter(|port: &u16| *port != 0).ok_or_else(|| format!("{outer}: a port: 1 to 65535"))?;
    Ok((SocketAddr::new(ip, outer), port(inner).map_err(|reason| format!("{inner}: {reason}"))?))
}

fn life(text: &str) -> Result<Duration, String> {
    let life = remora_config::duration(text)?;
    let bounds = Duration::from_secs(2)..=Duration::from_secs(365 * 24 * 60 * 60);
    if bounds.contains(&life) { Ok(life) } else { Err("from 2s to 8760h".to_owned()) }
}

fn subnet(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text.parse().map_err(|_| "an IPv4 network, such as 10.213.13.0/24".to_owned())?;
    let usable = (16..=29).contains(&net.prefix_len()) && net.trunc() == net;
    if usable && !net.contains(&Ipv4Addr::LOCALHOST) {
        Ok(net)
    } else {
        Err("a network of /16 to /29, without bits below".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_command() {
        let labels = ["/usr/bin/python3.11", "./Server.sh", "node", "___", "42"].map(|path| label(&path.into()));
        assert_eq!(labels, ["python3-11", "server-sh", "node", "run", "run"]);
        for bad in ["", "-a", "a-", "A", "a.b", "localhost", "7"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_published_at_loopback_unless_said_otherwise() {
        let at = |text| publish(text).map(|(host, port)| (host.to_string(), port));
        assert_eq!(at("8080:80"), Ok(("127.0.0.1:8080".to_owned(), 80)));
        assert_eq!(at("0.0.0.0:8080:80"), Ok(("0.0.0.0:8080".to_owned(), 80)));
        assert_eq!(at("[::1]:8080:80"), Ok(("[::1]:8080".to_owned(), 80)));
        for bad in ["80", "a:80", "0:80", "80:0", "1.2.3:80:80", "80:15001", ":80"] {
            assert!(publish(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_hold_a_few_runs_and_no_more_than_names_have_room_for() {
        assert!(subnet("10.9.0.0/16").is_ok() && subnet("10.9.0.8/29").is_ok());
        for bad in ["10.9.0.0/15", "10.9.0.0/30", "10.9.0.1/24", "127.0.0.0/16", "fd00::/64", "x"] {
            assert!(subnet(bad).is_err(), "{bad:?}");
        }
    }
}
