use std::os::unix::fs::symlink;
use std::path::Path;

use remora_model::identity::{FederatedBundle, IdentitySource};

use super::*;
use crate::ca::fixture::{CATALOG, Ca, TestDir};
use crate::source::fixture::{BOUND, config, until, until_status};

const NEVER: Duration = Duration::from_secs(3600);

fn configured(ca: &Ca, directory: &Path) -> (IdentityConfig, IdentityFiles) {
    let files = ca.files(directory);
    (config(IdentitySource::Files(files.clone())), files)
}

fn start(ca: &Ca, directory: &Path) -> FileSource {
    let (config, files) = configured(ca, directory);
    FileSource::start(&config, &files)
}

/// A source that hears of changes by notification only.
fn source(ca: &Ca, directory: &Path) -> FileSource {
    let (config, files) = configured(ca, directory);
    let watcher = FileWatcher::with_fallback(paths(&files), NEVER);
    FileSource::watching(&config, &files, watcher)
}

async fn until_serial(identity: &mut watch::Receiver<Option<Arc<Identity>>>, serial: &str) {
    let wanted =
        identity.wait_for(|identity| identity.as_ref().is_some_and(|identity| identity.svid().serial() == serial));
    tokio::time::timeout(BOUND, wanted).await.expect("the new identity is taken into use").unwrap();
}

#[tokio::test]
async fn a_thousand_symlink_swaps_and_none_is_missed() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let volume = directory.path();
    let swap = |n: u32| {
        let issued = ca.issue(CATALOG);
        ca.write(&volume.join(format!("..{n}")), &issued);
        symlink(format!("..{n}"), volume.join("..new")).unwrap();
        std::fs::rename(volume.join("..new"), volume.join("..data")).unwrap();
        if n > 0 {
            std::fs::remove_dir_all(volume.join(format!("..{}", n - 1))).unwrap();
        }
        issued.serial
    };
    swap(0);
    for name in ["cert.pem", "key.pem", "bundle.pem"] {
        symlink(Path::new("..data").join(name), volume.join(name)).unwrap();
    }
    let source = source(&ca, volume);
    let mut identity = source.identity();
    for n in 1..=1000 {
        let serial = swap(n);
        // Bursts of various lengths, so that swaps meet the source waiting, looking and loading.
        match n % 10 {
            0 => until_serial(&mut identity, &serial).await,
            3 | 7 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    assert!(source.status().succeeded() >= 100);
    assert_eq!(source.status().failed(), 0);
}

#[tokio::test]
async fn half_written_files_and_broken_pairs_are_waited_out() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let first = ca.issue(CATALOG);
    ca.write(directory.path(), &first);
    let source = source(&ca, directory.path());
    let mut identity = source.identity();
    let generation = identity.borrow().as_ref().unwrap().generation();

    let next = ca.issue(CATALOG);
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let mut other = FileWatcher::with_fallback([certificate.clone(), key.clone()], NEVER);
    let half = next.chain_pem.len() / 2;
    for (path, content) in [
        (&certificate, &next.chain_pem[..half]),
        (&certificate, &next.chain_pem[..]),
        (&key, &next.key_pem[..next.key_pem.len() / 2]),
    ] {
        std::fs::write(path, content).unwrap();
        // The source's own watcher is as quick: it has looked, or is about to, at files it cannot use.
        other.changed().await;
        assert_eq!(identity.borrow().as_ref().unwrap().svid().serial(), first.serial);
    }
    std::fs::write(&key, &next.key_pem).unwrap();
    until_serial(&mut identity, &next.serial).await;
    assert!(identity.borrow().as_ref().unwrap().generation() > generation);
}

#[tokio::test(start_paused = true)]
async fn trouble_that_persists_is_counted_once_and_ends() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let first = ca.issue(CATALOG);
    ca.write(directory.path(), &first);
    let source = start(&ca, directory.path());
    let (mut identity, status) = (source.identity(), source.status());

    std::fs::write(directory.path().join("key.pem"), ca.issue(CATALOG).key_pem).unwrap();
    while status.last_error().is_none() {
        sleep(Duration::from_millis(100)).await;
    }
    // The clock is wound on: many more retries, one count.
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((status.succeeded(), status.failed()), (0, 1));
    assert!(status.last_error().unwrap().contains("does not match the certificate"));
    assert_eq!(identity.borrow_and_update().as_ref().unwrap().svid().serial(), first.serial);

    let next = ca.issue(CATALOG);
    ca.write(directory.path(), &next);
    identity.changed().await.unwrap();
    assert_eq!(identity.borrow().as_ref().unwrap().svid().serial(), next.serial);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((status.succeeded(), status.last_error()), (1, None), "taken once");
}

#[test]
fn the_same_certificates_read_again_are_no_new_identity() {
    let ca = Ca::new("example.org");
    let outlet = Outlet::new(Some(Default::default()), "files");
    let mut receiver = outlet.identity();
    let first = ca.identity(CATALOG);
    take(&first, &outlet);
    assert!(receiver.has_changed().unwrap());
    receiver.mark_unchanged();
    take(&Identity::new(first.svid().clone(), first.bundle().clone()), &outlet);
    assert!(!receiver.has_changed().unwrap());
    assert_eq!(outlet.status().succeeded(), 0);
    take(&ca.identity(CATALOG), &outlet);
    assert!(receiver.has_changed().unwrap());
    assert_eq!(outlet.status().succeeded(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_changed_bundle_alone_is_a_new_identity() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    ca.write(directory.path(), &ca.issue(CATALOG));
    let source = start(&ca, directory.path());
    let mut identity = source.identity();
    let both = [Ca::new("example.org").root.certificate_pem(), ca.root.certificate_pem()].concat();
    std::fs::write(directory.path().join("bundle.pem"), both).unwrap();
    identity.changed().await.unwrap();
    assert_eq!(identity.borrow().as_ref().unwrap().bundle().roots().len(), 2);
    let status = source.status();
    assert_eq!((status.succeeded(), status.bundle_updates()), (0, 1), "and no renewal");
}

#[tokio::test]
async fn a_dropped_source_closes_its_channel() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    ca.write(directory.path(), &ca.issue(CATALOG));
    let source = source(&ca, directory.path());
    let mut identity = source.identity();
    drop(source);
    assert!(identity.changed().await.is_err());
}

#[tokio::test]
async fn what_cannot_be_used_at_first_is_said_and_waited_for() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let source = source(&ca, directory.path());
    let mut identity = source.identity();
    assert!(identity.borrow().is_none());
    let error = source.status().last_error().unwrap();
    assert!(error.contains("cert.pem: No such file"), "{error}");
    let issued = ca.issue(CATALOG);
    ca.write(directory.path(), &issued);
    until_serial(&mut identity, &issued.serial).await;
    assert_eq!(source.status().last_error(), None);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_in_another_order_is_a_change() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    ca.write(directory.path(), &ca.issue(CATALOG));
    let other = Ca::new("example.org");
    let (one, two) = (ca.root.certificate_pem(), other.root.certificate_pem());
    std::fs::write(directory.path().join("bundle.pem"), [one, two].concat()).unwrap();
    let source = start(&ca, directory.path());
    let mut identity = source.identity();
    let first = |identity: &Identity| identity.bundle().roots()[0].fingerprint();
    let before = first(identity.borrow().as_ref().unwrap());
    std::fs::write(directory.path().join("bundle.pem"), [two, one].concat()).unwrap();
    until(&mut identity, |identity| first(identity) != before).await;
    assert_eq!(source.status().bundle_updates(), 1);
}

#[tokio::test(start_paused = true)]
async fn trust_files_are_waited_for_followed_and_kept_when_they_break() {
    let (ca, directory, foreign) = (Ca::new("example.org"), TestDir::new(), Ca::new("partner.net"));
    ca.write(directory.path(), &ca.issue(CATALOG));
    let (mut config, files) = configured(&ca, directory.path());
    let roots = directory.path().join("partner.pem");
    config.federated = vec![FederatedBundle { trust_domain: foreign.trust_domain.clone(), roots: roots.clone() }];
    let source = FileSource::start(&config, &files);
    let (mut identity, status) = (source.identity(), source.status());
    assert!(identity.borrow().is_none(), "what was asked for is awaited");
    assert!(status.last_error().unwrap().contains("partner.pem: No such file"), "{:?}", status.last_error());

    std::fs::write(&roots, foreign.root.certificate_pem()).unwrap();
    let first = until(&mut identity, |_| true).await;
    assert_eq!(first.bundles().federated()[0].trust_domain().as_str(), "partner.net");
    assert_eq!(status.last_error(), None);

    std::fs::write(&roots, "broken").unwrap();
    until_status(&source, |status| status.last_error().is_some()).await;
    assert_eq!(identity.borrow().as_ref().unwrap().generation(), first.generation(), "the last good one stays");
    let both = [foreign.root.certificate_pem(), Ca::new("partner.net").root.certificate_pem()].concat();
    std::fs::write(&roots, both).unwrap();
    let next = until(&mut identity, |identity| identity.bundles().federated()[0].roots().len() == 2).await;
    assert_eq!(next.svid().serial(), first.svid().serial());
    assert_eq!((status.last_error(), status.bundle_updates()), (None, 1));
}
