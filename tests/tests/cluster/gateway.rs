//! The proxy's image alone is a gateway.

use remora_test::netns::run;

use crate::shop::{curl, shop};

#[test]
fn the_proxys_image_alone_is_a_gateway() {
    let Some(shop) = shop() else { return };
    // Its configuration named by a flag, and by a variable.
    for name in ["gateway", "gateway-by-variable"] {
        let answer = curl(&["-sS", "--fail", &format!("http://{}:8080/products", shop.door(name))]);
        assert!(String::from_utf8_lossy(&answer.stdout).contains("teapot"), "{name}: {answer:?}");
    }
}

#[test]
fn the_proxys_image_runs_as_its_own_user_without_capabilities() {
    let Some(shop) = shop() else { return };
    let process = shop.cluster.process(&shop.cluster.pod("shop", "gateway"), "remora-proxy");
    let status = run(&mut shop.cluster.on_node(&["cat", &format!("/proc/{process}/status")])).unwrap().stdout;
    let status = String::from_utf8(status).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!(field("Uid:").split_whitespace().collect::<Vec<_>>(), ["1337"; 4]);
    assert_eq!(field("Gid:").split_whitespace().collect::<Vec<_>>(), ["1337"; 4]);
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
}

#[test]
fn a_gateway_told_to_go_ends_well() {
    let Some(shop) = shop() else { return };
    let pod = shop.cluster.pod("shop", "gateway-by-variable");
    let before = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap();
    let process = shop.cluster.process(&pod, "remora-proxy");
    run(&mut shop.cluster.on_node(&["kill", "-TERM", &process])).unwrap();
    let ended = shop.cluster.await_that("its restart after SIGTERM", || {
        let status = shop.cluster.pod("shop", "gateway-by-variable")["status"]["containerStatuses"][0].clone();
        (status["restartCount"] == before + 1 && status["ready"] == true).then_some(status)
    });
    let last = &ended["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&0.into(), &"Completed".into()), "{ended}");
}
