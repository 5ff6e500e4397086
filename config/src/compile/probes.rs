//! `REMORA_PROBES`: the application's probes as injection found them, a JSON object from path to probe in the words of Kubernetes.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use remora_model::capture::OWN_PORTS;
use remora_model::probe::{HttpProbe, PROBE_PREFIX, Probe, ProbeAction, Probes};

use crate::decode::{Field, Fields, Located, list, number, one_of, parsed};
use crate::environment::Environment;
use crate::errors::{Complaint, Problems, quoted};
use crate::yaml;

/// The variable.
const NAME: &str = "REMORA_PROBES";
/// The most probes: a pod has a handful of containers, each with five at most.
const MAX_PROBES: usize = 256;
/// Kubernetes' default.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Of a hook, whose end the kubelet awaits for the pod's whole grace.
const HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// The last parts of a path, and whether it is a hook.
const KINDS: [(&str, bool); 5] =
    [("startupz", false), ("readyz", false), ("livez", false), ("prestopz", true), ("poststartz", true)];

/// The probes of the environment. JSON is read as the YAML it also is, within the same bounds.
pub(super) fn probes(env: &Environment, problems: &mut Problems) -> Probes {
    let Some(text) = env.variable(NAME) else { return Probes::new() };
    let mut own = Problems::default();
    let probes = yaml::read(text.as_bytes(), &mut own).and_then(|root| table(&Located::root(&root), &mut own));
    problems.of_variable(NAME, own);
    probes.unwrap_or_default()
}

fn table(at: &Located<'_>, problems: &mut Problems) -> Option<Probes> {
    let named = at.named("an object from path to probe", problems)?;
    if named.len() > MAX_PROBES {
        problems.report(&at.place, format!("{} probes are more than {MAX_PROBES}", named.len()));
        return None;
    }
    let mut probes = Probes::new();
    for (path, place, at) in named {
        let Some(hook) = hook(path) else {
            let kinds = KINDS.map(|(kind, _)| kind).join(", ");
            problems.report(&place, format!("is not {PROBE_PREFIX}CONTAINER/KIND, KIND being one of {kinds}"));
            continue;
        };
        if let Some(probe) = probe(&at, hook, problems) {
            probes.insert(path.into(), probe);
        }
    }
    Some(probes)
}

/// Whether the path is a hook's; `None`: it is no probe's either.
fn hook(path: &str) -> Option<bool> {
    let (container, kind) = path.strip_prefix(PROBE_PREFIX)?.split_once('/')?;
    let label = (1..=63).contains(&container.len())
        && container.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    KINDS.iter().find(|(known, _)| label && *known == kind).map(|(_, hook)| *hook)
}

fn probe(at: &Located<'_>, hook: bool, problems: &mut Problems) -> Option<Probe> {
    // The last two are injection's own notes, for the way back.
    let known = ["httpGet", "tcpSocket", "grpc", "timeoutSeconds", "portName", "withoutPath"];
    let mut fields = at.fields(&known, problems)?;
    let seconds = fields.optional("timeoutSeconds", number(1..=i32::MAX as u32));
    let actions = [fields.optional("httpGet", http), fields.optional("tcpSocket", tcp), fields.optional("grpc", grpc)];
    let mut given = actions.into_iter().filter(|action| !action.is_absent());
    let (action, other) = (given.next(), given.next());
    if action.is_none() || other.is_some() {
        problems.report(&at.place, "exactly one of httpGet, tcpSocket, grpc is needed");
        return None;
    }
    let Some(Field::Given(action)) = action else { return None };
    let usual = if hook { HOOK_TIMEOUT } else { TIMEOUT };
    Some(Probe { action, timeout: seconds.given().map_or(usual, |seconds| Duration::from_secs((*seconds).into())) })
}

fn http(at: &Located<'_>, problems: &mut Problems) -> Option<ProbeAction> {
    let mut fields = at.fields(&["host", "path", "port", "scheme", "httpHeaders"], problems)?;
    fields.optional("host", parsed("no host", no_host));
    let path = fields.optional("path", parsed("a path", |text| Ok(text.to_owned())));
    let tls = fields.optional("scheme", one_of(&[("HTTP", false), ("HTTPS", true)]));
    let headers = fields.optional("httpHeaders", list(header));
    let port = port(&mut fields)?;
    let path = path.given().map_or("/", String::as_str);
    Some(ProbeAction::Http(HttpProbe {
        tls: tls.or(false),
        port,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers: headers.given().cloned().unwrap_or_default(),
    }))
}

fn tcp(at: &Located<'_>, problems: &mut Problems) -> Option<ProbeAction> {
    let mut fields = at.fields(&["host", "port"], problems)?;
    fields.optional("host", parsed("no host", no_host));
    Some(ProbeAction::Tcp { port: port(&mut fields)? })
}

fn grpc(at: &Located<'_>, problems: &mut Problems) -> Option<ProbeAction> {
    let mut fields = at.fields(&["port", "service"], problems)?;
    let service = fields.optional("service", parsed("a service's name", |text| Ok(text.to_owned())));
    Some(ProbeAction::Grpc { port: port(&mut fields)?, service: service.given().cloned().unwrap_or_default() })
}

/// What names a host of its own was never a probe of the pod's port, and is not rewritten.
fn no_host(text: &str) -> Result<(), Complaint> {
    if text.is_empty() { Ok(()) } else { Err("only the pod itself is probed".into()) }
}

fn port(fields: &mut Fields<'_, '_>) -> Option<u16> {
    let port = fields.required("port", number(1..=65_535));
    let port = port.given().and_then(|port| u16::try_from(*port).ok())?;
    if OWN_PORTS.contains(&port) {
        let place = fields.place_of("port");
        fields.problems.report(&place, format!("port {port} is the proxy's own"));
        return None;
    }
    Some(port)
}

fn header(at: &Located<'_>, problems: &mut Problems) -> Option<(String, String)> {
    let mut fields = at.fields(&["name", "value"], problems)?;
    let name = fields.required("name", parsed("a header's name", header_name));
    // The value is never shown: it may be a password.
    let value = fields.required("value", parsed("a header's value", header_value));
    Some((name.given()?.clone(), value.given()?.clone()))
}

fn header_name(text: &str) -> Result<String, Complaint> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{} is not a header's name", quoted(text)).into()),
    }
}

fn header_value(text: &str) -> Result<String, Complaint> {
    match HeaderValue::from_str(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("is not a header's value".into()),
    }
}
