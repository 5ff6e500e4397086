//! Two of the proxy's own sockets must not ask for the same address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use remora_model::capture::{INBOUND_PORT, OUTBOUND_PORT};
use remora_model::{Direction, Listener};

use super::admin;
use crate::decode::{Field, Place};
use crate::errors::Problems;
use crate::raw::Document;

/// A socket to be.
struct Claim<'d> {
    /// Who asks: the field.
    who: String,
    address: SocketAddr,
    /// `None`: a default.
    place: Option<&'d Place>,
}

/// Reports every address that is given and already in use.
pub(super) fn check(document: &Document, listeners: &[Listener], problems: &mut Problems) {
    let mut claims = claims(document, listeners, problems);
    // Defaults first: the complaint is about what was written.
    claims.sort_by_key(|claim| claim.place.map(Place::at));
    let mut used = Used::default();
    for claim in claims {
        if let (Some(other), Some(place)) = (used.claim(&claim), claim.place) {
            problems.report(place, format!("{} is in use by {other} already", claim.address));
        }
    }
}

fn claims<'d>(document: &'d Document, listeners: &[Listener], problems: &mut Problems) -> Vec<Claim<'d>> {
    let mut claims = Vec::new();
    let mut gateways = document.gateways.given().into_iter().flatten();
    for listener in listeners {
        let given = match listener.direction {
            Direction::Inbound => document.inbound.given().map(|inbound| &inbound.listen),
            Direction::Outbound => Some(&document.outbound_listen),
            Direction::Gateway => gateways.next().map(|gateway| &gateway.listen),
        };
        let places = given.and_then(Field::given);
        for (index, address) in listener.addresses.iter().enumerate() {
            let place = places.and_then(|places| places.get(index)).map(|given| &given.place);
            let who = format!("the {} listener", listener.name);
            let reserved = matches!(address.port(), INBOUND_PORT | OUTBOUND_PORT);
            if let (Direction::Gateway, true, Some(place)) = (listener.direction, reserved, place) {
                problems.report(place, format!("port {} is for intercepted connections", address.port()));
            } else {
                claims.push(Claim { who, address: *address, place });
            }
        }
    }
    let addresses = admin(document);
    let place = document.admin.address.given().map(|given| &given.place);
    claims.push(Claim { who: "admin.address".to_owned(), address: addresses.address, place });
    let lists = [
        ("admin.metrics", addresses.metrics, document.admin.metrics.given()),
        ("admin.readiness", addresses.readiness, document.admin.readiness.given()),
    ];
    for (who, addresses, given) in lists {
        for (index, address) in addresses.into_iter().enumerate() {
            let place = given.and_then(|given| given.get(index)).map(|given| &given.place);
            claims.push(Claim { who: who.to_owned(), address, place });
        }
    }
    claims
}

/// Addresses in use, by port and family: sockets of the two families do not disturb each other.
#[derive(Default)]
struct Used {
    ports: HashMap<(u16, bool), Port>,
}

#[derive(Default)]
struct Port {
    first: Option<String>,
    /// Who listens on every address.
    everywhere: Option<String>,
    single: HashMap<IpAddr, String>,
}

impl Used {
    /// Notes the claim; answers who had it before.
    fn claim(&mut self, claim: &Claim<'_>) -> Option<String> {
        let ip = claim.address.ip().to_canonical();
        if claim.address.port() == 0 {
            return None;
        }
        let port = self.ports.entry((claim.address.port(), ip.is_ipv4())).or_default();
        let before = if ip.is_unspecified() {
            port.everywhere.as_ref().or(port.first.as_ref())
        } else {
            port.everywhere.as_ref().or_else(|| port.single.get(&ip))
        };
        let before = before.cloned();
        port.first.get_or_insert_with(|| claim.who.clone());
        if ip.is_unspecified() {
            port.everywhere.get_or_insert_with(|| claim.who.clone());
        } else {
            port.single.entry(ip).or_insert_with(|| claim.who.clone());
        }
        before
    }
}
