//! The access log: one line a request, or a connection that is not HTTP, on standard output.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Version};
use remora_model::telemetry::AccessLogFormat;
use remora_model::{Direction, SpiffeId};
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::oneshot;

use super::channel::Source;
use super::metrics::RequestProtocol;
use super::span::Outcome;
use crate::address::{ClientAddr, OrigDst};
use crate::error::ResponseFlag;

/// Longer texts of a request are cut to this many bytes.
const TEXT: usize = 1024;

/// A line, not yet formatted.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    pub(crate) time: SystemTime,
    pub(crate) format: AccessLogFormat,
    pub(crate) direction: Direction,
    pub(crate) client: ClientAddr,
    pub(crate) orig_dst: OrigDst,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) subject: Subject,
    pub(crate) outcome: Outcome,
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) duration: Duration,
    /// From the client.
    pub(crate) received: u64,
    /// To the client.
    pub(crate) sent: u64,
    pub(crate) trace_id: Option<u128>,
}

/// What the line is about.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Request {
        method: Method,
        authority: Option<Box<str>>,
        path: Box<str>,
        protocol: &'static str,
        route: Option<Arc<str>>,
    },
    Connection {
        protocol: &'static str,
        sni: Option<Arc<str>>,
    },
}

/// A copy of `text` that keeps no buffer alive and is not longer than a line can bear.
pub(crate) fn bounded(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(TEXT)].into()
}

/// How a line names what a request speaks.
pub(crate) fn http_protocol(version: Version, protocol: RequestProtocol) -> &'static str {
    match (protocol, version) {
        (RequestProtocol::Grpc, _) => "grpc",
        (_, Version::HTTP_2) => "HTTP/2",
        (_, Version::HTTP_10) => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// The thread that writes the log. Formatting and writing happen there, so that a reader that stops stops nothing else.
#[derive(Debug)]
pub struct Writer {
    ended: oneshot::Receiver<()>,
}

/// Starts the writer on standard output.
///
/// # Errors
/// No thread can be started.
pub fn start(source: Source<AccessRecord>) -> io::Result<Writer> {
    start_on(source, io::stdout())
}

/// Starts the writer on any output.
///
/// # Errors
/// No thread can be started.
pub fn start_on(mut source: Source<AccessRecord>, mut output: impl Write + Send + 'static) -> io::Result<Writer> {
    let (ending, ended) = oneshot::channel();
    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
        let mut text = String::new();
        while let Some(batch) = source.receiver.blocking_recv() {
            text.clear();
            for record in &batch {
                record.write(&mut text);
            }
            if output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_err() {
                source.registry.access_log_dropped(batch.len() as u64);
            }
            source.done(batch.len());
        }
        let _ = ending.send(());
    })?;
    Ok(Writer { ended })
}

impl Writer {
    /// Waits until all is written, which needs every [`Sinks`](super::Sinks) to be gone, but not longer than `bound`.
    pub async fn finish(self, bound: Duration) {
        let _ = tokio::time::timeout(bound, self.ended).await;
    }
}

impl AccessRecord {
    /// Appends the line, its end included.
    pub(crate) fn write(&self, into: &mut String) {
        // Writing to a String cannot fail.
        let _ = match self.format {
            AccessLogFormat::Text => self.write_text(into),
            AccessLogFormat::Json => self.write_json(into),
        };
        into.push('\n');
    }

    fn write_text(&self, into: &mut String) -> fmt::Result {
        write!(into, "{} {} ", timestamp(self.time), self.direction.as_str())?;
        let outcome = &self.outcome;
        match &self.subject {
            Subject::Request { method, authority, path, protocol, .. } => {
                let authority = authority.as_deref().unwrap_or_default();
                write!(into, "{method} {}{} {protocol} ", escaped(authority), escaped(path))?;
                match outcome.status {
                    Some(status) => into.push_str(status.as_str()),
                    None => into.push('-'),
                }
            }
            Subject::Connection { protocol, .. } => write!(into, "{protocol} {}", self.orig_dst)?,
        }
        write!(into, " {}", outcome.flag.map_or("-", ResponseFlag::as_str))?;
        if let Some(reason) = &outcome.reason {
            write!(into, " \"{}\"", escaped(reason))?;
        }
        if let Some(status) = outcome.grpc_status {
            write!(into, " grpc_status={status}")?;
        }
        match &self.subject {
            Subject::Request { route: Some(route), .. } => write!(into, " route={}", escaped(route))?,
            Subject::Connection { sni: Some(sni), .. } => write!(into, " sni={}", escaped(sni))?,
            _ => {}
        }
        if let Some(cluster) = &self.cluster {
            write!(into, " cluster={}", escaped(cluster))?;
        }
        if let Some(endpoint) = self.endpoint {
            write!(into, " endpoint={endpoint}")?;
        }
        write!(into, " client={}", self.client)?;
        if let Some(peer) = &self.peer {
            write!(into, " peer={peer}")?;
        }
        write!(into, " duration={:.3}ms received={} sent={}", self.milliseconds(), self.received, self.sent)?;
        match self.trace_id {
            Some(trace_id) => write!(into, " trace_id={trace_id:032x}"),
            None => Ok(()),
        }
    }

    fn write_json(&self, into: &mut String) -> fmt::Result {
        let (method, authority, path, protocol, route, sni) = match &self.subject {
            Subject::Request { method, authority, path, protocol, route } => {
                (Some(method.as_str()), authority.as_deref(), Some(&**path), *protocol, route.as_deref(), None)
            }
            Subject::Connection { protocol, sni } => (None, None, None, *protocol, None, sni.as_deref()),
        };
        let line = JsonLine {
            time: timestamp(self.time),
            direction: self.direction.as_str(),
            client: self.client.to_string(),
            destination: self.orig_dst.to_string(),
            method,
            authority,
            path,
            protocol,
            status: self.outcome.status.map(|status| status.as_u16()),
            grpc_status: self.outcome.grpc_status,
            flag: self.outcome.flag.map(ResponseFlag::as_str),
            reason: self.outcome.reason.as_deref(),
            route,
            cluster: self.cluster.as_deref(),
            endpoint: self.endpoint.map(|endpoint| endpoint.to_string()),
            duration_ms: self.milliseconds(),
            received_bytes: self.received,
            sent_bytes: self.sent,
            trace_id: self.trace_id.map(|trace_id| format!("{trace_id:032x}")),
            peer: self.peer.as_ref().map(SpiffeId::as_str),
            sni,
        };
        into.push_str(&serde_json::to_string(&line).map_err(|_| fmt::Error)?);
        Ok(())
    }

    /// To the microsecond.
    fn milliseconds(&self) -> f64 {
        self.duration.as_micros() as f64 / 1e3
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    direction: &'a str,
    client: String,
    destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    duration_ms: f64,
    received_bytes: u64,
    sent_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
}

/// UTC, to the millisecond (RFC 3339).
fn timestamp(time: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(time).format(format).unwrap_or_default()
}

/// Text in which nothing a client sends ends the line or a quotation.
struct Escaped<'a>(&'a str);

fn escaped(text: &str) -> Escaped<'_> {
    Escaped(text)
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "{}", c.escape_unicode())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
