use std::task::{Context, Waker};

use super::*;

fn bounds() -> Rc<Bounds> {
    let limits =
        CircuitBreakers { max_connections: Some(2), max_requests: Some(3), max_retries: Some(0), ..Default::default() };
    Bounds::new(limits, Arc::default())
}

#[test]
fn what_is_in_use_is_shared_and_free_again_when_dropped() {
    let (here, count) = (bounds(), |bounds: &Bounds| bounds.in_use.count(Limit::Requests));
    let there = here.another();
    let places: Vec<_> = (0..9).map_while(|_| here.enter(Limit::Requests)).collect();
    assert!(places.len() == 3 && there.enter(Limit::Requests).is_none() && count(&there) == 3);
    assert!(there.enter(Limit::Pending).is_some() && there.enter(Limit::Retries).is_none());
    drop(places);
    assert!(count(&here) == 0 && there.enter(Limit::Requests).is_some());
}

#[test]
fn where_there_is_none_to_wait_for_a_connection_is_had() {
    let here = bounds();
    let there = here.another();
    let mut first = here.connect(false).unwrap();
    let second = here.connect(false).unwrap();
    assert!(here.connect(false).is_none() && there.connect(true).is_none());
    let third = there.connect(false).unwrap();
    assert!(there.connect(false).is_none(), "it has one now");
    drop(second);
    assert!(here.connect(false).is_none(), "the others are as many as there may be");
    first.is_shared();
    assert!(here.connect(true).is_none());
    assert!(here.connect(false).is_some(), "a shared one that takes no more is none to wait for");
    drop((first, third));
    assert_eq!((here.unshared.get(), there.unshared.get(), here.in_use.count(Limit::Connections)), (0, 0, 0));
}

#[tokio::test]
async fn who_waits_hears_of_what_ends_one_at_a_time_and_of_failure_together() {
    let bounds = bounds();
    let mut held = vec![bounds.connect(false).unwrap(), bounds.enter(Limit::Requests).unwrap()];
    while let Some(place) = held.pop() {
        let ends = async {
            assert!(bounds.is_waited_for());
            drop(place);
        };
        let (heard, ()) = tokio::join!(bounds.freed(), ends);
        assert!(heard.is_ok() && !bounds.is_waited_for());
    }
    // One that is told, and gives up at once, leaves it to the next.
    let mut gives_up = Box::pin(bounds.freed());
    assert!(gives_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let told = async {
        bounds.tell_one();
        drop(gives_up);
    };
    tokio::join!(bounds.freed(), told).0.unwrap();
    let error = Error::NoEndpoint { cluster: "a".into() };
    let (first, second, ()) = tokio::join!(bounds.freed(), bounds.freed(), async { bounds.failed(&error) });
    assert!(first.is_err() && second.is_err());
    assert!(tokio::join!(bounds.freed(), async { bounds.tell_one() }).0.is_ok(), "that was before");
}
