//! The small languages inside annotations: each parser is handed a text and hands on a value, or a sentence about what is wrong.
//!
//! What is accepted is rendered again from the typed value where it reaches a command line, so no annotation's text does.

use std::fmt::Display;
use std::str::FromStr;

use http::Uri;
use ipnet::IpNet;
use remora_model::capture::Ports;
use remora_model::{MtlsMode, PortRange};

/// The longest annotation value that is looked at.
const MAX_LENGTH: usize = 4096;

/// A text in quotes, cut to a bearable length, on one line.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(64).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// Refuses what is too long to be meant.
pub(crate) fn bounded(text: &str) -> Result<&str, String> {
    if text.len() > MAX_LENGTH { Err(format!("longer than {MAX_LENGTH} bytes")) } else { Ok(text.trim()) }
}

/// `true` or `false`.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{} is not \"true\" or \"false\"", quoted(other))),
    }
}

/// The items of a list separated by commas; blanks and empty items do not count.
pub(crate) fn list<T: FromStr<Err: Display>>(text: &str) -> Result<Vec<T>, String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse().map_err(|why: T::Err| why.to_string())).collect()
}

/// `*` or a list of ports and ranges.
pub(crate) fn ports(text: &str) -> Result<Ports, String> {
    if text == "*" { Ok(Ports::All) } else { some_ports(text).map(Ports::Only) }
}

/// A list of ports and ranges.
pub(crate) fn some_ports(text: &str) -> Result<Vec<PortRange>, String> {
    list(text)
}

/// A list of networks; an address is a network of one.
pub(crate) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let parsed = items.map(|item| {
        let net = item.parse::<IpNet>().ok().or_else(|| item.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        let wrong = || format!("{} is not an address or a network such as 10.0.0.0/8 or fd00::/8", quoted(item));
        net.map(|net| net.trunc()).ok_or_else(wrong)
    });
    parsed.collect()
}

/// A uid that can be a proxy's: root is only for TPROXY, which says so itself.
pub(crate) fn proxy_uid(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(uid) if (1..=i32::MAX as u32).contains(&uid) => Ok(uid),
        _ => Err(format!("{} is not a uid from 1 to {}", quoted(text), i32::MAX)),
    }
}

/// `strict`, `permissive` or `off`.
pub(crate) fn mtls(text: &str) -> Result<MtlsMode, String> {
    match text {
        "strict" => Ok(MtlsMode::Strict),
        "permissive" => Ok(MtlsMode::Permissive),
        "off" => Ok(MtlsMode::Off),
        other => Err(format!("{} is not strict, permissive or off", quoted(other))),
    }
}

/// The word for a mode.
pub(crate) fn mtls_word(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
        MtlsMode::Off => "off",
    }
}

/// A level, or `target=level` parts: what the proxy's `REMORA_LOG` takes.
pub(crate) fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let target = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.'))
    };
    let sound = |part: &str| match part.split_once('=') {
        Some((name, level)) => target(name) && LEVELS.contains(&level),
        None => LEVELS.contains(&part),
    };
    if text.split(',').all(|part| sound(part.trim())) {
        Ok(text.split(',').map(str::trim).collect::<Vec<_>>().join(","))
    } else {
        Err(format!("{} is not one of {} or target=level parts", quoted(text), LEVELS.join(", ")))
    }
}

/// An image's name: letters, digits and `. _ - / : @`, beginning with a letter or digit.
pub(crate) fn image(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let sound = text.len() <= 512
        && text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && !text.contains("//");
    if sound { Ok(text.to_owned()) } else { Err(format!("{} is not the name of an image", quoted(text))) }
}

/// What a service is called in traces.
pub(crate) fn service_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if (1..=253).contains(&text.len()) && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is not 1 to 253 letters, digits, or any of . _ - /", quoted(text)))
    }
}

/// Where spans are sent: `http://HOST:PORT` or `https://…`, without a user's name.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || format!("{} is not a URL such as http://collector.observability:4317", quoted(text));
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let scheme = uri.scheme_str().is_some_and(|scheme| scheme == "http" || scheme == "https");
    if !scheme || authority.host().is_empty() || uri.query().is_some() || text.contains('$') {
        return Err(wrong());
    }
    if authority.as_str().contains('@') {
        return Err("a URL in an annotation must not carry a user or a password".to_owned());
    }
    Ok(uri.to_string())
}

/// HOST:PORT, the host a DNS name or an IP address (IPv6 in brackets).
pub(crate) fn host_and_port(text: &str) -> Result<String, String> {
    let bad = || format!("{} is not HOST:PORT", quoted(text));
    let authority: http::uri::Authority = bounded(text)?.parse().map_err(|_| bad())?;
    match authority.port_u16() {
        Some(port) if port > 0 && !authority.host().is_empty() && !text.contains('@') => Ok(text.to_owned()),
        _ => Err(bad()),
    }
}

/// A share from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>() {
        Ok(share) if digits && (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{} is not a share from 0 to 1", quoted(text))),
    }
}

/// A duration as the proxy's configuration writes it; handed on as the text that the proxy reads.
pub(crate) fn duration(text: &str) -> Result<String, String> {
    remora_config::parse_duration(text).map(|_| text.to_owned())
}

/// An amount as Kubernetes writes it: `100m`, `0.5`, `64Mi`.
#[derive(Clone, Debug, PartialEq)]
pub struct Amount {
    text: String,
    value: f64,
}

impl Amount {
    /// The text, as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is more than `other`.
    pub(crate) fn exceeds(&self, other: &Self) -> bool {
        self.value > other.value
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{} is not an amount such as 100m, 0.5, 64Mi or 1G", quoted(text));
        let (number, suffix) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
        let digits = number.starts_with(|c: char| c.is_ascii_digit())
            && number.ends_with(|c: char| c.is_ascii_digit())
            && number.len() <= 18
            && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let number: f64 = number.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        let factor = match suffix {
            "m" => 1e-3,
            "" => 1.0,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "T" => 1e12,
            "Ki" => 1024.0,
            "Mi" => 1024.0 * 1024.0,
            "Gi" => 1024.0 * 1024.0 * 1024.0,
            "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return Err(wrong()),
        };
        let value = number * factor;
        if value > 0.0 { Ok(Self { text: text.to_owned(), value }) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_compare_across_their_suffixes() {
        let amount = |text: &str| text.parse::<Amount>().unwrap();
        assert!(amount("1").exceeds(&amount("999m")));
        assert!(amount("1Gi").exceeds(&amount("1G")));
        assert!(!amount("64Mi").exceeds(&amount("64Mi")));
        for text in ["", "-1", "1.", ".5", "1e3", "64MiB", "0", "1 Gi", "NaN", "inf"] {
            assert!(text.parse::<Amount>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn values_cannot_carry_anything_else() {
        for text in ["http://user:pass@host", "ftp://host", "host:4317", "http://", "http://h/$(X)", "http://h?x=1"] {
            assert!(endpoint(text).is_err(), "{text:?} was accepted");
        }
        for text in ["", "-x", "a b", "a\nb", "a//b", "image:"] {
            assert!(image(text).is_err(), "{text:?} was accepted");
        }
        for text in ["", "verbose", "info,", "a b=info", "x=loud"] {
            assert!(log_level(text).is_err(), "{text:?} was accepted");
        }
        assert_eq!(log_level("warn, remora_proxy::http=debug"), Ok("warn,remora_proxy::http=debug".to_owned()));
        for text in ["1.5", "-0", "1e-2", "NaN", ""] {
            assert!(share(text).is_err(), "{text:?} was accepted");
        }
        for text in ["0", "-1", "4294967295", "root"] {
            assert!(proxy_uid(text).is_err(), "{text:?} was accepted");
        }
    }
}
