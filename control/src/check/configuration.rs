//! A proxy's configuration, and the servers that it names, asked.

use std::path::Path;
use std::sync::Arc;

use http::{Method, Request};
use http_body_util::Full;
use remora_config::{Environment, Snapshot};
use serde_json::Value;

use super::ask::{self, Answer};
use super::beside::{Proxy, Told};
use super::clock::Reading;
use super::{Finding, Local};

/// Where gRPC collectors take spans.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What is configured, as far as a file tells.
#[derive(Debug)]
pub(super) struct Configuration {
    /// The file; none where there is none to look at.
    file: Option<String>,
    /// What it holds, or the first thing that is wrong with it and how many more there are.
    content: Result<Arc<Snapshot>, (String, usize)>,
    /// Whether it was named, not found.
    named: bool,
}

impl Configuration {
    /// Reads the file that is named, else the proxy's.
    pub(super) fn read(local: &Local, proxy: &Proxy) -> Self {
        let (path, bytes) = match &local.config {
            Some(path) => (path.as_path(), std::fs::read(path)),
            None => (proxy.config.as_path(), proxy.read(&proxy.config)),
        };
        let named = local.config.is_some();
        let file = (named || proxy.runs() || bytes.is_ok()).then(|| path.display().to_string());
        let content = match bytes {
            Ok(bytes) => parse(path, &bytes, &proxy.environment()),
            Err(error) => Err((format!("{}: {error}", path.display()), 0)),
        };
        Self { file, content, named }
    }

    /// What it holds, where that is valid.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        self.content.as_deref().ok()
    }

    /// What counts, as the proxy's `/config_dump` shows it: what was named, else what is in force.
    pub(super) fn counts(&self, in_force: Option<Value>) -> Option<Value> {
        let own = || serde_json::to_value(self.snapshot()?).ok();
        if self.named { own() } else { in_force.or_else(own) }
    }

    /// Whether a proxy would take it, and the running one, by what it told, did.
    pub(super) fn judge(&self, told: Option<&Told>) -> Finding {
        let rejected = told.and_then(|told| told.info.configuration_rejected.as_deref());
        let remedy = "correct the file; `remora-proxy --validate FILE` lists every problem";
        match (&self.file, &self.content, rejected) {
            (None, _, None) => Finding::ok("there is no configuration here to look at"),
            (None, _, Some(why)) => Finding::failure(format!("the running proxy refused its newest: {why}"), remedy),
            (Some(_), Err((first, 0)), _) => Finding::failure(first.clone(), remedy),
            (Some(_), Err((first, more)), _) => Finding::failure(format!("{first} (and {more} more)"), remedy),
            (Some(file), Ok(_), Some(why)) => {
                let remedy = "restart the proxy where only a restart brings the change, or take the change back";
                Finding::failure(format!("{file} is valid, but the running proxy refused it: {why}"), remedy)
            }
            (Some(file), Ok(_), None) => Finding::ok(format!("{file} is valid")),
        }
    }
}

fn parse(path: &Path, bytes: &[u8], environment: &Environment) -> Result<Arc<Snapshot>, (String, usize)> {
    remora_config::parse(&path.display().to_string(), bytes, environment).map(Arc::new).map_err(|errors| {
        let mut lines = errors.lines();
        let first = lines.next().unwrap_or_default();
        (first, lines.count())
    })
}

/// What came of asking a server.
#[derive(Debug)]
pub(super) enum Asked {
    /// There is nobody to ask, and why.
    Nobody(&'static str),
    /// What is called so answered.
    Answered(String, Option<Reading>),
    /// It did not, or not as it should.
    Failed(String),
    /// It could not be asked from here.
    Unasked(String),
}

impl Asked {
    fn of(address: &str, answer: Result<Answer, ask::Error>, is_fine: impl Fn(&Answer) -> bool) -> Self {
        match answer {
            Ok(answer) if is_fine(&answer) => Self::Answered(address.to_owned(), answer.clock),
            Ok(answer) => Self::Failed(format!("{address}: answered {}{}", answer.status, told(&answer))),
            Err(error) => Self::Failed(error.to_string()),
        }
    }

    /// Its clock.
    pub(super) fn reading(&self) -> Option<&Reading> {
        match self {
            Self::Answered(_, reading) => reading.as_ref(),
            Self::Nobody(_) | Self::Failed(_) | Self::Unasked(_) => None,
        }
    }

    /// What that means for a server that should answer.
    pub(super) fn judge(&self, remedy: &str) -> Finding {
        match self {
            Self::Nobody(why) => Finding::ok(*why),
            Self::Answered(address, _) => Finding::ok(format!("{address} answers")),
            Self::Failed(why) => Finding::failure(why.clone(), remedy),
            Self::Unasked(why) => Finding::warning(
                format!("cannot be asked from here: {why}"),
                "look as root or as the proxy's user, where its process can be seen (`kubectl debug --target=remora-proxy`)",
            ),
        }
    }
}

fn grpc_status(answer: &Answer) -> Option<&str> {
    answer.fields.get("grpc-status")?.to_str().ok()
}

fn told(answer: &Answer) -> String {
    grpc_status(answer).map(|status| format!(", gRPC status {status}")).unwrap_or_default()
}

/// The servers that a configuration names.
#[derive(Debug)]
pub(super) struct Servers {
    /// The certificate authority.
    pub(super) authority: Asked,
    /// Where spans go.
    pub(super) collector: Asked,
}

impl Servers {
    /// Asks those of `configured`, which is as the proxy's `/config_dump` shows it; files are as `proxy` sees them.
    pub(super) async fn ask(configured: Option<&Value>, proxy: &Proxy) -> Self {
        let Some(configured) = configured else {
            let unknown = || Asked::Nobody("no valid configuration says which");
            return Self { authority: unknown(), collector: unknown() };
        };
        let (authority, collector) = tokio::join!(authority(configured, proxy), collector(configured));
        Self { authority, collector }
    }

    /// A clock to compare ours with: the authority's rather than the collector's.
    pub(super) fn reading(&self) -> Option<&Reading> {
        self.authority.reading().or_else(|| self.collector.reading())
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer)?.as_str()
}

async fn authority(configured: &Value, proxy: &Proxy) -> Asked {
    let field = |name: &str| text(configured, &format!("/identity/source/ca/{name}"));
    let (Some(address), Some(name), Some(roots)) = (field("address"), field("server_name"), field("roots")) else {
        return match configured.pointer("/identity/source") {
            Some(_) => Asked::Nobody("the identity comes from elsewhere, not from an authority"),
            None => Asked::Nobody("no identity is configured"),
        };
    };
    match proxy.read(Path::new(roots)) {
        Ok(pem) => Asked::of(address, ask::call(address, name, roots, &pem).await, |_| true),
        // Only whoever sees the proxy's files knows what is wrong with them.
        Err(error) if proxy.runs() => Asked::Failed(format!("{roots}: {error}")),
        Err(error) => Asked::Unasked(format!("{roots}: {error}")),
    }
}

async fn collector(configured: &Value) -> Asked {
    let Some(endpoint) = text(configured, "/telemetry/tracing/endpoint") else {
        return Asked::Nobody("no collector is configured");
    };
    let Some(uri) = endpoint.parse::<http::Uri>().ok().filter(|uri| uri.authority().is_some()) else {
        return Asked::Failed(format!("{endpoint}: not a URL"));
    };
    let address = format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let over_grpc = text(configured, "/telemetry/tracing/protocol") == Some("grpc");
    let request = if over_grpc {
        ask::grpc(&format!("http://{address}{EXPORT}"))
    } else {
        let request = Request::builder().method(Method::POST).uri(uri.path()).header("host", &address);
        let request = request.header("content-type", "application/x-protobuf").header("content-length", "0");
        request.body(Full::default()).map_err(ask::Error::from)
    };
    let answer = match request {
        Ok(request) => ask::post(&address, over_grpc, request).await,
        Err(error) => Err(error),
    };
    // No spans are no spans too many. A collector that wants credentials, which are the proxy's alone, is there.
    Asked::of(&address, answer, |answer| {
        let code = answer.status.as_u16();
        matches!(code, 200..=299 | 401 | 403) && matches!(grpc_status(answer), None | Some("0" | "7" | "16"))
    })
}
