//! `mtls`: who the workload is, where that comes from, and whom it trusts besides.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use remora_model::identity::KeyKind;
use remora_model::{SpiffeId, TrustDomain};

use super::upstream::spiffe_id;
use super::{duration, file, host_port, positive_duration, take};
use crate::decode::{Field, Located, Place, Spanned, list, one_of, parsed, some, spanned};
use crate::errors::{Complaint, Problems, quoted};
use crate::value::{self, HostPort};

/// `mtls`.
#[derive(Debug)]
pub(crate) struct Mtls {
    pub(crate) place: Place,
    pub(crate) trust_domain: Field<TrustDomain>,
    pub(crate) certificate: Field<Spanned<PathBuf>>,
    pub(crate) key: Field<Spanned<PathBuf>>,
    pub(crate) trust_bundle: Field<Spanned<PathBuf>>,
    pub(crate) ca: Field<Spanned<Ca>>,
    pub(crate) workload_api: Field<Spanned<Api>>,
    pub(crate) federated: Vec<Federated>,
    pub(crate) crl: Vec<PathBuf>,
    pub(crate) max_connection_age: Option<Duration>,
    pub(crate) startup_timeout: Option<Duration>,
}

/// `mtls.ca`.
#[derive(Debug)]
pub(crate) struct Ca {
    pub(crate) address: Field<HostPort>,
    pub(crate) server_name: Option<Arc<str>>,
    pub(crate) roots: Field<PathBuf>,
    pub(crate) token: Field<PathBuf>,
    pub(crate) key: KeyKind,
    pub(crate) ttl: Option<Duration>,
}

/// `mtls.workload_api`.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) socket: Field<PathBuf>,
    pub(crate) spiffe_id: Field<Spanned<SpiffeId>>,
}

/// One of `mtls.federated`.
#[derive(Debug)]
pub(crate) struct Federated {
    pub(crate) trust_domain: Field<Spanned<TrustDomain>>,
    pub(crate) roots: Field<PathBuf>,
}

const FIELDS: &[&str] = &[
    "trust_domain",
    "certificate",
    "key",
    "trust_bundle",
    "ca",
    "workload_api",
    "federated",
    "crl",
    "max_connection_age",
    "startup_timeout",
];
const KEYS: &[(&str, KeyKind)] =
    &[("p256", KeyKind::P256), ("ed25519", KeyKind::Ed25519), ("rsa-2048", KeyKind::Rsa2048)];

impl Mtls {
    pub(super) fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(FIELDS, problems)?;
        let domain = parsed("a trust domain, such as example.org", trust_domain);
        Some(Self {
            place: fields.place.clone(),
            trust_domain: fields.optional("trust_domain", domain),
            certificate: fields.optional("certificate", spanned(file)),
            key: fields.optional("key", spanned(file)),
            trust_bundle: fields.optional("trust_bundle", spanned(file)),
            ca: fields.optional("ca", spanned(Ca::decode)),
            workload_api: fields.optional("workload_api", spanned(Api::decode)),
            federated: take(fields.optional("federated", list(Federated::decode))),
            crl: take(fields.optional("crl", some(file))),
            max_connection_age: fields.optional("max_connection_age", positive_duration).given().copied(),
            startup_timeout: fields.optional("startup_timeout", duration).given().copied(),
        })
    }
}

impl Ca {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(&["address", "server_name", "roots", "token", "key", "ttl"], problems)?;
        let server_name = parsed("a host name or IP address", value::server_name);
        Some(Self {
            address: fields.required("address", host_port),
            server_name: fields.optional("server_name", server_name).given().cloned(),
            roots: fields.required("roots", file),
            token: fields.required("token", file),
            key: fields.optional("key", one_of(KEYS)).or_default(),
            ttl: fields.optional("ttl", positive_duration).given().copied(),
        })
    }
}

impl Api {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let socket = parsed("a socket such as unix:///run/spire/agent.sock", value::unix_socket);
        if !at.is_object() {
            return Some(Self { socket: Field::Given(socket(at, problems)?), spiffe_id: Field::Absent });
        }
        let mut fields = at.fields(&["socket", "spiffe_id"], problems)?;
        Some(Self {
            socket: fields.required("socket", socket),
            spiffe_id: fields.optional("spiffe_id", spanned(parsed("a SPIFFE ID such as spiffe://…", spiffe_id))),
        })
    }
}

impl Federated {
    fn decode(at: &Located<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(&["trust_domain", "roots"], problems)?;
        Some(Self {
            trust_domain: fields
                .required("trust_domain", spanned(parsed("a trust domain, such as example.org", trust_domain))),
            roots: fields.required("roots", file),
        })
    }
}

/// A trust domain, without the scheme of a SPIFFE ID.
pub(crate) fn trust_domain(text: &str) -> Result<TrustDomain, Complaint> {
    let complaint = |error| Complaint::from(format!("{} is not a trust domain: {error}", quoted(text)));
    let bare = text.strip_prefix("spiffe://").filter(|bare| bare.parse::<TrustDomain>().is_ok());
    text.parse().map_err(|error: remora_model::InvalidSpiffeId| complaint(error).suggest(bare))
}
