//! AdmissionReview: bytes in, bytes out. Pure but for what it is told about namespaces.
//!
//! Whatever the bytes are, there is an answer; a review that can be read is answered with its own uid.

use http::StatusCode;
use json_patch::Patch;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inject::annotations::Map as Annotations;
use crate::inject::{Owner, PodContext, Refusal, Settings, inject};

/// The largest body that is read, in bytes: what the API server itself takes.
pub const LARGEST_BODY: usize = 3 * 1024 * 1024;
const API_VERSION: &str = "admission.k8s.io/v1";
/// What makes a pod unfit without anybody having asked for this very pod to be injected.
const UNFIT: [&str; 2] = ["spec.hostNetwork", "spec.os.name"];

/// A request that is no review: the status to answer with, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// 4xx.
    pub status: StatusCode,
    /// A sentence.
    pub reason: String,
}

/// A review that was read.
#[derive(Debug)]
pub struct Review {
    request: Request,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It stays as it is, perhaps with a warning for whoever made it.
    Unchanged(Option<String>),
    /// It is injected.
    Injected(Patch),
    /// It is not admitted, for this reason.
    Denied(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'a str,
    kind: &'a str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Unreadable {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// Refuses what is not sent as a review is.
///
/// # Errors
/// 405 or 415.
pub fn check_head(method: &http::Method, content_type: Option<&str>) -> Result<(), Unreadable> {
    if method != http::Method::POST {
        return Err(Unreadable::new(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview here"));
    }
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        let reason = format!("the Content-Type must be application/json, not {:?}", content_type.unwrap_or_default());
        return Err(Unreadable::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    Ok(())
}

impl Review {
    /// Reads a review.
    ///
    /// # Errors
    /// 400 or 413, with the reason.
    pub fn parse(body: &[u8]) -> Result<Self, Unreadable> {
        if body.len() > LARGEST_BODY {
            let reason = format!("a review has at most {LARGEST_BODY} bytes");
            return Err(Unreadable::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        let bad = |reason: String| Unreadable::new(StatusCode::BAD_REQUEST, reason);
        // Other versions need not have the fields of this one.
        let versions: Envelope = match serde_json::from_slice(body) {
            Ok(envelope) => envelope,
            Err(error) => {
                return Err(bad(of_another_version(body).unwrap_or_else(|| format!("not a review: {error}"))));
            }
        };
        if versions.kind != "AdmissionReview" || versions.api_version != API_VERSION {
            return Err(bad(expected(&versions.api_version, &versions.kind)));
        }
        let request = versions.request.ok_or_else(|| bad("the review has no request".to_owned()))?;
        Ok(Self { request })
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        self.request.namespace.as_deref().unwrap_or_default()
    }

    /// Whether the pod itself says that it wants to be injected, whatever its namespace says.
    pub fn asks_itself(&self, settings: &Settings) -> bool {
        PodContext::new(&self.request.object).wanted(settings) == Some(true)
    }

    /// Whether nothing will come of it.
    pub fn is_dry_run(&self) -> bool {
        self.request.dry_run == Some(true)
    }

    /// Judges the pod; `namespace_annotations` are those of its namespace.
    pub fn judge(&self, namespace_annotations: Annotations, settings: &Settings) -> Verdict {
        let Request { kind, operation, object, sub_resource, .. } = &self.request;
        let is_pod = kind.group.is_empty() && kind.version == "v1" && kind.kind == "Pod";
        if !is_pod || operation != "CREATE" || sub_resource.as_ref().is_some_and(|name| !name.is_empty()) {
            return Verdict::Unchanged(None);
        }
        let context = PodContext { pod: object, namespace_annotations, owner: Owner::of_pod(object) };
        match inject(&context, settings) {
            Ok(patch) if patch.0.is_empty() => Verdict::Unchanged(None),
            Ok(patch) => Verdict::Injected(patch),
            Err(refusals) => {
                // The namespace's label means "all that can be"; only who names this very pod is told no.
                let only_unfit = refusals.iter().all(|refusal| UNFIT.contains(&&*refusal.path));
                let text = told(&refusals);
                match only_unfit && context.wanted(settings) != Some(true) {
                    true => Verdict::Unchanged(Some(format!("remora: the pod is not injected: {text}"))),
                    false => Verdict::Denied(format!("remora cannot inject this pod: {text}")),
                }
            }
        }
    }

    /// The answer, as JSON.
    pub fn answer(&self, verdict: Verdict) -> Vec<u8> {
        let mut response = Response {
            uid: &self.request.uid,
            allowed: true,
            status: None,
            patch: None,
            patch_type: None,
            warnings: Vec::new(),
        };
        match verdict {
            Verdict::Unchanged(warning) => response.warnings.extend(warning),
            Verdict::Injected(patch) => {
                // Operations on JSON are JSON.
                response.patch = serde_json::to_vec(&patch).ok().map(ByteString);
                response.patch_type = Some("JSONPatch");
            }
            Verdict::Denied(message) => {
                response.allowed = false;
                let code = StatusCode::UNPROCESSABLE_ENTITY.as_u16();
                response.status = Some(Status { code, reason: "Invalid", message });
            }
        }
        let answer = Answer { api_version: API_VERSION, kind: "AdmissionReview", response };
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}

fn told(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn expected(api_version: &str, kind: &str) -> String {
    format!("an AdmissionReview of {API_VERSION} is expected, not {kind:?} of {api_version:?}")
}

/// What is wrong with a body that is JSON, but of another version or kind.
fn of_another_version(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    (api_version != API_VERSION || kind != "AdmissionReview").then(|| expected(api_version, kind))
}

#[cfg(test)]
mod tests;
