//! What is left when the control plane is taken away; `tests/cluster/test.sh` runs this when the other tests are done.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cluster::Cluster;

#[test]
fn nothing_is_left_of_the_control_plane() {
    // Not with the others: they need what this takes away.
    let (Some(folder), Some(_)) =
        (std::env::var_os("REMORA_CLUSTER_NODE"), std::env::var_os("REMORA_CLUSTER_UNINSTALL"))
    else {
        println!("SKIPPED: it ends the cluster's use (tests/cluster/test.sh runs it last)");
        return;
    };
    let cluster = Cluster::found(Path::new(&folder));
    let said = cluster.remora(&["uninstall"]);
    for part in ["MutatingWebhookConfiguration remora-injector removed", "Namespace remora-system gone"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The copies in the namespaces that are still there went too.
    for name in ["remora-mesh", "remora-trust-bundle"] {
        let left = cluster.kubectl(&[
            "get",
            "configmaps",
            "-A",
            "--field-selector",
            &format!("metadata.name={name}"),
            "-o",
            "name",
        ]);
        assert_eq!(left, "", "copies of {name}");
    }
    cluster.delete_namespaces();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let before = lines(&std::fs::read_to_string(cluster.before()).unwrap());
    let mut left = BTreeSet::new();
    cluster.await_that("what was there before, and nothing else", || {
        left = lines(&cluster.everything()).difference(&before).cloned().collect();
        println!("{left:?}");
        left.is_empty().then_some(())
    });
    // A second time there is nothing to be done, and that is no mistake.
    cluster.remora(&["uninstall"]);
    std::fs::remove_file(cluster.before()).unwrap();
}
