//! The ids the proxy runs under: 1337, what an annotation says, or what an OpenShift namespace allows.

use std::collections::BTreeSet;

use remora_model::capture::PROXY_ID;
use serde_json::Value;

use super::annotations::Map;
use super::checks::every;
use super::containers::Ids;
use super::refusal::Refusal;
use super::settings::Options;
use super::values::quoted;

/// The range of uids that OpenShift gives a namespace: `FIRST/COUNT` or `FIRST-LAST`.
const UID_RANGE: &str = "openshift.io/sa.scc.uid-range";
/// The same for groups, of which there may be several.
const GROUPS: &str = "openshift.io/sa.scc.supplemental-groups";

/// The proxy's ids in the bare pod `pod`.
pub(crate) fn ids(pod: &Value, namespace: &Map, options: &Options, refusals: &mut Vec<Refusal>) -> Ids {
    if options.tproxy {
        return Ids { uid: 0, gid: PROXY_ID };
    }
    if let Some(uid) = options.proxy_uid {
        return Ids { uid, gid: uid };
    }
    let mut from = |name: &str, field: &str| {
        let text = namespace.get(name)?;
        let first = text.split(',').next().unwrap_or_default();
        let chosen = range(first).and_then(|range| free(range, &taken(pod, field)));
        if chosen.is_none() {
            let path = format!("namespace metadata.annotations[{}]", quoted(name));
            refusals.push(Refusal::new(path, format!("{} leaves no id for the proxy", quoted(text))));
        }
        chosen
    };
    let uid = from(UID_RANGE, "runAsUser");
    let gid = uid.and(from(GROUPS, "runAsGroup")).or(uid);
    Ids { uid: uid.unwrap_or(PROXY_ID), gid: gid.unwrap_or(PROXY_ID) }
}

fn range(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    if let Some((first, count)) = text.split_once('/') {
        let first = number(first)?;
        return Some((first, first.checked_add(number(count)?)?));
    }
    let (first, last) = text.split_once('-')?;
    Some((number(first)?, number(last)?.checked_add(1)?))
}

/// The first is what OpenShift gives the application; the next that nobody in the pod has is the proxy's.
fn free((first, end): (u32, u32), taken: &BTreeSet<u64>) -> Option<u32> {
    // One more than there can be collisions: a range of millions is not walked.
    (first.checked_add(1)?..end).take(taken.len() + 1).find(|id| !taken.contains(&u64::from(*id)))
}

fn taken(pod: &Value, field: &str) -> BTreeSet<u64> {
    let containers = every(pod).filter_map(|(_, container)| container.get("securityContext")?.get(field)?.as_u64());
    containers.chain(pod.pointer(&format!("/spec/securityContext/{field}")).and_then(Value::as_u64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_both_forms() {
        assert_eq!(range("1000620000/10000"), Some((1_000_620_000, 1_000_630_000)));
        assert_eq!(range("1000-1999"), Some((1000, 2000)));
        for text in ["", "x/1", "1/", "4294967295/10", "5"] {
            assert_eq!(range(text), None, "{text}");
        }
        assert_eq!(free((10, 20), &BTreeSet::from([11, 12])), Some(13));
        assert_eq!(free((10, 11), &BTreeSet::new()), None);
    }
}
