use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use remora_certs::ca::{CaDirectory, Lifetimes};

use super::*;
use crate::check::Verdict;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A cluster in which there is nothing but an API server.
fn empty() -> Cluster {
    Cluster {
        server: Ok(serde_json::from_value(serde_json::json!({
            "major": "1", "minor": "29+", "gitVersion": "v1.29.0", "buildDate": "", "compiler": "", "gitCommit": "",
            "gitTreeState": "", "goVersion": "", "platform": ""
        }))
        .unwrap()),
        clock: None,
        deployment: Ok(None),
        trouble: String::new(),
        authority: Ok(None),
        bundle: Ok(None),
        mesh: Ok(None),
        configuration: Ok(None),
        webhook: Ok(None),
        injection: Ok(()),
        namespaces: Ok(Vec::new()),
        copies: Ok(Default::default()),
        pods: Ok(Vec::new()),
        now: SystemTime::now(),
    }
}

/// An authority as `remora control` makes it, as a Secret.
fn secret() -> Secret {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("remora-check-{}-{count}", std::process::id()));
    CaDirectory::init(
        &folder,
        &"cluster.local".parse().unwrap(),
        Lifetimes { root: DAY * 3650, intermediate: DAY * 365 },
    )
    .unwrap();
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.is_file());
    let data =
        files.map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&file).unwrap()));
    let data = data.map(|(name, content)| (name, ByteString(content))).collect();
    std::fs::remove_dir_all(&folder).unwrap();
    Secret { data: Some(data), ..Secret::default() }
}

#[test]
fn the_authoritys_certificates_are_judged_by_what_is_left_of_them() {
    let mut seen = Cluster { authority: Ok(Some(secret())), ..empty() };
    let now = seen.now;
    let mut judged = |at: SystemTime| {
        seen.now = at;
        let finding = authority(&seen);
        (finding.result, finding.says)
    };
    assert_eq!(judged(now).0, Verdict::Ok);
    for (at, result, part) in [
        (now + DAY * 300, Verdict::Warning, "less than a fifth of the life of the signing certificate"),
        (now + DAY * 366, Verdict::Failure, "the signing certificate intermediate.pem ended on"),
        (now + DAY * 3000, Verdict::Warning, "less than a fifth of the life of the root"),
        (now + DAY * 3651, Verdict::Failure, "the root root.pem ended on"),
        (now - DAY, Verdict::Failure, "is valid only from"),
    ] {
        let (found, says) = judged(at);
        assert!(found == result && says.contains(part), "{found:?}: {says}");
    }
}

#[test]
fn a_broken_secret_is_a_failure_and_says_what_is_broken() {
    let mut broken = secret();
    let data = broken.data.as_mut().unwrap();
    data.insert("root.pem".to_owned(), ByteString(b"nothing".to_vec()));
    let mut seen = Cluster { authority: Ok(Some(broken)), ..empty() };
    assert!(authority(&seen).says.contains("root.pem"), "{:?}", authority(&seen));
    seen.authority = Ok(Some(Secret::default()));
    assert!(authority(&seen).says.contains("it has no state.json"), "{:?}", authority(&seen));
    seen.authority = Err("forbidden".to_owned());
    let finding = authority(&seen);
    assert!(finding.result == Verdict::Failure && finding.says.ends_with("cannot be read: forbidden"), "{finding:?}");
}

#[test]
fn native_sidecars_begin_with_1_29() {
    let mut seen = empty();
    assert_eq!(server(&seen), Finding::ok("Kubernetes v1.29.0"));
    for (major, minor, result) in [("1", "28+", Verdict::Failure), ("2", "0", Verdict::Ok), ("", "", Verdict::Failure)]
    {
        let info = seen.server.as_mut().unwrap();
        (info.major, info.minor) = (major.to_owned(), minor.to_owned());
        assert_eq!(server(&seen).result, result, "{major}.{minor}");
    }
}

#[test]
fn where_nothing_is_installed_the_remedy_is_to_install() {
    let seen = empty();
    for finding in [control_plane(&seen), authority(&seen), trust_bundle(&seen), mesh(&seen)] {
        assert_eq!(finding.remedy.as_deref(), Some(INSTALL), "{finding:?}");
    }
}

#[test]
fn a_few_names_are_listed_and_the_others_counted() {
    let names: Vec<_> = (1..=7).map(|n| n.to_string()).collect();
    assert_eq!(some(&names[..2]), "1, 2");
    assert_eq!(some(&names), "1, 2, 3, 4, 5 and 2 more");
}
