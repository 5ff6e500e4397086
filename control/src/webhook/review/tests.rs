use http::Method;
use serde_json::json;

use super::*;

fn settings() -> Settings {
    Settings::new("example.org".parse().unwrap())
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    })
}

fn review(object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": "CREATE", "namespace": "shop",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "userInfo": {"username": "admin", "groups": ["system:authenticated"]},
            "object": object, "oldObject": null, "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
            "somethingNew": {"of": ["a", "later", "version"]},
        },
    })
}

fn response(review: &Value) -> Value {
    let parsed = Review::parse(review.to_string().as_bytes()).unwrap();
    let answer = parsed.answer(parsed.judge(Annotations::new(), &settings()));
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], review["request"]["uid"], "{answer}");
    answer["response"].clone()
}

fn apply(object: &Value, response: &Value) -> Value {
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")), "{response}");
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
    let patch: Patch = serde_json::from_slice(&patch.0).unwrap();
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    patched
}

#[test]
fn a_pod_is_injected_once() {
    let object = pod();
    let injected = apply(&object, &response(&review(&object)));
    assert_eq!(injected["spec"]["initContainers"][0]["name"], "remora-init");
    assert!(injected["metadata"]["annotations"]["remora.dev/injected"].is_string());
    let again = response(&review(&injected));
    assert_eq!((&again["allowed"], &again["patch"]), (&json!(true), &Value::Null), "{again}");
}

#[test]
fn who_opted_out_stays_as_it_is() {
    for map in ["labels", "annotations"] {
        let mut object = pod();
        object["metadata"][map]["remora.dev/inject"] = json!("false");
        let response = response(&review(&object));
        assert_eq!(response, json!({"uid": response["uid"], "allowed": true}));
    }
}

#[test]
fn a_pod_on_the_nodes_network_is_let_through_with_a_warning_unless_it_asks_itself() {
    let mut object = pod();
    object["spec"]["hostNetwork"] = json!(true);
    let by_namespace = response(&review(&object));
    assert_eq!((&by_namespace["allowed"], &by_namespace["patch"]), (&json!(true), &Value::Null));
    assert!(by_namespace["warnings"][0].as_str().unwrap().contains("spec.hostNetwork"), "{by_namespace}");

    object["metadata"]["labels"]["remora.dev/inject"] = json!("true");
    let by_itself = response(&review(&object));
    assert_eq!(by_itself["allowed"], false);
    assert!(by_itself["status"]["message"].as_str().unwrap().contains("spec.hostNetwork"), "{by_itself}");
}

#[test]
fn a_bad_annotation_is_refused_with_its_reason() {
    let mut object = pod();
    object["metadata"]["annotations"] = json!({"remora.dev/proxy-cpu-limit": "lots"});
    let response = response(&review(&object));
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(false), &Value::Null));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("remora.dev/proxy-cpu-limit") && message.contains("lots"), "{message}");
}

#[test]
fn a_pod_without_containers_is_refused_not_broken() {
    for spec in [json!({}), json!({"containers": []}), json!({"containers": 7}), json!(null)] {
        let mut object = pod();
        object["spec"] = spec.clone();
        assert_eq!(response(&review(&object))["allowed"], false, "{spec}");
    }
}

#[test]
fn what_is_no_new_pod_is_none_of_our_business() {
    let mut update = review(&pod());
    update["request"]["operation"] = json!("UPDATE");
    let mut other = review(&json!({"apiVersion": "v1", "kind": "Service"}));
    other["request"]["kind"]["kind"] = json!("Service");
    let mut sub = review(&pod());
    sub["request"]["subResource"] = json!("ephemeralcontainers");
    let mut delete = review(&Value::Null);
    delete["request"]["operation"] = json!("DELETE");
    for review in [update, other, sub, delete] {
        let response = response(&review);
        assert_eq!(response, json!({"uid": response["uid"], "allowed": true}), "{review}");
    }
}

#[test]
fn what_is_no_review_is_answered_with_400_and_why() {
    let mut beta = review(&pod());
    beta["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut empty = review(&pod());
    empty.as_object_mut().unwrap().remove("request");
    let deep = [b"{\"apiVersion\":".as_slice(), &b"[".repeat(100_000)].concat();
    let cases: [(Vec<u8>, &str); 7] = [
        (beta.to_string().into_bytes(), "admission.k8s.io/v1beta1"),
        (empty.to_string().into_bytes(), "no request"),
        (br#"{"apiVersion":"v1","kind":"Pod"}"#.to_vec(), "\"Pod\" of \"v1\""),
        (
            br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":1}}"#.to_vec(),
            "not a review",
        ),
        (b"\xff\xfe".to_vec(), "not a review"),
        (Vec::new(), "not a review"),
        (deep, "not a review"),
    ];
    for (body, reason) in cases {
        let error = Review::parse(&body).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST, "{error:?}");
        assert!(error.reason.contains(reason), "{error:?}");
    }
}

#[test]
fn three_megabytes_are_read_and_no_more() {
    let mut object = pod();
    let body = |object: &Value| review(object).to_string().into_bytes();
    object["metadata"]["annotations"] = json!({"note": "x".repeat(LARGEST_BODY - body(&object).len() - 100)});
    assert!(Review::parse(&body(&object)).is_ok());
    object["metadata"]["annotations"] = json!({"note": "x".repeat(LARGEST_BODY)});
    assert_eq!(Review::parse(&body(&object)).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[test]
fn a_review_is_posted_as_json() {
    assert_eq!(check_head(&Method::POST, Some("application/json; charset=utf-8")), Ok(()));
    let status = |method, kind| check_head(&method, kind).unwrap_err().status;
    for method in [Method::GET, Method::PUT, Method::HEAD] {
        assert_eq!(status(method, Some("application/json")), StatusCode::METHOD_NOT_ALLOWED);
    }
    for kind in [None, Some("text/plain"), Some("application/jsonx"), Some("")] {
        assert_eq!(status(Method::POST, kind), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind:?}");
    }
}
