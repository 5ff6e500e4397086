//! Routes by host, most specific first.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use remora_model::{ClusterId, PathMatch, Route, RouteMatch, RouteTable, VirtualHost, WeightedCluster};

use super::clusters::Clusters;
use crate::decode::Spanned;
use crate::errors::{Problems, quoted};
use crate::raw::{self, Split, Target};

/// Routes of one listener at most, each counted once for every group of hosts it serves.
const MAX_ROUTES: usize = 100_000;
/// The domain of every host.
const ANY: &str = "*";

/// A table that sends everything to `cluster`.
pub(super) fn single(cluster: ClusterId, request_timeout: Option<Duration>) -> RouteTable {
    let route = Route {
        name: "/".into(),
        matcher: RouteMatch::default(),
        clusters: vec![WeightedCluster { cluster, weight: 1 }],
        request_timeout,
        retry_idempotent: false,
        prefix_rewrite: None,
    };
    RouteTable { virtual_hosts: vec![VirtualHost { domains: vec![ANY.into()], routes: vec![route] }] }
}

/// The table of `routes`, whose own clusters are named after `owner`.
pub(super) fn table(
    owner: &str,
    routes: &[raw::Route],
    request_timeout: Option<Duration>,
    clusters: &mut Clusters,
    problems: &mut Problems,
) -> RouteTable {
    report_unreachable(routes, problems);
    let mut compiled: Vec<(&raw::Route, Route)> =
        routes.iter().filter_map(|raw| Some((raw, route(owner, raw, request_timeout, clusters, problems)?))).collect();
    compiled.sort_by_key(|(_, route)| specificity(&route.matcher));

    let groups = by_hosts(&compiled);
    let total: usize = groups.iter().map(|(_, routes)| routes.len()).sum();
    if let Some(first) = routes.first().filter(|_| total > MAX_ROUTES) {
        problems.report(&first.place, format!("the hosts and routes here multiply to more than {MAX_ROUTES} routes"));
        return RouteTable::default();
    }
    let virtual_hosts = groups.into_iter().map(|(domains, routes)| VirtualHost {
        domains,
        routes: routes.into_iter().map(|index| compiled[index].1.clone()).collect(),
    });
    RouteTable { virtual_hosts: virtual_hosts.collect() }
}

/// Smaller is more specific: exact before prefix, long before short, then more conditions; equal ones stay in order.
fn specificity(matcher: &RouteMatch) -> impl Ord + use<> {
    let (prefix, length) = match &matcher.path {
        PathMatch::Exact(path) => (false, path.len()),
        PathMatch::Prefix(path) => (true, path.len()),
    };
    (prefix, Reverse(length), matcher.methods.is_empty(), Reverse(matcher.headers.len()))
}

/// Reports routes whose conditions an earlier one has already, since they would never be asked.
fn report_unreachable(routes: &[raw::Route], problems: &mut Problems) {
    let mut matchers = HashMap::new();
    let mut seen: HashMap<(usize, &str), usize> = HashMap::new();
    for route in routes.iter().filter(|route| route.sound) {
        let next = matchers.len();
        let headers: Vec<_> = route.headers.iter().map(|header| (header.name.as_str(), &header.value)).collect();
        let matcher = *matchers.entry((format!("{:?}", route.path), &route.methods, headers)).or_insert(next);
        let mut hosts: Vec<&str> = route.hosts.iter().map(|host| &*host.value).collect();
        if hosts.is_empty() {
            hosts.push(ANY);
        }
        let line = route.place.at().line;
        let before = hosts.into_iter().filter_map(|host| seen.insert((matcher, host), line)).next();
        if let Some(line) = before {
            problems.report(&route.place, format!("never matches: the route in line {line} has the same conditions"));
        }
    }
}

/// Groups of domains that share their routes (indices into `routes`), in order of appearance.
///
/// A request is answered by the virtual host of its most specific domain alone, so each of them carries, behind its
/// own routes, those of the wider domains, unless its own take every path.
fn by_hosts(routes: &[(&raw::Route, Route)]) -> Vec<(Vec<Arc<str>>, Vec<usize>)> {
    let mut domains: Vec<Arc<str>> = Vec::new();
    let mut own: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
    for (index, (raw, _)) in routes.iter().enumerate() {
        let any = || vec![Arc::from(ANY)];
        let hosts: Vec<Arc<str>> = raw.hosts.iter().map(|host| host.value.clone()).collect();
        for host in if hosts.is_empty() { any() } else { hosts } {
            let of_host = own.entry(host.clone()).or_insert_with(|| {
                domains.push(host);
                Vec::new()
            });
            if of_host.last() != Some(&index) {
                of_host.push(index);
            }
        }
    }
    let mut groups: Vec<(Vec<Arc<str>>, Vec<usize>)> = Vec::new();
    let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
    let mut total = 0;
    for domain in domains {
        let sequence = sequence(&domain, &own, routes);
        let group = *known.entry(sequence).or_insert_with_key(|sequence| {
            total += sequence.len();
            groups.push((Vec::new(), sequence.clone()));
            groups.len() - 1
        });
        groups[group].0.push(domain);
        if total > MAX_ROUTES {
            break;
        }
    }
    groups
}

/// The routes of `domain`, followed by those of wider and wider domains.
fn sequence(domain: &str, own: &HashMap<Arc<str>, Vec<usize>>, routes: &[(&raw::Route, Route)]) -> Vec<usize> {
    let takes_all = |index: &usize| {
        let matcher = &routes[*index].1.matcher;
        matcher.methods.is_empty() && matcher.headers.is_empty() && matcher.path == PathMatch::default()
    };
    let mut sequence = Vec::new();
    let mut seen = HashSet::new();
    let wider = domain.match_indices('.').map(|(dot, _)| format!("*{}", &domain[dot..]));
    let last = (domain != ANY).then(|| ANY.to_owned());
    for domain in std::iter::once(domain.to_owned()).chain(wider.filter(|wider| wider != domain)).chain(last) {
        for index in own.get(domain.as_str()).into_iter().flatten() {
            if seen.insert(*index) {
                sequence.push(*index);
            }
        }
        if sequence.last().is_some_and(takes_all) {
            break;
        }
    }
    sequence
}

fn route(
    owner: &str,
    raw: &raw::Route,
    request_timeout: Option<Duration>,
    clusters: &mut Clusters,
    problems: &mut Problems,
) -> Option<Route> {
    let path = raw.path.clone();
    let (PathMatch::Exact(name) | PathMatch::Prefix(name)) = &path;
    let name = name.clone();
    let own = |cluster| vec![WeightedCluster { cluster, weight: 1 }];
    let targets = match raw.target.as_ref()? {
        Target::Clusters(splits) => split(splits, clusters, problems),
        Target::To(to, upstream) => own(clusters.to(to, upstream, problems)),
        Target::Own(upstream) => own(clusters.own(&format!("{owner}{name}"), upstream, problems)),
    };
    Some(Route {
        name,
        matcher: RouteMatch { path, methods: raw.methods.clone(), headers: raw.headers.clone() },
        clusters: targets,
        request_timeout: raw.timeout.given().copied().or(request_timeout).filter(|timeout| !timeout.is_zero()),
        retry_idempotent: raw.retry_idempotent,
        prefix_rewrite: raw.rewrite.clone(),
    })
}

fn split(splits: &Spanned<Vec<Split>>, clusters: &Clusters, problems: &mut Problems) -> Vec<WeightedCluster> {
    let mut seen = HashSet::new();
    for Split { cluster, .. } in &splits.value {
        if !seen.insert(&cluster.value) {
            problems.report(&cluster.place, format!("{} is listed twice; give it one weight", quoted(&cluster.value)));
        }
    }
    let sum: u64 = splits.value.iter().map(|split| u64::from(split.weight)).sum();
    if sum == 0 && !splits.value.is_empty() {
        problems.report(&splits.place, "at least one weight must be above 0");
    }
    if sum > u64::from(u32::MAX) {
        problems.report(&splits.place, format!("the weights add up to more than {}", u32::MAX));
    }
    let known = splits.value.iter().filter_map(|split| {
        Some(WeightedCluster { cluster: clusters.named(&split.cluster, problems)?, weight: split.weight })
    });
    known.collect()
}
