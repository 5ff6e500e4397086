//! Which ConfigMaps are to be written or removed: pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Sources;
use crate::cluster::TRUST_BUNDLE;
use crate::inject::annotations::Map as Annotations;

/// A namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Labelled for injection.
    pub(super) enabled: bool,
    /// Being deleted: nothing new can be made in it.
    pub(super) going: bool,
    pub(super) annotations: Annotations,
}

/// A ConfigMap that has the name of one of the sources.
#[derive(Clone, Debug, Default)]
pub(super) struct Copy {
    pub(super) data: BTreeMap<String, String>,
    pub(super) uid: Option<String>,
    /// It carries our labels.
    pub(super) is_ours: bool,
    /// Made because pods asked, not the namespace.
    pub(super) for_pods: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Put { namespace: String, name: String, data: BTreeMap<String, String>, for_pods: bool },
    Remove { namespace: String, name: String, uid: Option<String> },
}

pub(super) fn plan(
    own: &str,
    namespaces: &BTreeMap<String, Found>,
    asked: &BTreeSet<String>,
    copies: &BTreeMap<(String, String), Copy>,
    sources: &Sources,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for (name, data) in sources {
        // Of the trust bundle our own namespace has a copy too: it is for people, and for whoever copies it elsewhere.
        let others = namespaces.iter().filter(|(namespace, found)| *namespace != own && !found.going);
        let own_one = namespaces.get_key_value(own).filter(|(_, found)| name == TRUST_BUNDLE && !found.going);
        for (namespace, found) in others.chain(own_one) {
            let there = copies.get(&(namespace.clone(), name.clone()));
            // Somebody else's.
            if there.is_some_and(|copy| !copy.is_ours) {
                continue;
            }
            let enabled = found.enabled || namespace == own;
            let for_pods = !enabled && (asked.contains(namespace) || there.is_some_and(|copy| copy.for_pods));
            if enabled || for_pods {
                let is_right = there.is_some_and(|copy| copy.data == *data && copy.for_pods == for_pods);
                if !is_right {
                    let (namespace, name, data) = (namespace.clone(), name.clone(), data.clone());
                    actions.push(Action::Put { namespace, name, data, for_pods });
                }
            } else if let Some(copy) = there {
                let (namespace, name, uid) = (namespace.clone(), name.clone(), copy.uid.clone());
                actions.push(Action::Remove { namespace, name, uid });
            }
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::MESH;

    fn data(text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("key".to_owned(), text.to_owned())])
    }

    fn copy(text: &str) -> Copy {
        Copy { data: data(text), uid: Some("u".to_owned()), is_ours: true, for_pods: false }
    }

    fn found(enabled: bool) -> Found {
        Found { enabled, ..Found::default() }
    }

    /// For one namespace, one source, and what may be there of it.
    fn planned(found: Found, asked: bool, there: Option<Copy>) -> Vec<Action> {
        let asked = if asked { BTreeSet::from(["shop".to_owned()]) } else { BTreeSet::new() };
        let copies = there.map(|copy| (("shop".to_owned(), MESH.to_owned()), copy)).into_iter().collect();
        let sources = Sources::from([(MESH.to_owned(), data("new"))]);
        let namespaces = BTreeMap::from([
            ("shop".to_owned(), found),
            ("other".to_owned(), Found::default()),
            ("remora-system".to_owned(), Found { enabled: true, ..Found::default() }),
        ]);
        plan("remora-system", &namespaces, &asked, &copies, &sources)
    }

    fn put(for_pods: bool) -> Vec<Action> {
        vec![Action::Put { namespace: "shop".to_owned(), name: MESH.to_owned(), data: data("new"), for_pods }]
    }

    fn remove() -> Vec<Action> {
        vec![Action::Remove { namespace: "shop".to_owned(), name: MESH.to_owned(), uid: Some("u".to_owned()) }]
    }

    #[test]
    fn a_labelled_namespace_has_what_the_source_has() {
        assert_eq!(planned(found(true), false, None), put(false));
        assert_eq!(planned(found(true), false, Some(copy("old"))), put(false));
        assert_eq!(planned(found(true), false, Some(copy("new"))), []);
    }

    #[test]
    fn without_the_label_it_goes_unless_pods_asked() {
        assert_eq!(planned(found(false), false, Some(copy("new"))), remove());
        assert_eq!(planned(found(false), false, None), []);
        assert_eq!(planned(found(false), true, None), put(true));
        let for_pods = Copy { for_pods: true, ..copy("old") };
        assert_eq!(planned(found(false), false, Some(for_pods)), put(true), "another process was asked before");
    }

    #[test]
    fn what_is_not_ours_stays_and_what_is_going_is_left() {
        let theirs = Copy { is_ours: false, ..copy("theirs") };
        for enabled in [true, false] {
            assert_eq!(planned(found(enabled), false, Some(theirs.clone())), []);
        }
        assert_eq!(planned(Found { going: true, ..found(true) }, true, None), []);
    }

    #[test]
    fn the_trust_bundle_is_in_our_own_namespace_too() {
        let sources = Sources::from([(TRUST_BUNDLE.to_owned(), data("roots"))]);
        let namespaces = BTreeMap::from([("remora-system".to_owned(), Found::default())]);
        let actions = plan("remora-system", &namespaces, &BTreeSet::new(), &BTreeMap::new(), &sources);
        let [Action::Put { namespace, name, for_pods: false, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((&**namespace, &**name), ("remora-system", TRUST_BUNDLE));
    }
}
