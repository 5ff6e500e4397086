//! `remora check pod` inside a real pod, by the command that stands in docs/check.md.

use serde_json::json;

use crate::control::commands;
use crate::shop::{Shop, deployment, shop};

/// What was found: the exit code, and each line's result and text, by the name of its check.
struct Found {
    code: i64,
    lines: Vec<(String, String, String)>,
}

impl Found {
    /// The lines that are not ok.
    fn unwell(&self) -> Vec<(&str, &str)> {
        let unwell = self.lines.iter().filter(|(result, ..)| result != "ok");
        unwell.map(|(result, check, _)| (result.as_str(), check.as_str())).collect()
    }

    fn says(&self, check: &str) -> &str {
        &self.lines.iter().find(|(_, name, _)| name == check).unwrap_or_else(|| panic!("no line {check}")).2
    }
}

/// Runs the document's command, and takes the whole answer from the log: whoever attaches may come late.
fn check(shop: &Shop, pod: &str) -> Found {
    let script = commands("check.md", "kubectl -n shop debug").replace("web-0", pod);
    let output = shop.cluster.shell(&shop.cluster.folder("check"), &script);
    assert!(output.status.success(), "{output:?}");
    let (name, code) = shop.cluster.await_that("the check's end", || {
        let pod = shop.cluster.object(&["pod", "-n", "shop", pod]);
        let name = pod["spec"]["ephemeralContainers"].as_array()?.last()?["name"].clone();
        let statuses = pod["status"]["ephemeralContainerStatuses"].as_array()?;
        let status = statuses.iter().find(|status| status["name"] == name)?;
        Some((name.as_str()?.to_owned(), status["state"]["terminated"]["exitCode"].as_i64()?))
    });
    let log = shop.cluster.kubectl(&["-n", "shop", "logs", pod, "-c", &name]);
    println!("{log}");
    let line = |line: &str| {
        let (result, rest) = line.split_once(' ')?;
        let (check, says) = rest.trim_start().split_once(' ')?;
        Some((result.to_owned(), check.to_owned(), says.trim_start().to_owned()))
    };
    Found { code, lines: log.lines().map(|text| line(text).unwrap_or_else(|| panic!("{text}"))).collect() }
}

#[test]
fn a_pod_is_looked_at_from_inside() {
    let Some(shop) = shop() else { return };
    let container = json!({
        "name": "checked", "image": "localhost/remora/shop:0.1.0", "args": ["echo", "--listen", "0.0.0.0:8080", "--name", "checked"],
    });
    shop.cluster.apply("shop", &deployment("checked", &json!({"containers": [container]})));
    shop.cluster.await_rollout("shop", "checked");
    let pod = shop.cluster.pod("shop", "checked");
    let name = pod["metadata"]["name"].as_str().unwrap();

    // Rules cannot be read there, as the document says: so a connection is tried.
    let well = check(&shop, name);
    assert_eq!((well.unwell(), well.code), (vec![("warning", "redirection")], 0));
    assert!(well.says("redirection").contains("was answered by the proxy"), "{}", well.says("redirection"));
    assert_eq!(well.lines.len(), 9);
    assert!(
        well.says("identity").starts_with("spiffe://cluster.local/ns/shop/sa/default"),
        "{}",
        well.says("identity")
    );

    let init = remora_test::binaries::binary("remora-init");
    let cleaned = shop.cluster.in_pod(&pod, "checked", &[init.to_str().unwrap(), "cleanup"]);
    assert!(cleaned.status.success(), "{cleaned:?}");
    let escaped = check(&shop, name);
    assert_eq!((escaped.unwell(), escaped.code), (vec![("failure", "redirection")], 1));
    shop.cluster.kubectl(&["-n", "shop", "delete", "deployment", "checked", "--wait=false"]);
}
