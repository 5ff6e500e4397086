//! Which endpoint of a cluster is tried next. Pure: live state is handed in (requests in flight, endpoints to leave out,
//! random numbers), an index into the cluster's endpoints is handed on.
//!
//! Invariant: an index is below the number of endpoints last given, and its endpoint is not excluded.

use std::net::SocketAddr;

use remora_model::{Balance, Endpoint};

/// One cluster's balancer, owned by one worker.
#[derive(Clone, Debug)]
pub struct Balancer {
    policy: Balance,
    slots: Vec<Slot>,
    /// For each endpoint the sum of the weights up to and with it, so that a weighted draw is a binary search.
    sums: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    address: SocketAddr,
    weight: u32,
    /// What smooth weighted round robin owes the endpoint, in units of weight.
    credit: i64,
}

impl Balancer {
    /// A balancer over `endpoints`, which may be empty.
    pub fn new(policy: Balance, endpoints: &[Endpoint]) -> Self {
        let mut balancer = Self { policy, slots: Vec::new(), sums: Vec::new() };
        balancer.update(endpoints);
        balancer
    }

    /// Replaces the endpoints. What round robin owes those that stay is kept, so that frequent updates do not
    /// favour the first of the list.
    pub fn update(&mut self, endpoints: &[Endpoint]) {
        let old = std::mem::take(&mut self.slots);
        let credit = |address| old.iter().find(|slot| slot.address == address).map_or(0, |slot| slot.credit);
        self.slots = endpoints
            .iter()
            .map(|endpoint| Slot {
                address: endpoint.address,
                weight: endpoint.weight.get(),
                credit: credit(endpoint.address),
            })
            .collect();
        let mut sum = 0;
        self.sums.clear();
        self.sums.extend(self.slots.iter().map(|slot| {
            sum += u64::from(slot.weight);
            sum
        }));
    }

    /// The number of endpoints.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no endpoint.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Chooses an endpoint by its index; `None` when there is none, or all are excluded. `active` answers how many
    /// requests an endpoint has in flight, `exclude` which endpoints are out of question (tried already, say), `random`
    /// gives uniform numbers and is asked at most twice.
    pub fn pick(
        &mut self,
        active: impl Fn(usize) -> u32,
        exclude: impl Fn(usize) -> bool,
        random: impl FnMut() -> u64,
    ) -> Option<usize> {
        match self.policy {
            Balance::RoundRobin => self.round_robin(exclude),
            Balance::LeastRequest => self.least_request(active, exclude, random),
        }
    }

    /// Smooth weighted round robin: every turn each endpoint earns its weight, the richest is chosen and pays what all
    /// earned. Over a sum of weights each endpoint is chosen exactly its weight's times, spread out.
    fn round_robin(&mut self, exclude: impl Fn(usize) -> bool) -> Option<usize> {
        let mut earned = 0;
        let mut richest: Option<(usize, i64)> = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if exclude(index) {
                continue;
            }
            slot.credit += i64::from(slot.weight);
            earned += i64::from(slot.weight);
            if richest.is_none_or(|(_, credit)| slot.credit > credit) {
                richest = Some((index, slot.credit));
            }
        }
        let (index, _) = richest?;
        self.slots[index].credit -= earned;
        Some(index)
    }

    /// Power of two choices: two different endpoints are drawn by weight, the one with fewer requests in flight for its
    /// weight is taken; at equal load the first drawn, so that an idle cluster is shared by weight exactly.
    fn least_request(
        &self,
        active: impl Fn(usize) -> u32,
        exclude: impl Fn(usize) -> bool,
        mut random: impl FnMut() -> u64,
    ) -> Option<usize> {
        let (first, second) = (random(), random());
        let (first, second) = match self.draw_two(first, second) {
            Some((first, second)) if !exclude(first) && !second.is_some_and(&exclude) => (first, second),
            _ => self.draw_two_of_rest(&exclude, first, second)?,
        };
        let Some(second) = second else { return Some(first) };
        Some(if self.busier(first, active(first), second, active(second)) { second } else { first })
    }

    fn busier(&self, first: usize, first_active: u32, second: usize, second_active: u32) -> bool {
        let (first_weight, second_weight) = (u64::from(self.slots[first].weight), u64::from(self.slots[second].weight));
        let first_load = u64::from(first_active) * second_weight;
        let second_load = u64::from(second_active) * first_weight;
        // One request on an endpoint of small weight is a whole step of its load: with unequal weights a lesser difference
        // is no sign of slowness, and to follow it would give the light endpoint more than its share while little is in flight.
        let step = if first_weight == second_weight { 0 } else { first_weight.max(second_weight) };
        first_load > second_load + step
    }

    /// Draws two different endpoints of all, the second if there is one.
    fn draw_two(&self, first: u64, second: u64) -> Option<(usize, Option<usize>)> {
        let total = *self.sums.last()?;
        let first = self.owner_of(scale(first, total));
        if self.slots.len() == 1 {
            return Some((first, None));
        }
        let weight = u64::from(self.slots[first].weight);
        // The first one's share is cut out of the line, so that the second is another by construction.
        let point = scale(second, total - weight);
        let before = self.sums[first] - weight;
        Some((first, Some(self.owner_of(if point < before { point } else { point + weight }))))
    }

    fn owner_of(&self, point: u64) -> usize {
        self.sums.partition_point(|&sum| sum <= point)
    }

    /// As [`Self::draw_two`], of the endpoints that are not excluded; the rare case, so it may walk all of them.
    fn draw_two_of_rest(
        &self,
        exclude: impl Fn(usize) -> bool,
        first: u64,
        second: u64,
    ) -> Option<(usize, Option<usize>)> {
        let rest = |skip: Option<usize>| {
            let exclude = &exclude;
            (0..self.slots.len()).filter(move |&index| Some(index) != skip && !exclude(index))
        };
        let draw = |skip: Option<usize>, random: u64| {
            let total: u64 = rest(skip).map(|index| u64::from(self.slots[index].weight)).sum();
            let mut point = scale(random, total);
            rest(skip).find(|&index| {
                let weight = u64::from(self.slots[index].weight);
                let found = point < weight;
                point = point.wrapping_sub(weight);
                found
            })
        };
        let first = draw(None, first)?;
        Some((first, draw(Some(first), second)))
    }
}

/// Maps a uniform 64-bit number to a uniform one below `bound`.
fn scale(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests;
