use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;

use super::*;

fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
    let endpoint = |(index, &weight): (usize, &u32)| Endpoint {
        address: ([10, 0, 0, index as u8], 80).into(),
        weight: NonZeroU32::new(weight).unwrap(),
    };
    weights.iter().enumerate().map(endpoint).collect()
}

/// splitmix64: uniform, and the same in every run.
fn random() -> impl FnMut() -> u64 {
    let mut state = 7u64;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn round_robin(balancer: &mut Balancer, exclude: &[usize]) -> Option<usize> {
    balancer.pick(|_| 0, |index| exclude.contains(&index), || panic!("round robin needs no random numbers"))
}

/// A closed loop of `clients`, each sending its next request when the last is answered. Returns the share of each
/// endpoint; `times[i]` is how long endpoint i takes.
fn simulate(policy: Balance, weights: &[u32], times: &[u64], clients: usize, requests: u32) -> Vec<f64> {
    let mut balancer = Balancer::new(policy, &endpoints(weights));
    let mut random = random();
    let mut active = vec![0u32; weights.len()];
    let mut served = vec![0u32; weights.len()];
    let mut running = BinaryHeap::new();
    for request in 0..requests as usize {
        let mut now = 0;
        if request >= clients {
            let Reverse((end, endpoint)) = running.pop().unwrap();
            let endpoint: usize = endpoint;
            active[endpoint] -= 1;
            now = end;
        }
        let chosen = balancer.pick(|index| active[index], |_| false, &mut random).unwrap();
        active[chosen] += 1;
        served[chosen] += 1;
        // Service times differ a little, so that the clients do not march in step.
        running.push(Reverse((now + times[chosen] * (900 + random() % 200), chosen)));
    }
    served.into_iter().map(|count| f64::from(count) / f64::from(requests)).collect()
}

#[test]
fn smooth_weighted_round_robin_spreads_the_heavy_one() {
    let mut balancer = Balancer::new(Balance::RoundRobin, &endpoints(&[5, 1, 1]));
    let sequence: Vec<_> = (0..14).map(|_| round_robin(&mut balancer, &[]).unwrap()).collect();
    assert_eq!(sequence, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn equal_weights_take_turns() {
    let mut balancer = Balancer::new(Balance::RoundRobin, &endpoints(&[1, 1, 1]));
    let sequence: Vec<_> = (0..6).map(|_| round_robin(&mut balancer, &[]).unwrap()).collect();
    assert_eq!(sequence, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn excluded_endpoints_are_skipped_and_the_others_keep_their_shares() {
    let mut balancer = Balancer::new(Balance::RoundRobin, &endpoints(&[2, 9, 1]));
    let sequence: Vec<_> = (0..6).map(|_| round_robin(&mut balancer, &[1]).unwrap()).collect();
    assert_eq!(sequence, [0, 2, 0, 0, 2, 0]);
    let mut balancer = Balancer::new(Balance::LeastRequest, &endpoints(&[2, 9, 1]));
    let mut random = random();
    let mut counts = [0; 3];
    for _ in 0..3000 {
        counts[balancer.pick(|_| 0, |index| index == 1, &mut random).unwrap()] += 1;
    }
    assert_eq!(counts[1], 0);
    assert!((1900..2100).contains(&counts[0]), "{counts:?}");
}

#[test]
fn without_an_eligible_endpoint_there_is_none() {
    for policy in [Balance::RoundRobin, Balance::LeastRequest] {
        assert_eq!(Balancer::new(policy, &[]).pick(|_| 0, |_| false, random()), None);
        assert_eq!(Balancer::new(policy, &endpoints(&[1, 2])).pick(|_| 0, |_| true, random()), None);
        assert_eq!(Balancer::new(policy, &endpoints(&[3])).pick(|_| 9, |_| false, random()), Some(0));
        assert_eq!(Balancer::new(policy, &endpoints(&[1, 2])).pick(|_| 9, |i| i == 1, random()), Some(0));
    }
}

#[test]
fn weights_are_honoured_within_five_percent() {
    for policy in [Balance::RoundRobin, Balance::LeastRequest] {
        for clients in [1, 2, 4, 32, 200] {
            let shares = simulate(policy, &[1, 3, 6], &[1, 1, 1], clients, 20_000);
            for (share, expected) in shares.iter().zip([0.1, 0.3, 0.6]) {
                assert!((share - expected).abs() < 0.05, "{policy:?}, {clients} clients: {shares:?}");
            }
        }
    }
}

#[test]
fn a_slow_replica_gets_a_third_under_round_robin_and_little_under_least_request() {
    for clients in [8, 16, 64, 256] {
        let share = |policy| simulate(policy, &[1, 1, 1], &[1, 1, 10], clients, 20_000)[2];
        assert!((share(Balance::RoundRobin) - 1.0 / 3.0).abs() < 0.01);
        let slow = share(Balance::LeastRequest);
        assert!(slow < 0.15, "{clients} clients: {slow}");
    }
}

#[test]
fn a_slow_replica_among_unequal_weights_gets_little_too() {
    let slow = simulate(Balance::LeastRequest, &[2, 1, 1], &[1, 1, 10], 32, 20_000)[2];
    assert!(slow < 0.1, "{slow}");
}

#[test]
fn two_different_endpoints_are_compared() {
    let mut balancer = Balancer::new(Balance::LeastRequest, &endpoints(&[1, 1]));
    let mut random = random();
    for _ in 0..100 {
        assert_eq!(balancer.pick(|index| [4, 3][index], |_| false, &mut random), Some(1));
    }
    // The ends of the range are valid draws.
    for extreme in [0, u64::MAX] {
        assert!(balancer.pick(|_| 0, |_| false, || extreme).is_some());
    }
}

#[test]
fn an_update_keeps_what_round_robin_owes() {
    let all = endpoints(&[1, 1, 1]);
    let mut balancer = Balancer::new(Balance::RoundRobin, &all);
    assert_eq!(round_robin(&mut balancer, &[]), Some(0));
    balancer.update(&all);
    assert_eq!(round_robin(&mut balancer, &[]), Some(1), "an unchanged list does not start again");
    balancer.update(&all[1..]);
    assert_eq!(round_robin(&mut balancer, &[]), Some(1), "the third endpoint, now the second, is still owed its turn");
    balancer.update(&[]);
    assert_eq!((round_robin(&mut balancer, &[]), balancer.is_empty()), (None, true));
}
