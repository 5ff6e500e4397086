//! The report as a person reads it.

use std::io::{self, Write};

use super::certificate::{CertificateReport, Chain, Kind};
use super::{FileReport, KeyReport, Report};

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for (index, file) in report.files.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", file.path.display())?;
        write_file(file, out)?;
    }
    Ok(())
}

fn write_file(file: &FileReport, out: &mut dyn Write) -> io::Result<()> {
    if let Some(error) = &file.error {
        writeln!(out, "  cannot be explained: {error}")?;
    }
    for (index, certificate) in file.certificates.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        write_certificate(certificate, out)?;
    }
    file.keys.iter().try_for_each(|key| write_key(key, out))
}

fn write_certificate(certificate: &CertificateReport, out: &mut dyn Write) -> io::Result<()> {
    let kind = match certificate.kind {
        Kind::RootCa => "root CA",
        Kind::IntermediateCa => "intermediate CA",
        Kind::Svid => "SVID",
        Kind::Certificate => "certificate (not an SVID)",
        Kind::Malformed => "malformed certificate",
    };
    writeln!(out, "  {kind}")?;
    let mut line = |name: &str, value: &str| match value {
        "" => Ok(()),
        value => writeln!(out, "    {name:<10}  {value}"),
    };
    line("SPIFFE ID", certificate.spiffe_id.as_deref().unwrap_or_default())?;
    line("names", &certificate.names.join(", "))?;
    line("subject", &certificate.subject)?;
    line("issuer", &certificate.issuer)?;
    line("serial", &certificate.serial)?;
    if certificate.kind != Kind::Malformed {
        line("valid", &validity(certificate))?;
    }
    line("key", &certificate.key)?;
    line("SHA-256", &certificate.sha256)?;
    line("chain", &chain(&certificate.chain))
}

fn write_key(key: &KeyReport, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  private key (not shown)")?;
    writeln!(out, "    {:<10}  {}", "key", key.key.as_deref().unwrap_or("of a kind TLS cannot use"))?;
    let belongs = match key.certificate_in.as_slice() {
        [] => "no certificate beside it".to_owned(),
        files => format!("the certificate in {}", files.join(", ")),
    };
    writeln!(out, "    {:<10}  {belongs}", "matches")
}

fn validity(certificate: &CertificateReport) -> String {
    let CertificateReport { not_before, not_after, begins_in_seconds, expires_in_seconds, .. } = certificate;
    let state = match (*begins_in_seconds, *expires_in_seconds) {
        (1.., _) => format!("begins in {}", span(*begins_in_seconds)),
        (_, 0..) => format!("expires in {}", span(*expires_in_seconds)),
        _ => format!("EXPIRED {} ago", span(-expires_in_seconds)),
    };
    format!("{not_before} to {not_after} ({state})")
}

/// The two largest units that are not zero.
fn span(seconds: i64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (name, size) in units {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{} {name}", rest / size));
        }
        rest %= size;
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

fn chain(chain: &Chain) -> String {
    match chain {
        Chain::Valid { root, file } => format!("valid, to {root} in {file}"),
        Chain::Root { file } => format!("a trusted root, in {file}"),
        Chain::Invalid { reason, message } => format!("NOT VALID ({reason}): {message}"),
        Chain::Unknown => "not judged: no bundle.pem beside it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_name_two_units() {
        assert_eq!(span(0), "0 s");
        assert_eq!(span(59), "59 s");
        assert_eq!(span(86_399), "23 h 59 min");
        assert_eq!(span(86_400 + 7), "1 d 7 s");
    }
}
