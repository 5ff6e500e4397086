//! Routes as written.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use remora_model::{HeaderMatch, PathMatch};

use super::{Upstream, cluster_timeouts, duration, host_port};
use crate::decode::{Field, Fields, Located, Place, Spanned, boolean, number, one_of, parsed, some, spanned};
use crate::errors::{Complaint, Problems, quoted};
use crate::value::{self, HostPort};

/// One of `routes`.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) place: Place,
    /// Whether the conditions (path, methods, headers, hosts) are as written: none of them was refused.
    pub(crate) sound: bool,
    pub(crate) path: PathMatch,
    /// Sorted.
    pub(crate) methods: Vec<Method>,
    /// Sorted by name.
    pub(crate) headers: Vec<HeaderMatch>,
    /// Empty: every host.
    pub(crate) hosts: Vec<Spanned<Arc<str>>>,
    pub(crate) timeout: Field<Duration>,
    pub(crate) retry_idempotent: bool,
    pub(crate) rewrite: Option<Arc<str>>,
    /// `None`: wrong, and reported.
    pub(crate) target: Option<Target>,
}

/// Where a route's requests go.
#[derive(Debug)]
pub(crate) enum Target {
    /// `cluster` or `clusters`.
    Clusters(Spanned<Vec<Split>>),
    /// `to`.
    To(Spanned<HostPort>, Box<Upstream>),
    /// `endpoints` or `dns`.
    Own(Box<Upstream>),
}

/// A cluster's name and its share.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) cluster: Spanned<Arc<str>>,
    pub(crate) weight: u32,
}

/// What is sent again, and whether that is more than what provably had no effect.
const RETRIES: &[(&str, bool)] = &[("unprocessed", false), ("idempotent", true)];
const FIELDS: &[&str] =
    &["path", "exact", "methods", "headers", "hosts", "timeout", "retry", "rewrite", "cluster", "clusters", "to"];
/// Of which a route has exactly one.
const TARGETS: [&str; 5] = ["cluster", "clusters", "to", "endpoints", "dns"];

impl Route {
    pub(super) fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let known = [FIELDS, Upstream::FIELDS].concat();
        let mut fields = at.fields(&known, problems)?;
        let before = fields.problems.count();
        let hosts = fields.optional("hosts", some(spanned(parsed("a host such as a.example", value::domain))));
        let (path, methods, headers) = (path(&mut fields), methods(&mut fields), headers(&mut fields));
        Some(Self {
            place: fields.place.clone(),
            sound: fields.problems.count() == before,
            path,
            methods,
            headers,
            hosts: hosts.given().cloned().unwrap_or_default(),
            timeout: fields.optional("timeout", duration),
            retry_idempotent: fields.optional("retry", one_of(RETRIES)).given().copied().unwrap_or_default(),
            rewrite: fields.optional("rewrite", parsed("a path such as /", value::prefix)).given().cloned(),
            target: Target::decode(&mut fields),
        })
    }
}

impl Target {
    fn decode(fields: &mut Fields<'_, '_>) -> Option<Self> {
        let cluster = fields.optional("cluster", spanned(one_cluster));
        let clusters = fields.optional("clusters", spanned(some(split)));
        let to = fields.optional("to", spanned(host_port));
        let upstream = Box::new(Upstream::decode(fields, cluster_timeouts));
        let given: Vec<&str> = TARGETS
            .into_iter()
            .zip([
                !cluster.is_absent(),
                !clusters.is_absent(),
                !to.is_absent(),
                !upstream.endpoints.is_absent(),
                !upstream.dns.is_absent(),
            ])
            .filter_map(|(name, given)| given.then_some(name))
            .collect();
        match given[..] {
            [] => {
                fields.problems.report(&fields.place, format!("needs one of {}", TARGETS.join(", ")));
                None
            }
            ["cluster" | "clusters"] => {
                refuse_upstream(fields);
                [cluster, clusters].into_iter().find_map(|field| match field {
                    Field::Given(splits) => Some(Self::Clusters(splits)),
                    Field::Absent | Field::Wrong => None,
                })
            }
            ["to"] => to.given().map(|to| Self::To(to.clone(), upstream)),
            [_] => Some(Self::Own(upstream)),
            [first, second, ..] => {
                let place = fields.place_of(second);
                fields.problems.report(&place, format!("{first} is given too; a route has one target"));
                None
            }
        }
    }
}

/// What belongs to a cluster is not to be repeated, differently perhaps, where the cluster is only named.
fn refuse_upstream(fields: &mut Fields<'_, '_>) {
    for name in ["protocol", "mtls", "identity", "balance", "timeouts"] {
        if fields.has(name) {
            let place = fields.place_of(name);
            fields.problems.report(&place, "belongs to the cluster, not to a route that names it");
        }
    }
}

fn path(fields: &mut Fields<'_, '_>) -> PathMatch {
    let prefix = fields.optional("path", parsed("a path such as /api", value::prefix));
    let exact = fields.optional("exact", parsed("a path such as /api", value::path));
    match (prefix, exact) {
        (Field::Given(prefix), Field::Absent) => PathMatch::Prefix(prefix),
        (Field::Absent, Field::Given(exact)) => PathMatch::Exact(exact),
        (_, Field::Absent) | (Field::Absent, _) => PathMatch::default(),
        (_, _) => {
            let place = fields.place_of("exact");
            fields.problems.report(&place, "path is given too; a route has one of them");
            PathMatch::default()
        }
    }
}

fn methods(fields: &mut Fields<'_, '_>) -> Vec<Method> {
    let methods = fields.optional("methods", some(parsed("a method such as GET", method)));
    let mut methods = methods.given().cloned().unwrap_or_default();
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    methods.dedup();
    methods
}

/// Methods are case-sensitive (RFC 9110, section 9.1): `get` would never match.
fn method(text: &str) -> Result<Method, Complaint> {
    let wrong = || Complaint::from(format!("{} is not an HTTP method", quoted(text)));
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(wrong().suggest(Some(text.to_ascii_uppercase())));
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| wrong())
}

fn headers(fields: &mut Fields<'_, '_>) -> Vec<HeaderMatch> {
    let headers = fields.optional("headers", |at, problems| {
        let named = at.named("an object of headers", problems)?;
        Some(named.iter().filter_map(|(name, place, at)| header(name, place, at, problems)).collect::<Vec<_>>())
    });
    let mut headers = headers.given().cloned().unwrap_or_default();
    headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    headers
}

/// `name: value`, or `name: {present: true}`.
fn header(name: &str, place: &Place, at: &Located<'_>, problems: &mut Problems) -> Option<HeaderMatch> {
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
        problems.report(place, format!("{} is not a header's name", quoted(name)));
        return None;
    };
    if header == http::header::HOST {
        problems.report(place, "the host is matched by hosts");
        return None;
    }
    if !at.is_object() {
        let value = parsed("a header's value", header_value)(at, problems)?;
        return Some(HeaderMatch { name: header, value: Some(value) });
    }
    let mut fields = at.fields(&["present"], problems)?;
    match fields.required("present", boolean) {
        Field::Given(true) => Some(HeaderMatch { name: header, value: None }),
        Field::Given(false) => {
            problems.report(&at.place, "only the presence of a header can be asked for");
            None
        }
        Field::Absent | Field::Wrong => None,
    }
}

fn header_value(text: &str) -> Result<Arc<str>, Complaint> {
    HeaderValue::from_str(text).map_err(|_| format!("{} is not a header's value", quoted(text)))?;
    Ok(text.into())
}

fn one_cluster(at: &Located<'_>, problems: &mut Problems) -> Option<Vec<Split>> {
    Some(vec![Split { cluster: spanned(cluster_name)(at, problems)?, weight: 1 }])
}

/// A cluster's name, or an object with a weight.
fn split(at: &Located<'_>, problems: &mut Problems) -> Option<Split> {
    if !at.is_object() {
        return Some(Split { cluster: spanned(cluster_name)(at, problems)?, weight: 1 });
    }
    let mut fields = at.fields(&["cluster", "weight"], problems)?;
    let cluster = fields.required("cluster", spanned(cluster_name));
    let weight = fields.optional("weight", number(0..=1_000_000)).or(1);
    Some(Split { cluster: cluster.given()?.clone(), weight })
}

fn cluster_name(at: &Located<'_>, problems: &mut Problems) -> Option<Arc<str>> {
    parsed("a cluster's name", |text| Ok(text.into()))(at, problems)
}
