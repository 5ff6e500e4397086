//! The lines about a cluster, judged: pure. Those about the webhook are in a file of their own.

use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use remora_certs::ca::State;
use remora_certs::{Fingerprint, TrustBundle};

use super::{Cluster, Read};
use crate::check::{Finding, VERSION};
use crate::cluster::{CA_SECRET, CONTROL, INJECT, LABELS, MESH, MESH_KEY, NAMESPACE, TRUST_BUNDLE, TRUST_BUNDLE_KEY};
use crate::inject::annotations::INJECTED;
use crate::inject::{Marker, PROXY_CONTAINER};
use crate::install::check_mesh;
use crate::install::wait::is_available;

pub(super) const INSTALL: &str = "run `remora install`";
pub(super) const LOOK: &str = "see `kubectl -n remora-system logs deploy/remora-control`";
const RESTART: &str = "restart their workloads: `kubectl -n NAMESPACE rollout restart`";
/// The first Kubernetes that has native sidecars.
const OLDEST: (u32, u32) = (1, 29);
/// How many names a line lists.
const NAMES: usize = 5;

pub(super) fn unreachable(why: String) -> Finding {
    Finding::failure(why, "see whether the cluster runs and --kubeconfig and --context name it: `kubectl version`")
}

/// Something that must be there, or what its absence is called; `remedy` is for where there is a control plane.
pub(super) fn there<'a, T>(seen: &Cluster, read: &'a Read<T>, what: &str, remedy: &str) -> Result<&'a T, Finding> {
    let remedy = if matches!(seen.deployment, Ok(None)) { INSTALL } else { remedy };
    match read {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Finding::failure(format!("{what} is not there"), remedy)),
        Err(why) => Err(unread(what, why)),
    }
}

fn unread(what: &str, why: &str) -> Finding {
    Finding::failure(format!("{what} cannot be read: {why}"), "use a kubeconfig that may read it")
}

pub(super) fn either(judged: Result<Finding, Finding>) -> Finding {
    judged.unwrap_or_else(|finding| finding)
}

/// A few of the names, and how many more there are.
pub(super) fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMES);
    let shown = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

pub(super) fn server(seen: &Cluster) -> Finding {
    let info = match &seen.server {
        Ok(info) => info,
        Err(why) => return unreachable(why.clone()),
    };
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
    match (number(&info.major), number(&info.minor)) >= OLDEST {
        true => Finding::ok(format!("Kubernetes {}", info.git_version)),
        false => Finding::failure(
            format!("Kubernetes {} has no native sidecars", info.git_version),
            "upgrade to 1.29 or newer, or set the annotation `remora.dev/native-sidecar: \"false\"`",
        ),
    }
}

pub(super) fn control_plane(seen: &Cluster) -> Finding {
    let what = format!("Deployment {NAMESPACE}/{CONTROL}");
    either(there(seen, &seen.deployment, &what, INSTALL).map(|deployment| match is_available(deployment) {
        true => Finding::ok(format!("{what}: every replica is available")),
        false => Finding::failure(format!("{what} is not available: {}", seen.trouble), LOOK),
    }))
}

pub(super) fn version(seen: &Cluster) -> Finding {
    // That there is none is told by the line about the control plane.
    let spec = seen.deployment.as_ref().ok().and_then(Option::as_ref).and_then(|deployment| deployment.spec.as_ref());
    let containers = spec.and_then(|spec| spec.template.spec.as_ref()).map(|pod| &pod.containers);
    let image = containers.into_iter().flatten().find(|c| c.name == CONTROL).and_then(|c| c.image.as_deref());
    match image.and_then(|image| image.rsplit_once(':')) {
        Some((name, version)) if version != VERSION && !name.contains('@') => Finding::warning(
            format!("the control plane is {version}, this program is {VERSION}"),
            "run `remora install` to bring it to this version, or use the program of that version",
        ),
        Some(_) => Finding::ok(format!("the control plane and this program are both {VERSION}")),
        None => Finding::ok("no control plane tells its version"),
    }
}

/// The authority's state, where the Secret has one.
fn state(seen: &Cluster) -> Option<State> {
    crate::authority::state(seen.authority.as_ref().ok()?.as_ref()?).ok()
}

pub(super) fn authority(seen: &Cluster) -> Finding {
    let what = format!("Secret {NAMESPACE}/{CA_SECRET}");
    either((|| {
        let secret = there(
            seen,
            &seen.authority,
            &what,
            "restore it from a copy, it is the mesh's identity; docs/control.md says more",
        )?;
        let restore = "restore it from a copy";
        let broken = |why: String| Finding::failure(format!("{what}: {why}"), restore);
        let state = crate::authority::state(secret).map_err(|error| broken(error.to_string()))?;
        let roots = state.roots.iter().map(|root| ("root", &root.certificate));
        let mut soonest = None;
        for (role, name) in roots.chain([("signing certificate", &state.signer.certificate)]) {
            let bundle = certificates(secret, &state, name).map_err(broken)?;
            for certificate in bundle.roots() {
                let (begins, ends) = (certificate.not_before(), certificate.not_after());
                let whole = ends.duration_since(begins).unwrap_or_default();
                let until = day(ends);
                match ends.duration_since(seen.now) {
                    _ if seen.now < begins => {
                        return Err(broken(format!("the {role} {name} is valid only from {}", day(begins))));
                    }
                    Err(_) => return Err(broken(format!("the {role} {name} ended on {until}"))),
                    Ok(left) if left < whole / 5 => {
                        return Err(Finding::warning(
                            format!("less than a fifth of the life of the {role} {name} is left, until {until}"),
                            "a signing certificate renews itself, see the control plane's log; replace a root as docs/control.md says",
                        ));
                    }
                    Ok(_) => soonest = soonest.into_iter().chain([ends]).min(),
                }
            }
        }
        let until = soonest.map(day).unwrap_or_default();
        Ok(Finding::ok(format!("{what}: signs for {} until {until} at least", state.trust_domain)))
    })())
}

fn certificates(secret: &Secret, state: &State, name: &str) -> Result<TrustBundle, String> {
    let pem = secret.data.as_ref().and_then(|data| data.get(name)).ok_or_else(|| format!("it has no {name}"))?;
    TrustBundle::parse(state.trust_domain.clone(), Path::new(name), &pem.0).map_err(|error| error.to_string())
}

fn day(time: std::time::SystemTime) -> String {
    time::OffsetDateTime::from(time).date().to_string()
}

fn text<'a>(map: &'a ConfigMap, key: &str) -> &'a str {
    map.data.as_ref().and_then(|data| data.get(key)).map_or("", String::as_str)
}

/// The roots in a bundle, in no order.
fn fingerprints(pem: &str) -> Result<Vec<Fingerprint>, String> {
    // The trust domain does not matter here.
    let domain = "cluster.local".parse().map_err(|_| "no trust domain".to_owned())?;
    let bundle = TrustBundle::parse(domain, Path::new(TRUST_BUNDLE_KEY), pem.as_bytes()).map_err(|e| e.to_string())?;
    let mut roots: Vec<_> = bundle.roots().iter().map(remora_certs::bundle::Root::fingerprint).collect();
    roots.sort_by_key(ToString::to_string);
    Ok(roots)
}

pub(super) fn trust_bundle(seen: &Cluster) -> Finding {
    let what = format!("ConfigMap {NAMESPACE}/{TRUST_BUNDLE}");
    either(there(seen, &seen.bundle, &what, LOOK).map(|map| {
        let remedy = "delete it: the control plane makes it anew; if somebody put it there, find out who";
        match (fingerprints(text(map, TRUST_BUNDLE_KEY)), state(seen)) {
            (Err(why), _) => Finding::failure(format!("{what}: {why}"), remedy),
            (Ok(found), Some(state)) if !same(&found, &state) => {
                Finding::failure(format!("{what} has other roots than the authority"), remedy)
            }
            (Ok(found), _) => Finding::ok(format!("{what}: {} of the authority's roots", found.len())),
        }
    }))
}

fn same(found: &[Fingerprint], state: &State) -> bool {
    let mut wanted: Vec<_> = state.roots.iter().map(|root| root.fingerprint).collect();
    wanted.sort_by_key(ToString::to_string);
    found == wanted
}

pub(super) fn mesh(seen: &Cluster) -> Finding {
    let what = format!("ConfigMap {NAMESPACE}/{MESH}");
    either(there(seen, &seen.mesh, &what, INSTALL).and_then(|main| {
        // A copy is as good as its source; what is a namespace's own is for its pods alone.
        let own = seen.copies.iter().flatten().filter(|((_, name), map)| name == MESH && !is_ours(map));
        for map in [main].into_iter().chain(own.map(|(_, map)| map)) {
            let name = format!("{}/{MESH}", map.namespace().unwrap_or_default());
            check_mesh(&name, text(map, MESH_KEY)).map_err(|errors| {
                let mut lines = errors.lines();
                let first = lines.next().unwrap_or_default();
                let more = match lines.count() {
                    0 => String::new(),
                    more => format!(" (and {more} more)"),
                };
                Finding::failure(
                    format!("{first}{more}"),
                    "correct it: proxies keep the last good one, and new ones do not start",
                )
            })?;
        }
        Ok(Finding::ok(format!("{what} is valid")))
    }))
}

/// It carries our labels.
fn is_ours(map: &ConfigMap) -> bool {
    LABELS.iter().all(|(label, value)| map.labels().get(*label).is_some_and(|found| found == value))
}

pub(super) fn copies(seen: &Cluster) -> Finding {
    let (namespaces, copies) = match (&seen.namespaces, &seen.copies) {
        (Ok(namespaces), Ok(copies)) => (namespaces, copies),
        (Err(why), _) => return unread("the list of namespaces", why),
        (_, Err(why)) => return unread("the list of ConfigMaps", why),
    };
    let mut wrong = Vec::new();
    for namespace in namespaces {
        for name in [MESH, TRUST_BUNDLE] {
            let (title, copy) = (format!("{namespace}/{name}"), copies.get(&(namespace.clone(), name.to_owned())));
            match copy {
                None => wrong.push(format!("{title} is not there")),
                Some(copy) if !is_right(seen, name, copy) => wrong.push(format!("{title} is another")),
                Some(_) => {}
            }
        }
    }
    match wrong.is_empty() {
        true => Finding::ok(format!("labelled namespaces that have both ConfigMaps: {}", namespaces.len())),
        false => {
            Finding::failure(some(&wrong), format!("delete what somebody else put there (docs/control.md), and {LOOK}"))
        }
    }
}

fn is_right(seen: &Cluster, name: &str, copy: &ConfigMap) -> bool {
    if name == MESH {
        // A namespace may have a configuration of its own. Whether there is a source is told elsewhere.
        let source = seen.mesh.as_ref().ok().and_then(Option::as_ref);
        return !is_ours(copy) || source.is_none_or(|source| source.data == copy.data);
    }
    let found = fingerprints(text(copy, TRUST_BUNDLE_KEY));
    found.is_ok_and(|found| state(seen).is_none_or(|state| same(&found, &state)))
}

fn has_sidecar(pod: &Pod) -> bool {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
        .any(|container| container.name == PROXY_CONTAINER)
}

/// It runs, or will.
fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn title(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

pub(super) fn without_sidecar(seen: &Cluster) -> Finding {
    let (namespaces, pods) = match (&seen.namespaces, &seen.pods) {
        (Ok(namespaces), Ok(pods)) => (namespaces, pods),
        (Err(why), _) => return unread("the list of namespaces", why),
        (_, Err(why)) => return unread("the list of pods", why),
    };
    let is_injected = |namespace: &String| namespace != "kube-system" && namespaces.contains(namespace);
    let declines = |pod: &Pod| {
        let on_the_node = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        on_the_node
            || [pod.labels(), pod.annotations()].iter().any(|map| map.get(INJECT).is_some_and(|value| value == "false"))
    };
    let concerned =
        pods.iter().filter(|pod| is_live(pod) && pod.namespace().as_ref().is_some_and(is_injected) && !declines(pod));
    let bare: Vec<_> = concerned.filter(|pod| !has_sidecar(pod)).map(title).collect();
    match bare.is_empty() {
        true => Finding::ok("every pod of a labelled namespace has its sidecar"),
        false => Finding::warning(format!("{} have no sidecar", some(&bare)), RESTART),
    }
}

pub(super) fn sidecar_versions(seen: &Cluster) -> Finding {
    let pods = match &seen.pods {
        Ok(pods) => pods,
        Err(why) => return unread("the list of pods", why),
    };
    let other = pods.iter().filter(|pod| is_live(pod)).filter_map(|pod| {
        let marker = Marker::parse(pod.annotations().get(INJECTED)?);
        (marker.version() != VERSION).then(|| format!("{} ({})", title(pod), marker.version()))
    });
    let other: Vec<_> = other.collect();
    match other.is_empty() {
        true => Finding::ok(format!("every sidecar is {VERSION}")),
        false => Finding::warning(format!("other sidecars than {VERSION}: {}", some(&other)), RESTART),
    }
}

#[cfg(test)]
mod tests;
