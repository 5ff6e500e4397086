//! What travels between the pods, and what does not.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use remora_test::process::Process;
use serde_json::{Value, json};

use crate::shop::{address, curl, shop};

#[test]
fn pods_become_ready_with_native_sidecars() {
    let Some(shop) = shop() else { return };
    for (app, replicas) in [("storefront", 1), ("catalog", 3), ("pricing", 1)] {
        let pods = shop.cluster.pods("shop", app);
        assert_eq!(pods.len(), replicas, "{app}");
        for pod in pods {
            let status = &pod["status"];
            let init: Vec<_> = status["initContainerStatuses"].as_array().unwrap().iter().collect();
            assert_eq!(init[0]["state"]["terminated"]["exitCode"], 0, "{app}: remora-init ended well: {status}");
            assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always", "{app}: a native sidecar");
            assert!(init[1]["started"] == true && init[1]["ready"] == true, "{app}: the sidecar runs: {status}");
            assert_eq!(init[1]["restartCount"], 0, "{app}: the sidecar ran at once");
            assert_eq!(status["containerStatuses"][0]["ready"], true, "{app}: the application is ready");
        }
    }
}

#[test]
fn traffic_is_intercepted_both_ways() {
    let Some(shop) = shop() else { return };
    let storefront = shop.cluster.pod("shop", "storefront");
    let count = |direction: &str| {
        shop.metric(&storefront, "remora_requests_total", &[&format!("direction=\"{direction}\""), "code=\"200\""])
    };
    let before = (count("inbound"), count("outbound"));
    let answer = shop.ask("/products", &[]);
    assert_eq!(answer["products"].as_array().unwrap().len(), 3, "{answer}");
    shop.cluster.await_that("one request in, two out, all seen by the storefront's sidecar", || {
        (count("inbound") - before.0 >= 1.0 && count("outbound") - before.1 >= 2.0).then_some(())
    });
    for callee in ["pricing", "catalog"] {
        let labels = ["direction=\"inbound\"", "code=\"200\""];
        let pods = shop.cluster.pods("shop", callee);
        let seen: f64 = pods.iter().map(|pod| shop.metric(pod, "remora_requests_total", &labels)).sum();
        assert!(seen >= 1.0, "{callee}'s sidecars saw nothing come in");
    }
}

#[test]
fn the_wire_between_pods_is_tls() {
    let Some(shop) = shop() else { return };
    let pricing = address(&shop.cluster.pod("shop", "pricing"));
    let capture = std::env::temp_dir().join(format!("remora-cluster-{}.pcap", std::process::id()));
    let file = capture.to_str().unwrap();
    let dump = [
        "tcpdump", "-i", "cni0", "-U", "-s", "0", "-w", file, "tcp", "and", "(", "host", &pricing, "or", "port",
        "50051", ")",
    ];
    let mut tcpdump = Process::start("tcpdump", &capture, &mut shop.cluster.on_node(&dump));
    let _ = tcpdump.said("listening on");
    // The customer's note goes to both services and comes back from both: it crosses the wire four times.
    let order = json!({"product": "teapot", "note": "for-your-eyes-only"}).to_string();
    let read = |needle: &[u8]| {
        let bytes = std::fs::read(&capture).unwrap();
        bytes.windows(needle.len()).filter(|window| *window == needle).count()
    };
    // Application data of TLS 1.3, and enough of it.
    shop.cluster.await_that("TLS records in the capture", || {
        let answer = shop.ask("/orders", &["-H", "content-type: application/json", "-d", &order]);
        assert_eq!(
            (&answer["catalog_note"], &answer["pricing_note"]),
            (&json!("for-your-eyes-only"), &json!("for-your-eyes-only"))
        );
        (read(b"\x17\x03\x03") >= 8).then_some(())
    });
    tcpdump.signal(Signal::SIGTERM);
    let _ = tcpdump.wait();
    let plain = read(b"for-your-eyes-only");
    let _ = std::fs::remove_file(&capture);
    assert_eq!(plain, 0, "the note crossed the wire in plaintext");
}

#[test]
fn grpc_is_balanced_over_three_replicas() {
    let Some(shop) = shop() else { return };
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..60 {
        let replica = shop.ask("/products", &[])["replica"].as_str().unwrap().to_owned();
        *answers.entry(replica).or_default() += 1;
    }
    assert_eq!(answers.len(), 3, "one HTTP/2 connection of the application, three replicas: {answers:?}");
    assert!(answers.values().all(|count| *count >= 10), "{answers:?}");
}

#[test]
fn one_request_is_one_trace() {
    let Some(shop) = shop() else { return };
    let id = format!("{:032x}", u128::from(std::process::id()) << 64 | 0x7ace);
    shop.ask("/products", &["-H", &format!("traceparent: 00-{id}-00f067aa0ba902b7-01")]);
    let collector = address(&shop.cluster.pod("observe", "traces"));
    let trace = shop.cluster.await_that("seven spans of one trace", || {
        let said = curl(&["-sS", &format!("http://{collector}:16686/api/traces/{id}")]).stdout;
        let trace = serde_json::from_slice::<Value>(&said).ok()?["data"][0].clone();
        (trace["spans"].as_array()?.len() >= 7).then_some(trace)
    });
    let spans = trace["spans"].as_array().unwrap();
    let service = |span: &Value| {
        trace["processes"][span["processID"].as_str().unwrap()]["serviceName"].as_str().unwrap().to_owned()
    };
    let mut services: Vec<_> = spans.iter().map(service).collect();
    services.sort();
    // The door's span and its attempt may be one or two; of each sidecar: what came in, and what went out.
    for name in ["gateway", "storefront", "catalog", "pricing"] {
        assert!(services.iter().any(|service| service == name), "no span of {name}: {services:?}");
    }
    let ids: Vec<_> = spans.iter().map(|span| span["spanID"].as_str().unwrap()).collect();
    for span in spans {
        let parent = span["references"][0]["spanID"].as_str().unwrap_or_default();
        assert!(parent == "00f067aa0ba902b7" || ids.contains(&parent), "{span} hangs on nothing");
    }
}

#[test]
fn strict_mode_refuses_a_pod_without_a_sidecar() {
    let Some(shop) = shop() else { return };
    let stranger = shop.cluster.pod("plain", "stranger");
    let url = "http://pricing.shop.svc.cluster.local:8080/prices";
    let dns = shop.cluster.object(&["service", "-n", "kube-system", "kube-dns"])["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .to_owned();
    let service =
        shop.cluster.object(&["service", "-n", "shop", "pricing"])["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert_ne!(dns, service);
    let resolve = format!("pricing.shop.svc.cluster.local:8080:{service}");
    let ask = ["curl", "-sS", "--max-time", "20", "--resolve", &resolve, url];
    let refused = shop.cluster.in_pod(&stranger, "stranger", &ask);
    assert!(!refused.status.success(), "a stranger was served: {}", String::from_utf8_lossy(&refused.stdout));
    assert!(refused.stdout.is_empty(), "{refused:?}");
    // The same request from beside a sidecar is served: it is the missing identity that is refused.
    let storefront = shop.cluster.pod("shop", "storefront");
    let served = shop.cluster.in_pod(&storefront, "storefront", &ask);
    assert!(String::from_utf8_lossy(&served.stdout).contains("teapot"), "{served:?}");
}

#[test]
fn an_excluded_port_stays_untouched() {
    let Some(shop) = shop() else { return };
    let container = json!({
        "name": "echo", "image": "localhost/remora/shop:0.1.0", "args": ["echo", "--listen", "0.0.0.0:9000", "--name", "untouched"],
    });
    let mut object = crate::shop::deployment("untouched", &json!({"containers": [container]}));
    object["spec"]["template"]["metadata"]["annotations"] = json!({"remora.dev/exclude-inbound-ports": "9000"});
    shop.cluster.apply("shop", &object);
    shop.cluster.await_rollout("shop", "untouched");
    let pod = shop.cluster.pod("shop", "untouched");
    let url = format!("http://{}:9000/", address(&pod));
    // The application may still be starting: its Deployment has no probe.
    let said = shop.cluster.await_that("the excluded port answers", || {
        let answer = curl(&["-sS", &url]);
        answer.status.success().then(|| String::from_utf8(answer.stdout).unwrap())
    });
    assert!(said.contains("untouched"), "{said}");
    assert_eq!(shop.metric(&pod, "remora_requests_total", &["direction=\"inbound\""]), 0.0, "the sidecar saw it");
    shop.cluster.kubectl(&["-n", "shop", "delete", "deployment", "untouched", "--wait=false"]);
}

#[test]
fn the_kubelets_probes_say_what_the_application_says() {
    let Some(shop) = shop() else { return };
    // The sidecars are strict and all of these are ready, by HTTP and by TCP: asked by way of the proxy.
    for app in ["pricing", "storefront", "catalog"] {
        let spec = &shop.cluster.pods("shop", app)[0]["spec"]["containers"][0];
        let probe = &spec["readinessProbe"]["httpGet"];
        assert_eq!((&probe["path"], &probe["port"]), (&json!(format!("/app-health/{app}/readyz")), &json!(15020)));
    }
    // An application that says no is not ready, and the kubelet hears its own answer.
    let container = json!({
        "name": "no", "image": "localhost/remora/shop:0.1.0", "args": ["pricing", "--listen", "0.0.0.0:8080"],
        "readinessProbe": {"httpGet": {"path": "/nothing-here", "port": 8080}, "periodSeconds": 1},
    });
    shop.cluster.apply("shop", &crate::shop::deployment("no", &json!({"containers": [container]})));
    let told = shop.cluster.await_that("the kubelet's event", || {
        let events = shop.cluster.object(&["events", "-n", "shop", "--field-selector", "reason=Unhealthy"]);
        let events = events["items"].as_array()?.clone();
        let ours = |event: &&Value| {
            let of = event["involvedObject"]["name"].as_str().is_some_and(|name| name.starts_with("no-"));
            of && event["involvedObject"]["fieldPath"] == "spec.containers{no}"
        };
        let messages = events.iter().filter(ours).filter_map(|event| event["message"].as_str());
        messages.map(str::to_owned).find(|message| message.contains("404"))
    });
    assert!(told.contains("Readiness probe failed"), "{told}");
    let pod = shop.cluster.pod("shop", "no");
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], false);
    assert_eq!(pod["status"]["initContainerStatuses"][1]["ready"], true, "the sidecar is");
    shop.cluster.kubectl(&["-n", "shop", "delete", "deployment", "no", "--wait=false"]);
}
