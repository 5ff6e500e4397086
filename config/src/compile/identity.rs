//! Who the workload is: from `mtls`, completed by the environment where the file leaves it open. The file wins.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use remora_model::TrustDomain;
use remora_model::identity::{
    CaClient, FederatedBundle, IdentityConfig, IdentityFiles, IdentitySource, KeyKind, WorkloadApi,
};

use super::{Mesh, Trusted};
use crate::decode::{Field, Spanned};
use crate::environment::Environment;
use crate::errors::{Complaint, Problems};
use crate::raw::{Api, Ca, Document, Mtls, trust_domain};
use crate::value::{self, Host, HostPort};

/// How long start-up waits for an identity unless configured.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// The life that is asked of an authority unless configured.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// The standard variable for the Workload API's socket (SPIFFE Workload Endpoint, section 4).
const SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";
const DOMAIN: &str = "REMORA_TRUST_DOMAIN";
const ADDRESS: &str = "REMORA_CA_ADDRESS";
const ROOTS: &str = "REMORA_CA_ROOTS";
const TOKEN: &str = "REMORA_CA_TOKEN";
/// Istio's variable for the same address; with it the files are where Istio's injector puts them.
const ISTIO_ADDRESS: &str = "CA_ADDR";
const ISTIO_ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";
const ISTIO_TOKEN: &str = "/var/run/secrets/tokens/istio-token";

/// What `mtls` and the environment say: whether there is mTLS at all, and the identity for it.
pub(super) fn identity(
    document: &Document,
    env: &Environment,
    problems: &mut Problems,
) -> (Mesh, Option<IdentityConfig>) {
    let mtls = match &document.mtls {
        Field::Absent => return (Mesh::Absent, None),
        Field::Wrong => return (Mesh::Present(None), None),
        Field::Given(mtls) => mtls,
    };
    let domain = domain(mtls, env, problems);
    let source = source(mtls, domain.as_ref(), env, problems);
    let federated = federated(mtls, domain.as_ref(), problems);
    let (Some(trust_domain), Some(source)) = (domain, source) else { return (Mesh::Present(None), None) };
    let trusted = Trusted {
        domains: [&trust_domain]
            .into_iter()
            .chain(federated.iter().map(|other| &other.trust_domain))
            .cloned()
            .collect(),
        // An agent may bring the bundles of other domains at any time.
        closed: !matches!(source, IdentitySource::WorkloadApi(_)),
    };
    let identity = IdentityConfig {
        trust_domain,
        source,
        federated,
        crls: mtls.crl.clone(),
        max_connection_age: mtls.max_connection_age,
        startup_timeout: mtls.startup_timeout.unwrap_or(STARTUP_TIMEOUT),
    };
    (Mesh::Present(Some(trusted)), Some(identity))
}

fn domain(mtls: &Mtls, env: &Environment, problems: &mut Problems) -> Option<TrustDomain> {
    match (&mtls.trust_domain, env.variable(DOMAIN)) {
        (Field::Given(domain), _) => Some(domain.clone()),
        (Field::Wrong, _) => None,
        (Field::Absent, Some(text)) => {
            trust_domain(text).map_err(|complaint| problems.variable(DOMAIN, complaint)).ok()
        }
        (Field::Absent, None) => {
            problems.report(&mtls.place, format!("trust_domain is missing (or {DOMAIN} in the environment)"));
            None
        }
    }
}

/// The one source that is named: in the file, or else in the environment.
fn source(
    mtls: &Mtls,
    domain: Option<&TrustDomain>,
    env: &Environment,
    problems: &mut Problems,
) -> Option<IdentitySource> {
    let file = [("certificate", &mtls.certificate), ("key", &mtls.key), ("trust_bundle", &mtls.trust_bundle)];
    let first = file.iter().find(|(_, field)| !field.is_absent()).map(|(name, _)| *name);
    let named =
        [first, (!mtls.ca.is_absent()).then_some("ca"), (!mtls.workload_api.is_absent()).then_some("workload_api")];
    let mut named = named.into_iter().flatten();
    let Some(chosen) = named.next() else { return from_environment(mtls, env, problems) };
    let others: Vec<_> = named.collect();
    for other in &others {
        let place = match *other {
            "ca" => mtls.ca.given().map(|ca| &ca.place),
            _ => mtls.workload_api.given().map(|api| &api.place),
        };
        problems.report(
            place.unwrap_or(&mtls.place),
            format!("{other} and {chosen} are both given; an identity has one source"),
        );
    }
    match chosen {
        "ca" => client(&mtls.ca.given()?.value),
        "workload_api" => workload_api(&mtls.workload_api.given()?.value, domain, problems),
        _ => {
            for (name, _) in file.iter().filter(|(_, field)| field.is_absent()) {
                problems.report(&mtls.place, format!("{name} is missing"));
            }
            let path = |field: &Field<Spanned<PathBuf>>| field.given().map(|path| path.value.clone());
            Some(IdentitySource::Files(IdentityFiles {
                certificate: path(&mtls.certificate)?,
                key: path(&mtls.key)?,
                trust_bundle: path(&mtls.trust_bundle)?,
            }))
        }
    }
}

fn client(ca: &Ca) -> Option<IdentitySource> {
    let address = ca.address.given()?;
    Some(IdentitySource::Ca(CaClient {
        address: address.text.clone(),
        server_name: ca.server_name.clone().unwrap_or_else(|| host(address)),
        roots: ca.roots.given()?.clone(),
        token: ca.token.given()?.clone(),
        key: ca.key,
        ttl: ca.ttl.unwrap_or(TTL),
    }))
}

fn host(address: &HostPort) -> Arc<str> {
    match &address.host {
        Host::Ip(ip) => ip.to_string().into(),
        Host::Name(name) => name.clone(),
    }
}

fn workload_api(api: &Api, domain: Option<&TrustDomain>, problems: &mut Problems) -> Option<IdentitySource> {
    if let (Some(id), Some(domain)) = (api.spiffe_id.given(), domain)
        && id.value.trust_domain() != domain.as_str()
    {
        problems.report(&id.place, format!("{} is not of the trust domain {domain}", id.value));
    }
    let spiffe_id = match &api.spiffe_id {
        Field::Absent => None,
        Field::Wrong => return None,
        Field::Given(id) => Some(id.value.clone()),
    };
    Some(IdentitySource::WorkloadApi(WorkloadApi { socket: api.socket.given()?.clone(), spiffe_id }))
}

fn from_environment(mtls: &Mtls, env: &Environment, problems: &mut Problems) -> Option<IdentitySource> {
    let address = env.first(&[ADDRESS, ISTIO_ADDRESS]);
    match (env.variable(SOCKET), address) {
        (Some(_), Some((name, _))) => {
            problems.variable(
                SOCKET,
                format!("{name} is set too; an identity has one source (mtls.ca or mtls.workload_api in the file says which)"),
            );
            None
        }
        (Some(text), None) => {
            let socket = value::unix_socket(text).map_err(|complaint| problems.variable(SOCKET, complaint)).ok()?;
            Some(IdentitySource::WorkloadApi(WorkloadApi { socket, spiffe_id: None }))
        }
        (None, Some((name, text))) => client_from_environment(name, text, env, problems),
        (None, None) => {
            if let Some((name, _)) = env.first(&[ROOTS, TOKEN]) {
                problems.variable(name, format!("is set without {ADDRESS}"));
                return None;
            }
            let message = format!(
                "no source of the identity: certificate, key and trust_bundle, or ca, or workload_api (or {SOCKET} or {ADDRESS} in the environment)"
            );
            problems.report(&mtls.place, message);
            None
        }
    }
}

fn client_from_environment(
    name: &str,
    text: &str,
    env: &Environment,
    problems: &mut Problems,
) -> Option<IdentitySource> {
    let address = HostPort::parse(text).map_err(|complaint| problems.variable(name, complaint)).ok();
    let mut file = |variable, istio: &str| match env.variable(variable) {
        Some(text) => value::file(text).map_err(|complaint| problems.variable(variable, complaint)).ok(),
        None if name == ISTIO_ADDRESS => Some(Path::new(istio).to_owned()),
        None => {
            problems.variable(variable, Complaint::from(format!("is missing, and {name} is set")));
            None
        }
    };
    let (roots, token) = (file(ROOTS, ISTIO_ROOTS), file(TOKEN, ISTIO_TOKEN));
    let address = address?;
    Some(IdentitySource::Ca(CaClient {
        server_name: host(&address),
        address: address.text,
        roots: roots?,
        token: token?,
        key: KeyKind::default(),
        ttl: TTL,
    }))
}

fn federated(mtls: &Mtls, own: Option<&TrustDomain>, problems: &mut Problems) -> Vec<FederatedBundle> {
    let mut seen = HashSet::new();
    let mut bundles = Vec::new();
    for other in &mtls.federated {
        let Some(Spanned { value: domain, place }) = other.trust_domain.given() else { continue };
        if Some(domain) == own {
            problems
                .report(place, format!("{domain} is the workload's own trust domain, which trust_bundle vouches for"));
        } else if !seen.insert(domain) {
            problems.report(place, format!("{domain} is listed twice; its roots stand in one file"));
        }
        if let Some(roots) = other.roots.given() {
            bundles.push(FederatedBundle { trust_domain: domain.clone(), roots: roots.clone() });
        }
    }
    bundles
}
