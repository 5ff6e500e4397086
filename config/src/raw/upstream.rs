//! What an outbound entry, a named cluster and a route's own target have in common: endpoints, and how to reach them.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use remora_model::{Balance, CircuitBreakers, Endpoint, Protocol, SpiffeId};

use super::{PROTOCOLS, Timeouts, host_port};
use crate::decode::{Field, Fields, Located, Place, Spanned, boolean, list, number, one_of, parsed, some, spanned};
use crate::errors::{Complaint, Problems, quoted};
use crate::value::{self, HostPort};

const BALANCES: &[(&str, Balance)] = &[("least_request", Balance::LeastRequest), ("round_robin", Balance::RoundRobin)];

/// Endpoints, and how to reach them.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Of the object they are fields of.
    pub(crate) place: Place,
    pub(crate) endpoints: Field<Vec<Spanned<Endpoint>>>,
    pub(crate) dns: Field<Spanned<HostPort>>,
    pub(crate) protocol: Field<Protocol>,
    pub(crate) mtls: Field<Spanned<bool>>,
    pub(crate) identity: Field<Spanned<Vec<Spanned<SpiffeId>>>>,
    pub(crate) balance: Field<Balance>,
    pub(crate) timeouts: Timeouts,
    pub(crate) circuit_breakers: Field<CircuitBreakers>,
}

impl Upstream {
    pub(crate) const FIELDS: &[&str] =
        &["endpoints", "dns", "protocol", "mtls", "identity", "balance", "timeouts", "circuit_breakers"];

    /// The fields in `fields`; which timeouts there are depends on whose they are.
    pub(crate) fn decode(
        fields: &mut Fields<'_, '_>,
        timeouts: fn(&Located<'_>, &mut Problems) -> Option<Timeouts>,
    ) -> Self {
        Self {
            place: fields.place.clone(),
            endpoints: fields.optional("endpoints", list(spanned(endpoint))),
            dns: fields.optional("dns", spanned(host_port)),
            protocol: fields.optional("protocol", one_of(PROTOCOLS)),
            mtls: fields.optional("mtls", spanned(boolean)),
            identity: fields
                .optional("identity", spanned(some(spanned(parsed("a SPIFFE ID such as spiffe://…", spiffe_id))))),
            balance: fields.optional("balance", one_of(BALANCES)),
            timeouts: fields.optional("timeouts", timeouts).or_default(),
            circuit_breakers: fields.optional("circuit_breakers", circuit_breakers),
        }
    }

    /// Whether nothing is said of how to reach the endpoints.
    pub(crate) fn is_bare(&self) -> bool {
        self.timeouts == Timeouts::default()
            && self.protocol.is_absent()
            && self.mtls.is_absent()
            && self.identity.is_absent()
            && self.balance.is_absent()
            && self.circuit_breakers.is_absent()
    }

    /// In place of one that could not be decoded: its endpoints are wrong, not absent.
    pub(crate) fn nothing(place: &Place) -> Self {
        Self {
            place: place.clone(),
            endpoints: Field::Wrong,
            dns: Field::Absent,
            protocol: Field::Absent,
            mtls: Field::Absent,
            identity: Field::Absent,
            balance: Field::Absent,
            timeouts: Timeouts::default(),
            circuit_breakers: Field::Absent,
        }
    }
}

/// What is left out is not bounded.
fn circuit_breakers(at: &Located<'_>, problems: &mut Problems) -> Option<CircuitBreakers> {
    let known = ["max_connections", "max_pending_requests", "max_requests", "max_retries"];
    let mut fields = at.fields(&known, problems)?;
    let mut most = |name, least| fields.optional(name, number(least..=u32::MAX)).given().copied();
    Some(CircuitBreakers {
        max_connections: most("max_connections", 1),
        max_pending_requests: most("max_pending_requests", 1),
        max_requests: most("max_requests", 1),
        max_retries: most("max_retries", 0),
    })
}

/// `IP:PORT`, or an object with a weight.
fn endpoint(at: &Located<'_>, problems: &mut Problems) -> Option<Endpoint> {
    if !at.is_object() {
        return address(at, problems).map(Endpoint::new);
    }
    let mut fields = at.fields(&["address", "weight"], problems)?;
    let address = fields.required("address", address);
    let weight = fields.optional("weight", number(1..=1_000_000)).or(1);
    Some(Endpoint { address: *address.given()?, weight: NonZeroU32::new(weight)? })
}

fn address(at: &Located<'_>, problems: &mut Problems) -> Option<SocketAddr> {
    parsed("an address such as 10.7.0.2:8080", value::endpoint_address)(at, problems)
}

pub(super) fn spiffe_id(text: &str) -> Result<SpiffeId, Complaint> {
    text.parse()
        .map_err(|error: remora_model::InvalidSpiffeId| format!("{} is not a SPIFFE ID: {error}", quoted(text)).into())
}
