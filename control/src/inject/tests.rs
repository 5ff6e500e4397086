use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    Settings::new("cluster.local".parse().unwrap())
}

fn patched(pod: &Value, patch: &Patch) -> Value {
    let mut result = pod.clone();
    json_patch::patch(&mut result, patch).unwrap();
    result
}

fn app(annotations: Value) -> Value {
    json!({
        "metadata": {"name": "app", "annotations": annotations},
        "spec": {"containers": [{
            "name": "app",
            "image": "app:1",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTPS",
                "httpHeaders": [{"name": "X", "value": "$(HOME)"}]}, "periodSeconds": 3},
            "livenessProbe": {"tcpSocket": {"port": "http"}},
            "startupProbe": {"grpc": {"port": 9000, "service": "s"}, "timeoutSeconds": 2},
            "lifecycle": {"preStop": {"httpGet": {"port": 8080}}, "postStart": {"exec": {"command": ["true"]}}},
        }]},
    })
}

#[test]
fn injecting_twice_is_once_and_taking_out_gives_the_pod_back() {
    for native in [true, false] {
        let mut settings = settings();
        settings.defaults.native_sidecar = native;
        let mut pods =
            vec![app(json!({})), app(json!(null)), app(json!({"kubectl.kubernetes.io/default-container": "app"}))];
        let mut bare = app(json!({}));
        bare["metadata"] = json!(null);
        bare["spec"]["volumes"] = json!([]);
        bare["spec"]["initContainers"] = json!([{"name": "migrate"}]);
        pods.push(bare);
        for pod in pods {
            let injected = patched(&pod, &inject(&PodContext::new(&pod), &settings).unwrap());
            assert_ne!(injected, pod);
            let again = inject(&PodContext::new(&injected), &settings).unwrap();
            assert!(again.0.is_empty(), "injecting twice: {again}");
            assert_eq!(patched(&injected, &uninject(&injected)), pod);

            let mut older = settings.clone();
            older.version = "0.0.9".to_owned();
            older.defaults.native_sidecar = !native;
            let old = patched(&pod, &inject(&PodContext::new(&pod), &older).unwrap());
            let updated = patched(&old, &inject(&PodContext::new(&old), &settings).unwrap());
            assert_eq!(updated, injected);
        }
    }
}

#[test]
fn probes_go_by_way_of_the_proxy() {
    let pod = app(json!({}));
    let injected = patched(&pod, &inject(&PodContext::new(&pod), &settings()).unwrap());
    let container = &injected["spec"]["containers"][0];
    assert_eq!(
        container["readinessProbe"],
        json!({"httpGet": {"path": "/app-health/app/readyz", "port": 15020, "scheme": "HTTP",
            "httpHeaders": [{"name": "X", "value": "$(HOME)"}]}, "periodSeconds": 3})
    );
    assert_eq!(container["livenessProbe"], json!({"httpGet": {"path": "/app-health/app/livez", "port": 15020}}));
    let env = injected["spec"]["initContainers"][1]["env"].as_array().unwrap();
    let variable = env.iter().find(|variable| variable["name"] == "REMORA_PROBES").unwrap();
    let text = variable["value"].as_str().unwrap();
    assert!(text.contains("$$(HOME)"), "the kubelet would expand {text}");
    let told: Value = serde_json::from_str(&text.replace("$$", "$")).unwrap();
    assert_eq!(
        told,
        json!({
            "/app-health/app/readyz": {"httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTPS",
                "httpHeaders": [{"name": "X", "value": "$(HOME)"}]}, "portName": "http"},
            "/app-health/app/livez": {"tcpSocket": {"port": 8080}, "portName": "http"},
            "/app-health/app/startupz": {"grpc": {"port": 9000, "service": "s"}, "timeoutSeconds": 2},
            "/app-health/app/prestopz": {"httpGet": {"path": "/", "port": 8080}, "withoutPath": true},
        })
    );
}

#[test]
fn the_proxy_tells_what_init_was_told_whoever_said_so() {
    let pod = app(json!({"remora.dev/exclude-outbound-ports": "5432"}));
    let mut settings = settings();
    let plain = app(json!({}));
    let plain = patched(&plain, &inject(&PodContext::new(&plain), &settings).unwrap());
    assert!(!plain.to_string().contains("REMORA_REDIRECTION"), "the defaults need no telling");
    settings.defaults.exclude_interfaces = vec!["tun0".parse().unwrap()];
    let namespace = [("remora.dev/exclude-inbound-ports".to_owned(), "9090,9100-9110".to_owned())].into();
    let context = PodContext { namespace_annotations: namespace, ..PodContext::new(&pod) };
    let containers = patched(&pod, &inject(&context, &settings).unwrap())["spec"]["initContainers"].clone();
    let told: Vec<&str> = containers[0]["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for part in ["--exclude-inbound-ports=9090,9100-9110", "--exclude-outbound-ports=5432", "--exclude-interfaces=tun0"]
    {
        assert!(told.contains(&part), "{part}: {told:?}");
    }
    let env = containers[1]["env"].as_array().unwrap();
    let variable = env.iter().find(|variable| variable["name"] == "REMORA_REDIRECTION").unwrap();
    assert_eq!(variable["value"], told.join(" "));
}

#[test]
fn edits_made_since_survive() {
    let pod = app(json!({}));
    let mut injected = patched(&pod, &inject(&PodContext::new(&pod), &settings()).unwrap());
    injected["spec"]["containers"][0]["image"] = json!("app:2");
    injected["spec"]["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["alive"]}});
    injected["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "mine", "emptyDir": {}}));
    injected["metadata"]["annotations"]["team"] = json!("a");
    let out = patched(&injected, &uninject(&injected));
    let mut expected = pod;
    expected["spec"]["containers"][0]["image"] = json!("app:2");
    expected["spec"]["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["alive"]}});
    expected["spec"]["volumes"] = json!([{"name": "mine", "emptyDir": {}}]);
    expected["metadata"]["annotations"] = json!({"team": "a"});
    assert_eq!(out, expected);
}

#[test]
fn every_reason_is_told_at_once() {
    let mut pod =
        app(json!({"remora.dev/mtls": "loose", "remora.dev/log-levle": "info", "remora.dev/proxy-uid": "70"}));
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["securityContext"] = json!({"runAsUser": 70});
    pod["spec"]["volumes"] = json!([{"name": "remora-token"}]);
    pod["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 15020}, {"containerPort": 15001, "protocol": "UDP"}]);
    pod["spec"]["initContainers"] = json!([{"name": "remora-init"}, {"name": "istio-proxy"}]);
    let told = inject(&PodContext::new(&pod), &settings()).unwrap_err();
    let paths: Vec<&str> = told.iter().map(|refusal| refusal.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "metadata.annotations[\"remora.dev/log-levle\"]",
            "metadata.annotations[\"remora.dev/mtls\"]",
            "spec.hostNetwork",
            "spec.securityContext.runAsUser",
            "spec.initContainers[0].name",
            "spec.initContainers[1].name",
            "spec.volumes[0].name",
            "spec.containers[0].ports[0].containerPort",
        ]
    );
    assert!(told[0].reason.contains("did you mean \"remora.dev/log-level\""), "{}", told[0]);
}

#[test]
fn a_pod_that_says_no_is_left_alone_and_a_job_needs_to_be_seen_ending() {
    let pod = app(json!({"remora.dev/inject": "false", "remora.dev/nonsense": "x"}));
    assert_eq!(inject(&PodContext::new(&pod), &settings()).unwrap(), Patch::default());
    let mut pod = app(json!({"remora.dev/native-sidecar": "false"}));
    pod["spec"]["restartPolicy"] = json!("Never");
    let told = inject(&PodContext::new(&pod), &settings()).unwrap_err();
    assert_eq!(told[0].path, "spec.shareProcessNamespace");
    pod["spec"]["shareProcessNamespace"] = json!(true);
    let injected = patched(&pod, &inject(&PodContext::new(&pod), &settings()).unwrap());
    let env = injected["spec"]["containers"][0]["env"].to_string();
    assert!(env.contains("REMORA_EXIT_WITH_APPLICATION"), "{env}");
}

#[test]
fn an_openshift_namespace_chooses_the_uid() {
    let mut pod = app(json!({}));
    pod["spec"]["securityContext"] = json!({"runAsUser": 1000620001});
    let mut context = PodContext::new(&pod);
    context.namespace_annotations = [
        ("openshift.io/sa.scc.uid-range", "1000620000/10000"),
        ("openshift.io/sa.scc.supplemental-groups", "1000620000/10000"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let injected = patched(&pod, &inject(&context, &settings()).unwrap());
    let containers = &injected["spec"]["initContainers"];
    assert_eq!(containers[1]["securityContext"]["runAsUser"], 1000620002);
    assert_eq!(containers[0]["args"], json!(["--proxy-uid=1000620002", "--proxy-gid=1000620001"]));
}
