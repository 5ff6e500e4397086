//! Spans and access log, from the `tracing` part and the `OTEL_*` variables, which win over it.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use remora_model::snapshot::Service;
use remora_model::telemetry::{AccessLog, OtlpProtocol, Propagation, Telemetry, Tracing};

use super::variables::{Variables, truth, word};
use crate::decode::Field;
use crate::environment::Environment;
use crate::errors::{Complaint, Problems, quoted};
use crate::raw::{self, Document};
use crate::value::{self, Collector};

const SAMPLING: f64 = 0.01;
const QUEUE: u32 = 2048;
const TIMEOUT: Duration = Duration::from_secs(10);
/// The port that collectors listen on for OTLP over HTTP.
const HTTP_PORT: u16 = 4318;
/// The path of OTLP/HTTP traces (the OTLP specification, "OTLP/HTTP Request").
const HTTP_PATH: &str = "/v1/traces";

/// The telemetry of a proxy beside `service`, with the resource attributes of the environment.
pub(super) fn telemetry(
    document: &Document,
    env: &Environment,
    service: Option<&Service>,
    attributes: &[(String, String)],
    problems: &mut Problems,
) -> Telemetry {
    let (format, filter) = document.access_log;
    let mut variables = Variables { env, problems };
    let tracing = if variables.disabled() { None } else { tracing(document, service, attributes, &mut variables) };
    Telemetry { tracing, access_log: AccessLog { format, filter } }
}

fn tracing(
    document: &Document,
    service: Option<&Service>,
    attributes: &[(String, String)],
    variables: &mut Variables<'_>,
) -> Option<Tracing> {
    let raw = document.tracing.given();
    let endpoint = endpoint(raw, variables);
    let from_env = variables.env.first(&[TRACES_ENDPOINT, ENDPOINT]).is_some();
    if raw.is_none() && !from_env {
        return None;
    }
    let yaml_protocol = raw.and_then(|raw| raw.protocol.given().copied());
    let usual = match &endpoint {
        Some((Collector { port: Some(HTTP_PORT), .. }, _)) => OtlpProtocol::HttpProtobuf,
        _ => OtlpProtocol::Grpc,
    };
    let protocol = variables.protocol().or(yaml_protocol).unwrap_or(usual);
    let sampling = raw.map_or(SAMPLING, |raw| raw.sampling.or(SAMPLING));
    let propagation = raw.and_then(|raw| raw.propagation.given().cloned());
    let propagation = variables.propagators().or(propagation).unwrap_or_else(|| vec![Propagation::TraceContext]);
    let queue = variables.queue().unwrap_or(raw.map_or(QUEUE, |raw| raw.queue.or(QUEUE)));
    let timeout = variables.timeout().unwrap_or(raw.map_or(TIMEOUT, |raw| raw.timeout.or(TIMEOUT)));
    let sampling_ratio = variables.sampling().unwrap_or(sampling);
    let headers = variables.headers();
    let (service_name, resource) = resource(raw, service, document, attributes, variables.env);
    let (collector, path) = endpoint?;
    Some(Tracing {
        endpoint: match protocol {
            OtlpProtocol::Grpc => collector.base,
            OtlpProtocol::HttpProtobuf => format!("{}{path}", collector.base),
        },
        protocol,
        sampling_ratio,
        queue: queue as usize,
        timeout,
        headers,
        service_name: service_name?,
        resource,
        propagation,
    })
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// The collector, and the path for OTLP/HTTP: the variable for all signals is a base, the one for traces is taken as
/// it is, and so is a path in the file.
fn endpoint(raw: Option<&raw::Tracing>, variables: &mut Variables<'_>) -> Option<(Collector, String)> {
    if let Some((name, text)) = variables.env.first(&[TRACES_ENDPOINT, ENDPOINT]) {
        let collector = variables.parsed(name, text, value::collector)?;
        let path = match name {
            TRACES_ENDPOINT if collector.path.is_empty() => "/".to_owned(),
            TRACES_ENDPOINT => collector.path.clone(),
            _ => format!("{}{HTTP_PATH}", collector.path),
        };
        return Some((collector, path));
    }
    let raw = raw?;
    match &raw.endpoint {
        Field::Given(collector) => {
            let path = if collector.path.is_empty() { HTTP_PATH } else { &collector.path };
            Some((collector.clone(), path.to_owned()))
        }
        Field::Absent => {
            variables.problems.report(&raw.place, format!("endpoint is missing (or the variable {ENDPOINT})"));
            None
        }
        Field::Wrong => None,
    }
}

/// The service's name and the other resource attributes, sorted.
fn resource(
    raw: Option<&raw::Tracing>,
    service: Option<&Service>,
    document: &Document,
    from_environment: &[(String, String)],
    env: &Environment,
) -> (Option<String>, Vec<(String, String)>) {
    let mut attributes = BTreeMap::new();
    if let Some(service) = document.service.given() {
        let known = [("service.namespace", &service.namespace), ("service.version", &service.version)];
        attributes
            .extend(known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.as_ref()?.to_string()))));
    }
    attributes.extend(raw.into_iter().flat_map(|raw| raw.attributes.iter().cloned()));
    attributes.extend(from_environment.iter().cloned());
    let attribute = attributes.remove("service.name");
    let name = env.variable("OTEL_SERVICE_NAME").map(str::to_owned);
    (name.or(attribute).or_else(|| service.map(|service| service.name.to_string())), attributes.into_iter().collect())
}

impl Variables<'_> {
    /// `OTEL_SDK_DISABLED` or `OTEL_TRACES_EXPORTER=none`.
    fn disabled(&mut self) -> bool {
        let disabled = self.first(&["OTEL_SDK_DISABLED"], truth);
        let none = self.first(&["OTEL_TRACES_EXPORTER"], |text| word(text, &[("none", true), ("otlp", false)]));
        disabled == Some(true) || none == Some(true)
    }

    fn protocol(&mut self) -> Option<OtlpProtocol> {
        self.first(&["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"], |text| {
            word(text, &[("grpc", OtlpProtocol::Grpc), ("http/protobuf", OtlpProtocol::HttpProtobuf)])
        })
    }

    /// In milliseconds.
    fn timeout(&mut self) -> Option<Duration> {
        self.first(&["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"], |text| {
            whole(text, 3_600_000, "milliseconds").map(|millis| Duration::from_millis(millis.into()))
        })
    }

    fn queue(&mut self) -> Option<u32> {
        self.first(&["OTEL_BSP_MAX_QUEUE_SIZE"], |text| whole(text, 1_000_000, "spans"))
    }

    /// A sampler by name; the share of the ratio samplers is its argument, 1 without.
    fn sampling(&mut self) -> Option<f64> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let sampler = self.first(&[NAME], |text| {
            let known = [
                ("parentbased_always_on", Some(1.0)),
                ("parentbased_always_off", Some(0.0)),
                ("parentbased_traceidratio", None),
            ];
            let parentless =
                known.iter().map(|(name, _)| *name).find(|name| name.strip_prefix("parentbased_") == Some(text));
            match parentless {
                Some(name) => {
                    Err(Complaint::from(format!("{} ignores the parent's decision", quoted(text))).suggest(Some(name)))
                }
                None => word(text, &known),
            }
        })?;
        let ratio = self.first(&["OTEL_TRACES_SAMPLER_ARG"], value::ratio);
        Some(sampler.or(ratio).unwrap_or(1.0))
    }

    /// Baggage passes through untouched, asked for or not.
    fn propagators(&mut self) -> Option<Vec<Propagation>> {
        self.first(&["OTEL_PROPAGATORS"], |text| {
            let known = [
                ("tracecontext", Some(Propagation::TraceContext)),
                ("b3", Some(Propagation::B3)),
                ("b3multi", Some(Propagation::B3Multi)),
                ("baggage", None),
                ("none", None),
            ];
            let mut formats = Vec::new();
            for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                formats.extend(word(name, &known)?.filter(|format| !formats.contains(format)));
            }
            Ok(formats)
        })
    }

    fn headers(&mut self) -> Vec<(String, String)> {
        const NAMES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
        let Some((name, _)) = self.env.first(&NAMES) else { return Vec::new() };
        let mut headers = self.pairs(name);
        // The value is never shown: it may be a password.
        headers.retain(|(key, value)| {
            let valid = HeaderName::from_bytes(key.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok();
            if !valid {
                self.problems.variable(name, format!("{} and its value are not a header", quoted(key)));
            }
            valid
        });
        headers
    }
}

fn whole(text: &str, most: u32, unit: &str) -> Result<u32, Complaint> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("{} is not a number of {unit} from 1 to {most}", quoted(text)).into())
}
