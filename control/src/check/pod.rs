//! An injected pod, from inside: the proxy beside us, what it has, and whom it needs.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::beside::{self, Proxy, Told};
use super::clock;
use super::configuration::{Configuration, Servers};
use super::redirection::{self, Redirection};
use super::{ADMIN, Check, Finding, Line, Local, Place, VERSION, judged};

/// What was seen.
pub struct Pod {
    proxy: Result<Told, String>,
    configuration: Configuration,
    /// The trust domain that the pod should be in, where something says.
    trust_domain: Option<String>,
    redirection: Redirection,
    servers: Servers,
    now: SystemTime,
}

/// The lines.
pub const CHECKS: [Check<Pod>; 9] = [
    Check {
        name: "proxy",
        about: "whether the proxy answers at its admin interface and is ready",
        otherwise: "failure: it does not, or is not; its reasons",
        judge: ready,
    },
    Check {
        name: "version",
        about: "the proxy's version beside that of this program",
        otherwise: "warning: they differ",
        judge: |seen| match &seen.proxy {
            Ok(told) => version(&told.info.version),
            Err(_) => Finding::ok("no proxy tells its version"),
        },
    },
    Check {
        name: "redirection",
        about: "the pod's rules: as `remora-init verify` proves them, by what injection told `remora-init`",
        otherwise: "failure: there are none, one is missing or wrong, or a connection escaped; warning: it could not be looked at",
        judge: |seen| seen.redirection.judge(),
    },
    Check {
        name: "configuration",
        about: "the proxy's configuration with its environment, or the file named by `--config`",
        otherwise: "failure: a proxy would not take it, or the running one did not",
        judge: |seen| seen.configuration.judge(seen.proxy.as_ref().ok()),
    },
    Check {
        name: "identity",
        about: "whether the proxy has a certificate, in the trust domain that is configured",
        otherwise: "failure: it has none, or one of another trust domain; warning: it wants none, so there is no mTLS",
        judge: identity,
    },
    Check {
        name: "certificate-life",
        about: "how much of the certificate's life is left; it should be renewed long before",
        otherwise: "failure: it has ended, or not begun; warning: less than a fifth is left",
        judge: life,
    },
    Check {
        name: "authority",
        about: "the certificate authority that is configured: TCP, TLS by the configured roots, and an answer",
        otherwise: "failure: any of these fails; warning: the roots cannot be read from here",
        judge: |seen| {
            seen.servers.authority.judge(
                "see whether the control plane runs (`remora check cluster`), whether a NetworkPolicy forbids the way, \
                 and whether the pod's trust bundle is the mesh's",
            )
        },
    },
    Check {
        name: "collector",
        about: "the collector that is configured, by an export of no spans",
        otherwise: "failure: it does not take it, and spans are lost",
        judge: |seen| {
            seen.servers
                .collector
                .judge("see whether the collector runs and takes OTLP there, gRPC or HTTP as configured")
        },
    },
    Check {
        name: "clock",
        about: "this clock beside that of the authority, else the collector",
        otherwise: "failure: two minutes apart or more; warning: more than 5 s, or nobody told the time",
        judge: |seen| clock::judge(seen.servers.reading()),
    },
];

/// Looks at the pod that this runs in.
///
/// # Errors
/// The arguments for `remora-init` make no sense.
pub async fn check(local: &Local) -> Result<Vec<Line>, remora_init::Error> {
    let beside = Proxy::find();
    let invocation = redirection::told(local, &beside)?;
    let configuration = Configuration::read(local, &beside);
    let admin = configuration.snapshot().map_or(ADMIN, |snapshot| snapshot.admin.address);
    let counts = configuration.counts(beside::in_force(admin).await);
    let wanted = configuration.snapshot().and_then(|snapshot| snapshot.identity.as_ref());
    let wanted = wanted.map(|identity| identity.trust_domain.to_string());
    let seen = Pod {
        proxy: beside::told(admin).await,
        trust_domain: wanted.or_else(|| beside.variable("REMORA_TRUST_DOMAIN").map(str::to_owned)),
        redirection: Redirection::look(&invocation, true),
        servers: Servers::ask(counts.as_ref(), &beside).await,
        configuration,
        now: SystemTime::now(),
    };
    Ok(judged(Place::Pod, &CHECKS, &seen))
}

/// Whether what runs is what we are.
pub(super) fn version(running: &str) -> Finding {
    match running == VERSION {
        true => Finding::ok(format!("the proxy and this program are both {VERSION}")),
        false => Finding::warning(
            format!("the proxy is {running}, this program is {VERSION}"),
            "restart the workload, so that its pods are injected anew, or use the program of that version",
        ),
    }
}

fn ready(seen: &Pod) -> Finding {
    match &seen.proxy {
        Ok(told) if told.info.missing.is_empty() => Finding::ok("the proxy is ready"),
        Ok(told) => Finding::failure(
            format!("the proxy is not ready: {}", told.info.missing.join("; ")),
            "see its log: `kubectl logs POD -c remora-proxy`",
        ),
        Err(why) => Finding::failure(
            format!("no proxy answers: {why}"),
            "see whether the pod was injected and its proxy runs: `kubectl describe pod POD`, `kubectl logs POD -c remora-proxy`",
        ),
    }
}

fn identity(seen: &Pod) -> Finding {
    // Told by the line about the proxy.
    let Ok(told) = &seen.proxy else { return Finding::ok("no proxy tells of a certificate") };
    match (&told.certs.identity, &told.certs.source, &seen.trust_domain) {
        (Some(svid), _, Some(wanted)) if svid.trust_domain != *wanted => Finding::failure(
            format!("{} is not in the trust domain {wanted} that is configured", svid.spiffe_id),
            "restart the workload, so that the proxy asks for a certificate of the configured domain",
        ),
        (Some(svid), ..) => Finding::ok(svid.spiffe_id.clone()),
        (None, Some(source), _) => {
            let why = source.last_error.as_deref().unwrap_or("none was issued yet");
            Finding::failure(
                format!("the proxy has no certificate: {why}"),
                "see what the line about the authority says",
            )
        }
        (None, None, _) => {
            Finding::warning("the proxy wants no certificate: there is no mTLS", "configure `mtls`, if there should be")
        }
    }
}

fn life(seen: &Pod) -> Finding {
    let Some(svid) = seen.proxy.as_ref().ok().and_then(|told| told.certs.identity.as_ref()) else {
        return Finding::ok("there is no certificate whose life could end");
    };
    let time = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from);
    let (Some(begins), Some(ends)) = (time(&svid.not_before), time(&svid.not_after)) else {
        return Finding::failure("the proxy does not tell when its certificate ends", "compare versions");
    };
    let (left, whole) = (ends.duration_since(seen.now), ends.duration_since(begins).unwrap_or_default());
    let failed = told_error(seen);
    let remedy = "see why it is not renewed: the line about the authority, and the proxy's log";
    match left {
        _ if seen.now < begins => {
            Finding::failure(format!("the certificate begins only at {}", svid.not_before), "synchronise the clocks")
        }
        Err(_) => Finding::failure(format!("the certificate ended at {}{failed}", svid.not_after), remedy),
        Ok(left) if left < whole / 5 => {
            let says = format!("less than a fifth of the certificate's life is left, until {}{failed}", svid.not_after);
            Finding::warning(says, remedy)
        }
        Ok(_) => Finding::ok(format!("the certificate is valid until {}", svid.not_after)),
    }
}

fn told_error(seen: &Pod) -> String {
    let source = seen.proxy.as_ref().ok().and_then(|told| told.certs.source.as_ref());
    source.and_then(|source| source.last_error.as_ref()).map(|error| format!(" ({error})")).unwrap_or_default()
}
