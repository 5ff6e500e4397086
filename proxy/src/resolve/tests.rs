use std::collections::HashMap;
use std::sync::Mutex;

use tokio::time::Instant;

use super::*;

/// A name server whose answers the test sets, and which writes down when it was asked.
#[derive(Clone, Default)]
struct Names {
    answers: Arc<Mutex<HashMap<Arc<str>, Vec<IpAddr>>>>,
    /// How long its answers are good.
    ttl: Arc<Mutex<Duration>>,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Names {
    fn set(&self, name: &str, addresses: &[[u8; 4]]) {
        let addresses = addresses.iter().map(|&ip| ip.into()).collect();
        self.answers.lock().unwrap().insert(name.into(), addresses);
    }

    fn remove(&self, name: &str) {
        self.answers.lock().unwrap().remove(name);
    }

    fn resolver(&self, names: &[&str]) -> Resolver {
        let mut resolver = Resolver::spawn(Vec::new());
        self.watch(&mut resolver, names);
        resolver
    }

    fn watch(&self, resolver: &mut Resolver, names: &[&str]) {
        let this = self.clone();
        resolver.set_names_with(names.iter().map(|&name| name.into()).collect(), move |name| {
            this.asked.lock().unwrap().push(Instant::now());
            let answer = this.answers.lock().unwrap().get(&name).cloned();
            let good_for = *this.ttl.lock().unwrap();
            async move { answer.map(|addresses| Found { addresses, good_for }).ok_or(io::ErrorKind::NotFound.into()) }
        });
    }
}

fn ips(all: &[[u8; 4]]) -> Vec<IpAddr> {
    all.iter().map(|&ip| ip.into()).collect()
}

#[tokio::test(start_paused = true)]
async fn answers_are_published_sorted_and_only_when_they_change() {
    let names = Names::default();
    names.set("a", &[[10, 0, 0, 2], [10, 0, 0, 1], [10, 0, 0, 2]]);
    let resolver = names.resolver(&["a"]);
    let mut answers = resolver.watch();
    resolver.first_answers(LOOKUP).await;
    assert_eq!(answers.borrow_and_update().addresses("a"), ips(&[[10, 0, 0, 1], [10, 0, 0, 2]]));
    names.set("a", &[[10, 0, 0, 1], [10, 0, 0, 2]]);
    sleep(MIN_INTERVAL * 10).await;
    assert!(!answers.has_changed().unwrap(), "another order is no change");
    assert!(names.asked.lock().unwrap().len() >= 10);
    names.set("a", &[[10, 0, 0, 3]]);
    answers.changed().await.unwrap();
    let resolved = answers.borrow().clone();
    assert!(resolved.contains("a", [10, 0, 0, 3].into()) && !resolved.contains("a", [10, 0, 0, 1].into()));
    assert!(resolved.addresses("b").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_last_answer_and_backs_off() {
    let names = Names::default();
    names.set("a", &[[10, 0, 0, 1]]);
    *names.ttl.lock().unwrap() = Duration::from_secs(5);
    let resolver = names.resolver(&["a"]);
    resolver.first_answers(LOOKUP).await;
    names.remove("a");
    names.asked.lock().unwrap().clear();
    sleep(Duration::from_secs(5 + 1 + 2 + 4 + 8 + 16 + 30 + 30 + 1)).await;
    assert_eq!(resolver.watch().borrow().addresses("a"), ips(&[[10, 0, 0, 1]]));
    let asked = names.asked.lock().unwrap().clone();
    let waits: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    // An empty answer is a failure too.
    names.set("a", &[]);
    sleep(MAX_RETRY).await;
    assert_eq!(resolver.watch().borrow().addresses("a"), ips(&[[10, 0, 0, 1]]));
}

#[tokio::test(start_paused = true)]
async fn new_names_join_and_old_ones_leave() {
    let names = Names::default();
    *names.ttl.lock().unwrap() = Duration::from_secs(5);
    for name in ["a", "b", "c"] {
        names.set(name, &[[10, 0, 0, name.as_bytes()[0]]]);
    }
    let mut resolver = names.resolver(&["a", "b"]);
    resolver.first_answers(LOOKUP).await;
    names.asked.lock().unwrap().clear();
    names.watch(&mut resolver, &["b", "c"]);
    assert_eq!(resolver.watch().borrow().addresses("b"), ips(&[[10, 0, 0, b'b']]), "kept across the change");
    resolver.first_answers(LOOKUP).await;
    let resolved = resolver.watch().borrow().clone();
    assert!(resolved.addresses("a").is_empty());
    assert_eq!(resolved.addresses("c"), ips(&[[10, 0, 0, b'c']]));
    sleep(Duration::from_secs(4)).await;
    assert_eq!(names.asked.lock().unwrap().len(), 1, "only the new name was asked at once");
}

#[tokio::test(start_paused = true)]
async fn names_that_never_answer_do_not_hold_up_the_start() {
    let mut resolver = Resolver::spawn(Vec::new());
    resolver.set_names_with(vec!["a".into()], |_| std::future::pending());
    let start = Instant::now();
    resolver.first_answers(Duration::from_secs(2)).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    // The lookup's own bound counts as an answer.
    resolver.first_answers(Duration::from_secs(60)).await;
    assert_eq!(start.elapsed(), LOOKUP);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_when_its_answer_is_no_longer_good() {
    for (ttl, wait) in [(0, 1), (1, 1), (7, 7), (30, 30), (86_400, 30)] {
        let names = Names::default();
        names.set("a", &[[10, 0, 0, 1]]);
        *names.ttl.lock().unwrap() = Duration::from_secs(ttl);
        let _resolver = names.resolver(&["a"]);
        sleep(Duration::from_secs(wait * 3) + FIRST_RETRY / 2).await;
        let asked = names.asked.lock().unwrap().clone();
        let waits: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(waits, [wait; 3], "{ttl}");
    }
}

#[tokio::test]
async fn the_system_knows_localhost() {
    let system = System::default();
    let addresses = sorted(system.lookup("localhost").await.unwrap().addresses);
    assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    assert_eq!(system.lookup("10.1.2.3").await.unwrap().addresses, ips(&[[10, 1, 2, 3]]));
}
