//! Which cluster an HTTP request goes to.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use serde::{Serialize, Serializer};

use crate::cluster::ClusterId;

/// The virtual hosts of a filter chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteTable {
    /// In configuration order; the most specific domain that matches the request's authority wins.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// Routes for a set of domains.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VirtualHost {
    /// `*`, an exact host (`a.example`), or a suffix (`*.example`); lower case, without port.
    pub domains: Vec<Arc<str>>,
    /// Most specific first: the compiler sorts them, so the first that matches is the answer.
    pub routes: Vec<Route>,
}

/// A match, and what to do with the requests that fit it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// For spans, logs and metrics: the path pattern, such as `/api`.
    pub name: Arc<str>,
    /// Which requests belong to it.
    pub matcher: RouteMatch,
    /// Where they go; never empty, the weights decide the shares.
    pub clusters: Vec<WeightedCluster>,
    /// From the whole request received to the end of the answer; `None`: unbounded.
    pub request_timeout: Option<Duration>,
    /// Whether an idempotent request without a body (RFC 9110 section 9.2.2) is sent once more where its server may have had it and closed
    /// its connection without an answer. What provably had no effect is sent again anyway.
    pub retry_idempotent: bool,
    /// Replaces the matched prefix of the path.
    pub prefix_rewrite: Option<Arc<str>>,
}

/// A cluster and its share of a route's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WeightedCluster {
    /// The cluster.
    pub cluster: ClusterId,
    /// Share relative to the others; at least one of a route's is above zero.
    pub weight: u32,
}

/// The conditions of a route; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteMatch {
    /// On the path without query.
    pub path: PathMatch,
    /// Any of these methods; empty: every method.
    #[serde(serialize_with = "methods")]
    pub methods: Vec<Method>,
    /// All of these headers.
    pub headers: Vec<HeaderMatch>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// The path is exactly this.
    Exact(Arc<str>),
    /// The path is this or lies below it, by whole segments: `/api` takes `/api` and `/api/x`, never `/apix`.
    Prefix(Arc<str>),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// A condition on one header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderMatch {
    /// The header's name.
    #[serde(serialize_with = "header_name")]
    pub name: HeaderName,
    /// The exact value; `None`: the header is present.
    pub value: Option<Arc<str>>,
}

fn methods<S: Serializer>(methods: &[Method], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(methods.iter().map(Method::as_str))
}

fn header_name<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}
