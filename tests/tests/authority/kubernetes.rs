//! Against a real Kubernetes API server: TokenReview, and the keys of its service-account issuer.

use std::path::{Path, PathBuf};
use std::process::Command;

use remora_test::authority::{Authority, with_ca};
use remora_test::mesh::Folder;
use remora_test::netns::run;
use serde_json::{Value, json};

use crate::ask::{ask, csr, verified};

/// A control plane of its own; it ends when this is dropped.
struct Cluster {
    folder: Folder,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts one; none where its binaries are not at hand.
    fn start() -> Option<Self> {
        let folder = Folder::new();
        let output = Command::new(tool("run.sh")).arg("api").arg(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(3) && std::env::var_os("REMORA_CLUSTER").is_none() {
            println!("SKIPPED: {}", said.trim());
            return None;
        }
        assert!(output.status.success(), "{said}");
        let kubeconfig = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Some(Self { folder, kubeconfig })
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let bin = run(Command::new(tool("build.sh")).args(["api", "--cached"])).unwrap().stdout;
        let kubectl = Path::new(String::from_utf8(bin).unwrap().trim()).join("kubectl");
        let output = run(Command::new(kubectl).arg("--kubeconfig").arg(&self.kubeconfig).args(arguments)).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn token(&self, audience: &str) -> String {
        let arguments = ["-n", "shop", "create", "token", "cart", "--audience", audience, "--duration", "1h"];
        self.kubectl(&arguments).trim().to_owned()
    }

    /// A namespace with a service account in it.
    fn account(&self) {
        self.kubectl(&["create", "namespace", "shop"]);
        self.kubectl(&["-n", "shop", "create", "serviceaccount", "cart"]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new(tool("run.sh")).arg("down").arg(self.folder.path()).status();
    }
}

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name)
}

#[test]
fn the_api_server_judges_service_account_tokens() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.account();
    let (folder, ca) = with_ca();
    let kubeconfig = cluster.kubeconfig.to_str().unwrap();
    let authority = Authority::start(folder.path(), &ca, &["--kubernetes", "--kubeconfig", kubeconfig]);
    let request = csr(folder.path());
    let ask = |token: &str| ask(&authority, &ca.join("bundle.pem"), &request, Some(token), &json!({}));

    let good = cluster.token("remora-ca");
    let said = verified(folder.path(), &ask(&good));
    assert!(said.contains("URI:spiffe://example.org/ns/shop/sa/cart\n"), "{said}");
    let audit = authority.audit().pop().unwrap();
    assert_eq!(audit["proof"], "token_review");
    assert_eq!(audit["subject"], "system:serviceaccount:shop:cart");

    let other = ask(&cluster.token("somebody-else"));
    assert_eq!(other.code, "UNAUTHENTICATED", "{other:?}");
    assert!(other.details.starts_with("wrong_audience"), "{other:?}");
    let (head, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(ask(&forged).code, "UNAUTHENTICATED");

    // The server knows what a signature alone does not tell: the account is gone.
    cluster.kubectl(&["-n", "shop", "delete", "serviceaccount", "cart"]);
    let gone = remora_test::eventually("the API server forgets the account", || {
        let answer = ask(&good);
        (answer.code != "OK").then_some(answer)
    });
    assert_eq!(gone.code, "UNAUTHENTICATED", "{gone:?}");

    // Without the server nobody is refused for good: callers come again.
    let _ = Command::new(tool("run.sh")).arg("down").arg(cluster.folder.path()).status().unwrap();
    let down = ask(&good);
    assert_eq!(down.code, "UNAVAILABLE", "{down:?}");
    assert!(down.details.starts_with("reviewer_unavailable"), "{down:?}");
    let log = authority.process.stderr();
    assert!(!log.contains(good.split('.').nth(1).unwrap()), "a token is in the log");
}

#[test]
fn the_issuers_keys_judge_service_account_tokens_without_the_api_server() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.account();
    // What is public by nature is public here: the keys are fetched without credentials.
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "discovery",
        "--clusterrole=system:service-account-issuer-discovery",
        "--group=system:unauthenticated",
    ]);
    let config: Value = serde_json::from_str(&std::fs::read_to_string(&cluster.kubeconfig).unwrap()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let (folder, ca) = with_ca();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"])).unwrap();
    let url = format!("{server}/openid/v1/jwks");
    let authority_of_cluster = cluster.folder.path().join("pki/ca.crt");
    let by_url = [&*url, "--oidc-jwks-ca", authority_of_cluster.to_str().unwrap()];
    for jwks in [&[file.to_str().unwrap()][..], &by_url[..]] {
        let issuer = ["--oidc-issuer", "https://kubernetes.default.svc", "--oidc-jwks"];
        let authority = Authority::start(folder.path(), &ca, &[&issuer, jwks].concat());
        let request = csr(folder.path());
        let ask = |token: &str| ask(&authority, &ca.join("bundle.pem"), &request, Some(token), &json!({}));
        let said = verified(folder.path(), &ask(&cluster.token("remora-ca")));
        assert!(said.contains("URI:spiffe://example.org/ns/shop/sa/cart\n"), "{said}");
        let other = ask(&cluster.token("somebody-else"));
        assert!(other.details.starts_with("wrong_audience"), "{other:?}");
    }
}
