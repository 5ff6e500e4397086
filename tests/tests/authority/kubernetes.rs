//! Against a real Kubernetes API server: TokenReview, and the keys of its service-account issuer.

use remora_test::api_server::ApiServer;
use remora_test::authority::{Authority, with_ca};
use serde_json::{Value, json};

use crate::ask::{ask, csr, verified};

fn token(cluster: &ApiServer, audience: &str) -> String {
    let arguments = ["-n", "shop", "create", "token", "cart", "--audience", audience, "--duration", "1h"];
    cluster.kubectl(&arguments).trim().to_owned()
}

/// A cluster with a namespace and a service account in it.
fn cluster() -> Option<ApiServer> {
    let cluster = ApiServer::start()?;
    cluster.kubectl(&["create", "namespace", "shop"]);
    cluster.kubectl(&["-n", "shop", "create", "serviceaccount", "cart"]);
    Some(cluster)
}

#[test]
fn the_api_server_judges_service_account_tokens() {
    let Some(cluster) = cluster() else { return };
    let (folder, ca) = with_ca();
    let kubeconfig = cluster.kubeconfig().to_str().unwrap();
    let authority = Authority::start(folder.path(), &ca, &["--kubernetes", "--kubeconfig", kubeconfig]);
    let request = csr(folder.path());
    let ask = |token: &str| ask(&authority, &ca.join("bundle.pem"), &request, Some(token), &json!({}));

    let good = token(&cluster, "remora-ca");
    let said = verified(folder.path(), &ask(&good));
    assert!(said.contains("URI:spiffe://example.org/ns/shop/sa/cart\n"), "{said}");
    let audit = authority.audit().pop().unwrap();
    assert_eq!(audit["proof"], "token_review");
    assert_eq!(audit["subject"], "system:serviceaccount:shop:cart");

    let other = ask(&token(&cluster, "somebody-else"));
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
    cluster.stop();
    let down = ask(&good);
    assert_eq!(down.code, "UNAVAILABLE", "{down:?}");
    assert!(down.details.starts_with("reviewer_unavailable"), "{down:?}");
    let log = authority.process.stderr();
    assert!(!log.contains(good.split('.').nth(1).unwrap()), "a token is in the log");
}

#[test]
fn the_issuers_keys_judge_service_account_tokens_without_the_api_server() {
    let Some(cluster) = cluster() else { return };
    // What is public by nature is public here: the keys are fetched without credentials.
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "discovery",
        "--clusterrole=system:service-account-issuer-discovery",
        "--group=system:unauthenticated",
    ]);
    let config: Value = serde_json::from_str(&std::fs::read_to_string(cluster.kubeconfig()).unwrap()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let (folder, ca) = with_ca();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"])).unwrap();
    let url = format!("{server}/openid/v1/jwks");
    let authority_of_cluster = cluster.folder().join("pki/ca.crt");
    let by_url = [&*url, "--oidc-jwks-ca", authority_of_cluster.to_str().unwrap()];
    for jwks in [&[file.to_str().unwrap()][..], &by_url[..]] {
        let issuer = ["--oidc-issuer", "https://kubernetes.default.svc", "--oidc-jwks"];
        let authority = Authority::start(folder.path(), &ca, &[&issuer, jwks].concat());
        let request = csr(folder.path());
        let ask = |token: &str| ask(&authority, &ca.join("bundle.pem"), &request, Some(token), &json!({}));
        let said = verified(folder.path(), &ask(&token(&cluster, "remora-ca")));
        assert!(said.contains("URI:spiffe://example.org/ns/shop/sa/cart\n"), "{said}");
        let other = ask(&token(&cluster, "somebody-else"));
        assert!(other.details.starts_with("wrong_audience"), "{other:?}");
    }
}
