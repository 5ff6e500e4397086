use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc as blocking;
use std::time::SystemTime;

use remora_model::SpiffeId;

use super::*;
use crate::ca::Proof;
use crate::server::reviewer::Caller;
use crate::server::store::Loaded;

/// A store whose disk is as slow as the test likes, and tells how much was written at once.
struct Slow {
    batches: Mutex<Vec<usize>>,
    go: Mutex<blocking::Receiver<Result<(), Error>>>,
}

impl Store for Slow {
    fn load(&self) -> Result<Loaded, Error> {
        Err(Error::Random)
    }

    fn watch_paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn record(&self, records: &[IssuedRecord]) -> Result<(), Error> {
        self.batches.lock().unwrap().push(records.len());
        self.go.lock().unwrap().recv().unwrap()
    }

    fn redeem_token(&self, _: &str, _: SystemTime) -> Result<SpiffeId, Error> {
        Err(Error::Random)
    }

    fn began_with_join_token(&self, _: &str, _: &SpiffeId) -> Result<bool, Error> {
        Ok(false)
    }
}

fn entry() -> Entry {
    let id: SpiffeId = "spiffe://example.org/ns/shop/sa/cart".parse().unwrap();
    let record = IssuedRecord {
        serial: "01".to_owned(),
        spiffe_id: id.clone(),
        anchor: crate::Fingerprint::of(b"root"),
        signer: crate::Fingerprint::of(b"signer"),
        issued_at: 1,
        not_after: 2,
        bundle_version: 1,
        instance: None,
        replaces: None,
        by: Proof::JoinToken,
        proved_by: None,
    };
    let caller = Caller { spiffe_id: id, subject: "cart".to_owned(), proof: Proof::JoinToken };
    Entry { record, asker: Asker { peer: "127.0.0.1:1".parse().unwrap(), instance: None, caller: Some(caller) } }
}

fn slow() -> (Arc<Slow>, blocking::Sender<Result<(), Error>>) {
    let (go, waiting) = blocking::channel();
    (Arc::new(Slow { batches: Mutex::default(), go: Mutex::new(waiting) }), go)
}

#[tokio::test]
async fn whoever_waits_while_the_disk_is_busy_shares_the_next_flush() {
    let (store, go) = slow();
    let (journal, writer) = Journal::start(Arc::clone(&store) as Arc<dyn Store>, Arc::new(Metrics::new()));
    let mut waiting = tokio::task::JoinSet::new();
    let record = |journal: &Journal| {
        let journal = journal.clone();
        async move { journal.record(entry()).await }
    };
    waiting.spawn(record(&journal));
    while store.batches.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        waiting.spawn(record(&journal));
    }
    // All twenty are handed over before the disk is done with the first.
    while journal.entries.capacity() > WAITING - 20 {
        tokio::task::yield_now().await;
    }
    assert!(waiting.try_join_next().is_none(), "nobody is answered before the disk");
    go.send(Ok(())).unwrap();
    go.send(Ok(())).unwrap();
    while let Some(recorded) = waiting.join_next().await {
        assert_eq!(recorded.unwrap(), Recorded::Yes);
    }
    assert_eq!(*store.batches.lock().unwrap(), [1, 20]);
    drop(journal);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_disk_that_fails_and_a_state_that_changed_are_told_apart() {
    let (store, go) = slow();
    let (journal, _writer) = Journal::start(store, Arc::new(Metrics::new()));
    go.send(Err(Error::Random)).unwrap();
    assert_eq!(journal.record(entry()).await, Recorded::No);
    assert!(!journal.recording().is_good());
    go.send(Err(CaError::Changed(PathBuf::from("ca")).into())).unwrap();
    assert_eq!(journal.record(entry()).await, Recorded::Stale);
    assert!(journal.recording().is_good());
}
