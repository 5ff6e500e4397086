use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::ca::fixture::{CATALOG, Ca, TestDir};

const NEVER: Duration = Duration::from_secs(3600);
/// Far beyond what any of this takes.
const BOUND: Duration = Duration::from_secs(60);

/// A source that hears of changes by notification only.
fn source(ca: &Ca, directory: &Path) -> FileSource {
    let files = ca.files(directory);
    let paths = [&files.certificate, &files.key, &files.trust_bundle].map(Clone::clone);
    FileSource::watching(ca.trust_domain.clone(), files, FileWatcher::with_fallback(paths, NEVER))
}

async fn until_serial(identity: &mut watch::Receiver<Option<Arc<Identity>>>, serial: &str) {
    let wanted =
        identity.wait_for(|identity| identity.as_ref().is_some_and(|identity| identity.svid().serial() == serial));
    tokio::time::timeout(BOUND, wanted).await.expect("the new identity is taken into use").unwrap();
}

#[tokio::test]
async fn two_hundred_symlink_swaps_and_the_last_one_counts() {
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
    for n in 1..=200 {
        let serial = swap(n);
        // Bursts of various lengths, so that swaps meet the source waiting, looking and loading.
        match n % 10 {
            0 => until_serial(&mut identity, &serial).await,
            3 | 7 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    assert!(source.status().succeeded() >= 20);
    assert_eq!(source.status().failed(), 0);
}

#[tokio::test]
async fn h66_half_written_files_and_broken_pairs_are_waited_out() {
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
    let source = FileSource::start(ca.trust_domain.clone(), ca.files(directory.path()));
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
    let first = ca.identity(CATALOG);
    let again = Identity::new(first.svid().clone(), first.bundles().as_ref().clone());
    let (sender, receiver) = watch::channel(Some(Arc::new(first)));
    let status = SourceStatus::default();
    take(again, &sender, &status);
    assert!(!receiver.has_changed().unwrap());
    assert_eq!(status.succeeded(), 0);
    take(ca.identity(CATALOG), &sender, &status);
    assert!(receiver.has_changed().unwrap());
    assert_eq!(status.succeeded(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_changed_bundle_alone_is_a_new_identity() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    ca.write(directory.path(), &ca.issue(CATALOG));
    let source = FileSource::start(ca.trust_domain.clone(), ca.files(directory.path()));
    let mut identity = source.identity();
    let both = [Ca::new("example.org").root.certificate_pem(), ca.root.certificate_pem()].concat();
    std::fs::write(directory.path().join("bundle.pem"), both).unwrap();
    identity.changed().await.unwrap();
    assert_eq!(identity.borrow().as_ref().unwrap().bundle().roots().len(), 2);
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
