//! With the fallback an hour away, whatever is noticed here is noticed by the kernel's notifications.

use std::os::unix::fs::symlink;

use super::*;
use crate::ca::fixture::TestDir;

const NEVER: Duration = Duration::from_secs(3600);
/// Far beyond what any of this takes.
const BOUND: Duration = Duration::from_secs(60);

async fn changes(watcher: &mut FileWatcher) -> bool {
    tokio::time::timeout(BOUND, watcher.changed()).await.is_ok()
}

fn watch(paths: &[PathBuf]) -> FileWatcher {
    FileWatcher::with_fallback(paths.to_vec(), NEVER)
}

/// Replaces the symlink `link` in one step.
fn point(link: &Path, target: &Path) {
    let new = link.with_file_name("..new");
    symlink(target, &new).unwrap();
    std::fs::rename(&new, link).unwrap();
}

#[tokio::test]
async fn every_way_of_writing_is_noticed() {
    let directory = TestDir::new();
    let file = directory.path().join("file");
    let mut watcher = watch(std::slice::from_ref(&file));
    std::fs::write(&file, "made").unwrap();
    assert!(changes(&mut watcher).await, "made");
    std::fs::write(&file, "rewritten").unwrap();
    assert!(changes(&mut watcher).await, "rewritten in place");
    let other = directory.path().join("other");
    std::fs::write(&other, "renamed").unwrap();
    std::fs::rename(&other, &file).unwrap();
    assert!(changes(&mut watcher).await, "renamed over");
    std::fs::remove_file(&file).unwrap();
    assert!(changes(&mut watcher).await, "removed");
}

#[tokio::test]
async fn a_change_before_the_wait_is_noticed() {
    let directory = TestDir::new();
    let file = directory.path().join("file");
    std::fs::write(&file, "1").unwrap();
    let mut watcher = watch(std::slice::from_ref(&file));
    std::fs::write(&file, "2").unwrap();
    assert!(changes(&mut watcher).await);
}

#[tokio::test]
async fn cancelled_waits_lose_nothing_and_add_up() {
    let directory = TestDir::new();
    let file = directory.path().join("file");
    let mut watcher = watch(std::slice::from_ref(&file));
    std::fs::write(&file, "1").unwrap();
    // Each wait is shorter than the quiet that is waited for.
    let noticed = async { while tokio::time::timeout(QUIET / 3, watcher.changed()).await.is_err() {} };
    assert!(tokio::time::timeout(BOUND, noticed).await.is_ok());
}

#[test]
fn our_own_reading_wakes_nobody() {
    for mode in [AccessMode::Read, AccessMode::Any] {
        assert!(is_only_reading(EventKind::Access(AccessKind::Open(mode))));
        assert!(is_only_reading(EventKind::Access(AccessKind::Close(mode))));
    }
    assert!(!is_only_reading(EventKind::Access(AccessKind::Close(AccessMode::Write))));
    assert!(!is_only_reading(EventKind::Other), "notifications were lost");
}

#[tokio::test]
async fn a_directory_swapped_behind_a_symlink_is_followed() {
    let directory = TestDir::new();
    let volume = directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let generation = |n: u32| {
        let target = volume.join(format!("..{n}"));
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("file"), n.to_string()).unwrap();
        target
    };
    let data = volume.join("..data");
    symlink(generation(0), &data).unwrap();
    symlink("..data/file", volume.join("file")).unwrap();
    let mut watcher = watch(&[volume.join("file")]);
    for n in 1..=5 {
        let target = generation(n);
        point(&data, target.file_name().unwrap().as_ref());
        std::fs::remove_dir_all(volume.join(format!("..{}", n - 1))).unwrap();
        assert!(changes(&mut watcher).await, "swap {n}");
    }
    std::fs::write(volume.join("..5/file"), "in place").unwrap();
    assert!(changes(&mut watcher).await, "rewritten where the symlinks lead");
}

#[tokio::test]
async fn a_directory_made_later_or_anew_is_followed() {
    let directory = TestDir::new();
    let (parent, file) = (directory.path().join("later"), directory.path().join("later/file"));
    let mut watcher = watch(std::slice::from_ref(&file));
    for content in ["first", "second"] {
        std::fs::create_dir(&parent).unwrap();
        std::fs::write(&file, content).unwrap();
        assert!(changes(&mut watcher).await, "made: {content}");
        std::fs::remove_dir_all(&parent).unwrap();
        assert!(changes(&mut watcher).await, "gone: {content}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_notifications_the_clock_is_enough() {
    let directory = TestDir::new();
    let file = directory.path().join("file");
    let mut watcher = FileWatcher::new([file.clone()]);
    watcher.watcher = None;
    std::fs::write(&file, "1").unwrap();
    let before = Instant::now();
    watcher.changed().await;
    assert!(before.elapsed() >= FALLBACK);
}

#[tokio::test(start_paused = true)]
async fn the_same_bytes_again_are_no_change() {
    let directory = TestDir::new();
    let (file, other) = (directory.path().join("file"), directory.path().join("other"));
    std::fs::write(&file, "same").unwrap();
    let mut watcher = FileWatcher::new([file.clone()]);
    std::fs::write(&other, "same").unwrap();
    std::fs::rename(&other, &file).unwrap();
    let quiet = tokio::time::timeout(10 * FALLBACK, watcher.changed()).await;
    assert!(quiet.is_err(), "reported a change that is none");
}

#[test]
fn symlinks_in_a_circle_end() {
    let directory = TestDir::new();
    let (one, other) = (directory.path().join("one"), directory.path().join("other"));
    symlink(&other, &one).unwrap();
    symlink(&one, &other).unwrap();
    let mut found = BTreeSet::new();
    directories_of(&one, MAX_LINKS, &mut found);
    assert_eq!(found, BTreeSet::from([directory.path().to_owned()]));
}
