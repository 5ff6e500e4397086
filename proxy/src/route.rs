//! Which route, and which of its clusters, a request takes. Pure: is handed a route table and a request head.
//!
//! Paths are compared as they stand: not decoded, `.` and `..` not resolved, `//` not merged, because exactly the same
//! path is forwarded ([`rewrite`] changes nothing beyond the matched prefix). A rule here and the application behind can
//! differ only where the application normalises the path itself.

use http::uri::{Authority, PathAndQuery};
use remora_model::{ClusterId, HeaderMatch, PathMatch, Route, RouteMatch, RouteTable, VirtualHost};

use crate::http::RequestHead;

/// The route of the request: the virtual host with the most specific domain for its authority, and of that the first route
/// that matches (the compiler put the most specific first). A virtual host without a matching route answers for its
/// domains all the same: no other is asked.
pub fn select<'a>(table: &'a RouteTable, head: &RequestHead) -> Option<&'a Route> {
    let host = virtual_host(table, head.authority.as_ref())?;
    host.routes.iter().find(|route| matches(&route.matcher, head))
}

/// The cluster a request of `route` goes to; `random` is uniform over its whole range.
pub fn pick_cluster(route: &Route, random: u32) -> ClusterId {
    let total: u64 = route.clusters.iter().map(|share| u64::from(share.weight)).sum();
    let mut point = (u64::from(random) * total) >> 32;
    for share in &route.clusters {
        match point.checked_sub(u64::from(share.weight)) {
            None => return share.cluster,
            Some(rest) => point = rest,
        }
    }
    // Only a route whose weights are all zero comes here; the compiler makes none.
    route.clusters.last().expect("a route has at least one cluster").cluster
}

/// The path to forward: `path` with the part that `route` matched replaced by its rewrite, the query untouched. `None`:
/// forward `path` as it is.
pub fn rewrite(route: &Route, path: &PathAndQuery) -> Option<PathAndQuery> {
    let replacement = route.prefix_rewrite.as_deref()?;
    let rest = match &route.matcher.path {
        PathMatch::Exact(_) => "",
        // The server as a whole (RFC 9112 section 3.2.4) has no prefix.
        PathMatch::Prefix(_) if path == "*" => return None,
        PathMatch::Prefix(prefix) => path.path().strip_prefix(prefix.trim_end_matches('/'))?,
    };
    let mut text = String::with_capacity(replacement.len() + path.as_str().len() + 1);
    text.push_str(if rest.starts_with('/') { replacement.trim_end_matches('/') } else { replacement });
    text.push_str(rest);
    if let Some(query) = path.query() {
        text.push('?');
        text.push_str(query);
    }
    text.try_into().ok()
}

/// How well a domain fits, best greatest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Any,
    /// With the length of the suffix.
    Suffix(usize),
    Exact,
}

fn virtual_host<'a>(table: &'a RouteTable, authority: Option<&Authority>) -> Option<&'a VirtualHost> {
    // A sidecar's usual table: there is nothing to choose.
    if let [only] = &table.virtual_hosts[..]
        && only.domains.iter().any(|domain| &**domain == "*")
    {
        return Some(only);
    }
    let host = authority.map_or("", Authority::host);
    // The root's dot names the same host.
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut best: Option<(Fit, &VirtualHost)> = None;
    for candidate in &table.virtual_hosts {
        let fit = candidate.domains.iter().filter_map(|domain| fit(domain, host)).max();
        if let Some(fit) = fit
            && best.as_ref().is_none_or(|(best, _)| fit > *best)
        {
            best = Some((fit, candidate));
        }
    }
    best.map(|(_, host)| host)
}

fn fit(domain: &str, host: &str) -> Option<Fit> {
    if domain == "*" {
        return Some(Fit::Any);
    }
    if let Some(suffix) = domain.strip_prefix('*') {
        // At least one label must stand where the star is.
        let (start, end) = host.as_bytes().split_at_checked(host.len().checked_sub(suffix.len())?)?;
        return (!start.is_empty() && end.eq_ignore_ascii_case(suffix.as_bytes())).then_some(Fit::Suffix(suffix.len()));
    }
    domain.eq_ignore_ascii_case(host).then_some(Fit::Exact)
}

fn matches(matcher: &RouteMatch, head: &RequestHead) -> bool {
    path_matches(&matcher.path, head.path.path())
        && (matcher.methods.is_empty() || matcher.methods.contains(&head.method))
        && matcher.headers.iter().all(|condition| header_matches(condition, head))
}

fn path_matches(matcher: &PathMatch, path: &str) -> bool {
    match matcher {
        PathMatch::Exact(exact) => **exact == *path,
        // Everything, CONNECT's empty path and the star of OPTIONS included.
        PathMatch::Prefix(prefix) if matches!(&**prefix, "" | "/") => true,
        PathMatch::Prefix(prefix) => path
            .strip_prefix(&**prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/')),
    }
}

fn header_matches(condition: &HeaderMatch, head: &RequestHead) -> bool {
    let mut values = head.headers.get_all(&condition.name).iter();
    match &condition.value {
        None => values.next().is_some(),
        Some(expected) => values.any(|value| value.as_bytes() == expected.as_bytes()),
    }
}

#[cfg(test)]
mod tests;
