//! The small languages inside values: durations, addresses, host names, paths, URLs.
//!
//! Each parser is handed a text and hands on a value, or says what is wrong in a sentence that fits after `path: `.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;

use crate::errors::{Complaint, quoted};

/// The longest duration: a year.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// `250ms`, `1s`, `5m`, `1h` or `0`.
pub(crate) fn duration(text: &str) -> Result<Duration, Complaint> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || Complaint::from(format!("{} is not a duration such as 250ms, 1s, 5m, 1h or 0", quoted(text)));
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    if digits.is_empty() {
        return Err(wrong());
    }
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        // A bare number would be read as seconds by one and milliseconds by another.
        "" => return Err(wrong().suggest(Some(format!("{digits}s")))),
        _ => return Err(wrong()),
    };
    let millis = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
    match millis.map(Duration::from_millis) {
        Some(duration) if duration <= MAX_DURATION => Ok(duration),
        _ => Err(format!("{} is longer than a year", quoted(text)).into()),
    }
}

/// A duration as the native YAML writes it (`250ms`, `1s`, `5m`, `1h` or `0`), for other readers of such values.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|complaint| match complaint.suggestion {
        Some(meant) => format!("{} (did you mean {}?)", complaint.message, quoted(&meant)),
        None => complaint.message,
    })
}

/// [`duration`], above zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, Complaint> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must be longer than 0".into()) } else { Ok(duration) }
}

/// The most that TCP_USER_TIMEOUT takes, in milliseconds of 31 bits (tcp(7)), as whole days.
const MAX_USER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);

/// [`duration`], as the kernel takes it for a connection.
pub(crate) fn user_timeout(text: &str) -> Result<Duration, Complaint> {
    let duration = duration(text)?;
    if duration > MAX_USER_TIMEOUT {
        Err(format!("{} is longer than 24 days", quoted(text)).into())
    } else {
        Ok(duration)
    }
}

/// An address to listen on: `IP:PORT`; port 0 lets the kernel choose.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, Complaint> {
    text.parse().map_err(|_| {
        let complaint = Complaint::from(format!("{} is not IP:PORT, such as 0.0.0.0:8080 or [::]:8080", quoted(text)));
        let port = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")).unwrap_or(text).parse::<u16>();
        complaint.suggest(port.ok().map(|port| format!("0.0.0.0:{port}")))
    })
}

/// An address to connect to: `IP:PORT`, neither zero.
pub(crate) fn endpoint_address(text: &str) -> Result<SocketAddr, Complaint> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return connectable(address).map(|()| SocketAddr::new(address.ip().to_canonical(), address.port()));
    }
    let hint = match HostPort::parse(text) {
        Ok(HostPort { host: Host::Name(_), .. }) => "; for a name use dns",
        _ => ", such as 10.7.0.2:8080 or [fd00::2]:8080",
    };
    Err(format!("{} is not IP:PORT{hint}", quoted(text)).into())
}

fn connectable(address: SocketAddr) -> Result<(), Complaint> {
    if address.port() == 0 {
        return Err(format!("{address} has port 0, which nothing listens on").into());
    }
    if address.ip().is_unspecified() {
        return Err(format!("{address} is an address to listen on, not one to connect to").into());
    }
    Ok(())
}

/// An IP address or a network in CIDR notation without host bits; IPv4-mapped addresses become IPv4.
pub(crate) fn network(text: &str) -> Result<IpNet, Complaint> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let network = text.parse::<IpNet>().map_err(|_| {
        Complaint::from(format!("{} is not an IP address or network, such as 10.7.0.2 or 10.8.0.0/24", quoted(text)))
    })?;
    if network.trunc() != network {
        let complaint = Complaint::from(format!("{} has bits set below its prefix", quoted(text)));
        return Err(complaint.suggest(Some(network.trunc().to_string())));
    }
    Ok(network)
}

/// A host and a port, `name:port`, `IPv4:port` or `[IPv6]:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// As written.
    pub(crate) text: Arc<str>,
    pub(crate) host: Host,
    pub(crate) port: NonZeroU16,
}

/// A host name or address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Ip(IpAddr),
    /// Lower case, without a trailing dot.
    Name(Arc<str>),
}

impl HostPort {
    pub(crate) fn parse(text: &str) -> Result<Self, Complaint> {
        let wrong = |why: &str| Complaint::from(format!("{} is not HOST:PORT{why}", quoted(text)));
        if let Ok(address) = text.parse::<SocketAddr>() {
            connectable(address)?;
            let port = NonZeroU16::new(address.port()).ok_or_else(|| wrong(""))?;
            return Ok(Self { text: text.into(), host: Host::Ip(address.ip().to_canonical()), port });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong(": the port is missing"))?;
        if host.parse::<IpAddr>().is_ok() {
            return Err(wrong("; an IPv6 address stands in brackets").suggest(Some(format!("[{host}]:{port}"))));
        }
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong(": the port is not a number"));
        }
        let port = port.parse().map_err(|_| wrong(": the port is not from 1 to 65535"))?;
        let host = host_name(host).ok_or_else(|| wrong(": the host is not a name or an address"))?;
        Ok(Self { text: text.into(), host: Host::Name(host), port })
    }
}

/// A DNS name (RFC 1123 with underscores), lower case and without its trailing dot.
fn host_name(text: &str) -> Option<Arc<str>> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits only is an attempt at an IPv4 address (RFC 3696, section 2).
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    (name.len() <= 253 && !numeric && name.split('.').all(label)).then(|| name.to_ascii_lowercase().into())
}

/// A domain that requests are matched by: `*`, a host, or `*.suffix`; lower case, without port.
pub(crate) fn domain(text: &str) -> Result<Arc<str>, Complaint> {
    let wrong = || Complaint::from(format!("{} is not a host, *.suffix or *", quoted(text)));
    if text == "*" {
        return Ok("*".into());
    }
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().map(|ip| format!("[{ip}]").into()).map_err(|_| wrong());
    }
    if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
        return Ok(ip.to_string().into());
    }
    if let Ok(HostPort { host: Host::Name(name), .. }) = HostPort::parse(text) {
        let complaint = Complaint::from(format!("{} names a port; hosts are matched without", quoted(text)));
        return Err(complaint.suggest(Some(&*name)));
    }
    match text.strip_prefix("*.") {
        Some(suffix) => host_name(suffix).map(|suffix| format!("*.{suffix}").into()).ok_or_else(wrong),
        None => host_name(text).ok_or_else(wrong),
    }
}

/// An absolute path as a route states it: no query, no fragment, no `.` or `..` segments.
pub(crate) fn path(text: &str) -> Result<Arc<str>, Complaint> {
    let wrong = |why: &str| Err(Complaint::from(format!("{} is not a path: {why}", quoted(text))));
    let Some(rest) = text.strip_prefix('/') else {
        let complaint = Complaint::from(format!("{} is not a path: it does not begin with /", quoted(text)));
        return Err(complaint.suggest(Some(format!("/{text}")).filter(|path| self::path(path).is_ok())));
    };
    if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#')) {
        return wrong(&format!("it has {odd:?} (percent-encode it)"));
    }
    if rest.split('/').any(|segment| matches!(segment, "." | "..")) {
        return wrong("no request keeps a \".\" or \"..\" segment");
    }
    Ok(text.into())
}

/// [`path`] as a prefix: trailing slashes do not count, `/api/` is `/api`.
pub(crate) fn prefix(text: &str) -> Result<Arc<str>, Complaint> {
    let path = path(text)?;
    let trimmed = path.trim_end_matches('/');
    Ok(if trimmed.is_empty() { "/".into() } else { trimmed.into() })
}

/// Text that may appear in metrics, logs and spans: not empty, at most 255 bytes, no control characters.
pub(crate) fn name(text: &str) -> Result<Arc<str>, Complaint> {
    if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
        return Err(format!("{} is not a name (1 to 255 bytes, no control characters)", quoted(text)).into());
    }
    Ok(text.into())
}

/// A file's path; not opened here.
pub(crate) fn file(text: &str) -> Result<std::path::PathBuf, Complaint> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{} is not a file's path", quoted(text)).into());
    }
    Ok(text.into())
}

/// A unix socket as SPIFFE writes it: `unix:///run/spire/agent.sock` (Workload Endpoint, section 4).
pub(crate) fn unix_socket(text: &str) -> Result<std::path::PathBuf, Complaint> {
    let wrong = |why: &str| Complaint::from(format!("{} is not unix:///PATH{why}", quoted(text)));
    if text.starts_with("tcp:") {
        return Err(wrong(": a workload is known by its process, so only unix sockets are supported"));
    }
    let Some(rest) = text.strip_prefix("unix:") else {
        return Err(wrong("").suggest(text.starts_with('/').then(|| format!("unix://{text}"))));
    };
    // Both forms of RFC 8089 name the local machine.
    let path = rest.strip_prefix("//").unwrap_or(rest);
    // sun_path has room for 108 bytes with the NUL.
    if !path.starts_with('/') || path.len() > 107 || path.contains(['\0', '?', '#']) {
        return Err(wrong(": an absolute path of at most 107 bytes, without query and fragment"));
    }
    Ok(path.into())
}

/// What a certificate may be made out to: a DNS name or an IP address.
pub(crate) fn server_name(text: &str) -> Result<Arc<str>, Complaint> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(ip.to_string().into());
    }
    host_name(text).ok_or_else(|| {
        let port = HostPort::parse(text).is_ok().then(|| text.rsplit_once(':').map(|(host, _)| host)).flatten();
        Complaint::from(format!("{} is not a host name or IP address", quoted(text))).suggest(port)
    })
}

/// A share from 0 to 1.
pub(crate) fn ratio(text: &str) -> Result<f64, Complaint> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("{} is not a share from 0 to 1", quoted(text)).into()),
    }
}

/// The URL of a collector: `http://HOST[:PORT][/PATH]`, and its port if it has one.
pub(crate) fn collector(text: &str) -> Result<Collector, Complaint> {
    let wrong = |why: &str| Complaint::from(format!("{} is not http://HOST:PORT: {why}", quoted(text)));
    let uri: Uri = text.parse().map_err(|_| wrong("not a URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(wrong("TLS to a collector is not supported; send to one nearby in plaintext")),
        Some(_) if text.contains("://") => return Err(wrong("the scheme is another")),
        _ => {
            let suggestion = format!("http://{text}");
            let fits = suggestion.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
            return Err(wrong("the scheme is missing").suggest(fits.then_some(suggestion)));
        }
    }
    let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(|| wrong("no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("credentials belong into OTEL_EXPORTER_OTLP_HEADERS"));
    }
    let port = authority.port_u16();
    if port.is_none() && authority.as_str().len() > authority.host().len() || port == Some(0) {
        return Err(wrong("the port is not from 1 to 65535"));
    }
    if uri.query().is_some() {
        return Err(wrong("it has a query"));
    }
    Ok(Collector { base: format!("http://{authority}"), path: uri.path().trim_end_matches('/').to_owned(), port })
}

/// A collector's URL in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    /// Scheme and authority.
    pub(crate) base: String,
    /// Without trailing slash; may be empty.
    pub(crate) path: String,
    pub(crate) port: Option<u16>,
}

#[cfg(test)]
mod tests;
