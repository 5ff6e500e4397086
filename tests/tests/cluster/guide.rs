//! The guide's commands, as they stand in docs/inject.md.

use std::path::Path;

use crate::shop::{address, curl, shop};

const APPLICATION: &str = r"apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: localhost/remora/shop:0.1.0
          args: [echo, --listen, '0.0.0.0:8080', --name, web]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
";

/// The commands of a document's blocks in shell's language.
pub(crate) fn blocks(document: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    text.split("```sh\n").skip(1).map(|block| block[..block.find("```").unwrap()].to_owned()).collect()
}

#[test]
fn the_guide_puts_a_sidecar_beside_an_application() {
    let Some(shop) = shop() else { return };
    let folder = shop.cluster.folder("guide");
    std::fs::write(folder.join("web.yaml"), APPLICATION).unwrap();
    let configured = |name: &str, key: &str| {
        let map = shop.cluster.object(&["configmap", "-n", "remora-system", name]);
        map["data"][key].as_str().unwrap().to_owned()
    };
    std::fs::write(folder.join("mesh.yaml"), configured("remora-mesh", "mesh.yaml")).unwrap();
    std::fs::write(folder.join("bundle.pem"), configured("remora-trust-bundle", "bundle.pem")).unwrap();
    let blocks = blocks("inject.md");
    assert_eq!(blocks.len(), 2, "with the control plane, and by hand");
    for (block, namespace) in blocks.iter().zip(["web", "by-hand"]) {
        let output = shop.cluster.shell(&folder, block);
        assert!(output.status.success(), "{block}{output:?}");
        let pod = shop.cluster.pod(namespace, "web");
        assert_eq!(pod["status"]["initContainerStatuses"][1]["name"], "remora-proxy");
        assert_eq!(pod["status"]["initContainerStatuses"][1]["ready"], true, "{namespace}: it has its certificate");
        let plain = curl(&["-sS", &format!("http://{}:8080/", address(&pod))]);
        assert!(!plain.status.success(), "{namespace}: strict, as the mesh's configuration says");
        shop.cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"]);
    }
}
