//! A machine: whether pods on it could be redirected, and whether what runs in this network namespace is as it should be.

use nix::sys::resource::{Resource, getrlimit};
use remora_init::apply::{Outcome, Report};
use remora_init::backend::{Backend, Iptables};
use remora_init::cli::Invocation;
use remora_init::plan::Family;
use remora_init::{Ipv6, Options, trial};
use remora_model::capture::{CaptureSpec, Interception};

use super::beside::{self, Proxy, Told};
use super::clock;
use super::configuration::{Configuration, Servers};
use super::pod::version;
use super::redirection::{self, Redirection};
use super::{ADMIN, Check, Finding, Line, Local, Place, judged};

/// Each connection takes two files.
const FILES: u64 = 4096;

/// What was seen.
pub struct Machine {
    programs: Vec<Programs>,
    missing: [Option<&'static str>; 2],
    redirect: Result<Report, remora_init::Error>,
    tproxy: Result<Report, remora_init::Error>,
    redirection: Redirection,
    files: u64,
    configuration: Configuration,
    servers: Servers,
    /// None: no proxy answers here.
    proxy: Option<Told>,
}

/// One backend for one family.
struct Programs {
    backend: Backend,
    family: Family,
    /// Whether there are rules; none where nobody may look.
    has_rules: Option<bool>,
}

/// The lines.
pub const CHECKS: [Check<Machine>; 10] = [
    Check {
        name: "iptables",
        about: "the programs of iptables, nft and legacy, for IPv4 and IPv6",
        otherwise: "failure: there are none for IPv4; warning: those for IPv6 are others",
        judge: programs,
    },
    Check {
        name: "iptables-rules",
        about: "which backend holds rules, anybody's, in this network namespace",
        otherwise: "warning: both do, and the kernel obeys both; or nobody may look",
        judge: rules,
    },
    Check {
        name: "capabilities",
        about: "NET_ADMIN and NET_RAW of this process",
        otherwise: "failure: NET_ADMIN is missing; warning: NET_RAW is, which only legacy needs",
        judge: capabilities,
    },
    Check {
        name: "kernel",
        about: "the kernel's modules for redirection: the rules of `remora-init` applied in a network namespace made for that",
        otherwise: "failure: they cannot be; warning: not for IPv6, or it could not be tried",
        judge: kernel,
    },
    Check {
        name: "kernel-tproxy",
        about: "the same for TPROXY, which only pods that ask for it need",
        otherwise: "warning: not here, or it could not be tried",
        judge: kernel_tproxy,
    },
    Check {
        name: "redirection",
        about: "Remora's rules in this network namespace, where there are any: as `remora-init verify` proves them",
        otherwise: "failure: a rule is missing or wrong, or a connection escaped; warning: it could not be looked at",
        judge: |seen| match seen.redirection.is_none() {
            true => Finding::ok("there are no rules of Remora here: nothing is redirected"),
            false => seen.redirection.judge(),
        },
    },
    Check {
        name: "open-files",
        about: "how many files the proxy that runs here, else this process, may open",
        otherwise: "warning: fewer than 4096, two a connection",
        judge: |seen| match seen.files {
            FILES.. => Finding::ok(format!("{} open files are allowed", seen.files)),
            few => Finding::warning(
                format!("only {few} open files are allowed"),
                "raise the limit of whatever starts the proxy: `ulimit -n 65536`, or LimitNOFILE= of its unit",
            ),
        },
    },
    Check {
        name: "configuration",
        about: "the file named by `--config`, else that of the proxy that runs here, if one does",
        otherwise: "failure: a proxy would not take it, or the running one did not",
        judge: |seen| seen.configuration.judge(seen.proxy.as_ref()),
    },
    Check {
        name: "version",
        about: "the version of the proxy that runs here, if one does, beside that of this program",
        otherwise: "warning: they differ",
        judge: |seen| match &seen.proxy {
            Some(told) => version(&told.info.version),
            None => Finding::ok("no proxy answers here"),
        },
    },
    Check {
        name: "clock",
        about: "this clock beside that of the authority, else the collector, that the configuration names",
        otherwise: "failure: two minutes apart or more; warning: more than 5 s, or nobody told the time",
        judge: |seen| clock::judge(seen.servers.reading()),
    },
];

/// Looks at this machine.
///
/// # Errors
/// The arguments for `remora-init` make no sense.
pub async fn check(local: &Local) -> Result<Vec<Line>, remora_init::Error> {
    let proxy = Proxy::find();
    let invocation = redirection::told(local, &proxy)?;
    let configuration = Configuration::read(local, &proxy);
    let admin = configuration.snapshot().map_or(ADMIN, |snapshot| snapshot.admin.address);
    let told = beside::told(admin).await.ok();
    let counts = configuration.counts(beside::in_force(admin).await);
    let servers = Servers::ask(counts.as_ref(), &proxy).await;
    let (redirect, tproxy) = tried(&invocation);
    let seen = Machine {
        programs: all_programs(&invocation.options),
        missing: Backend::BOTH.map(Backend::missing_capability),
        redirect,
        tproxy,
        redirection: Redirection::look(&invocation, false),
        files: proxy.open_files().unwrap_or_else(|| getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)),
        configuration,
        servers,
        proxy: told,
    };
    Ok(judged(Place::Machine, &CHECKS, &seen))
}

fn tried(invocation: &Invocation) -> (Result<Report, remora_init::Error>, Result<Report, remora_init::Error>) {
    // A new namespace has no address: what Auto would pass over there is a failure elsewhere, so it is looked at.
    let options = Options { ipv6: Ipv6::Auto, ..invocation.options.clone() };
    let mut spec = CaptureSpec::default();
    let redirect = trial::trial(&spec, &options);
    spec.inbound.mode = Interception::TPROXY;
    (redirect, trial::trial(&spec, &options))
}

fn all_programs(options: &Options) -> Vec<Programs> {
    let all = Backend::BOTH.into_iter().flat_map(|backend| Family::BOTH.map(|family| (backend, family)));
    let found = all.filter_map(|(backend, family)| {
        let iptables = Iptables::find(backend, family, options).ok()?;
        let has_rules = iptables.save().ok().map(|live| live.has_rules());
        Some(Programs { backend, family, has_rules })
    });
    found.collect()
}

fn programs(seen: &Machine) -> Finding {
    let of = |family| {
        let names = seen.programs.iter().filter(|found| found.family == family).map(|found| found.backend.to_string());
        names.collect::<Vec<_>>().join(" and ")
    };
    let (v4, v6) = (of(Family::V4), of(Family::V6));
    let remedy = "install all of iptables (`apt-get install iptables`)";
    let both = format!("IPv4: {v4}; IPv6: {}", if v6.is_empty() { "none" } else { &v6 });
    match v4 == v6 {
        _ if v4.is_empty() => {
            Finding::failure("iptables is not there: neither -nft nor -legacy, with -save and -restore", remedy)
        }
        true => Finding::ok(both),
        false => Finding::warning(format!("{both}: what one redirects, the other may let pass"), remedy),
    }
}

fn rules(seen: &Machine) -> Finding {
    let may_look = |found: &&Programs| found.has_rules.is_some();
    let holds = |backend| seen.programs.iter().any(|found| found.backend == backend && found.has_rules == Some(true));
    match Backend::BOTH.map(holds) {
        _ if seen.programs.iter().find(may_look).is_none() => {
            Finding::warning("no rules can be seen by this process", "look as root, with iptables")
        }
        [true, true] => Finding::warning(
            "both iptables-nft and iptables-legacy hold rules here, and the kernel obeys both",
            "move the rules of one to the other (`iptables-save`, `update-alternatives --config iptables`)",
        ),
        [true, false] => Finding::ok("the rules that are seen here are iptables-nft's"),
        [false, true] => Finding::ok("the rules that are seen here are iptables-legacy's"),
        [false, false] => Finding::ok("no rules are seen here"),
    }
}

fn capabilities(seen: &Machine) -> Finding {
    match seen.missing {
        [Some(capability), _] => Finding::failure(
            format!("{capability} is missing: nothing can be redirected by this process"),
            "run as root; in a container, add the capabilities NET_ADMIN and NET_RAW",
        ),
        [None, Some(capability)] => Finding::warning(
            format!("{capability} is missing: iptables-legacy cannot be used or looked at by this process"),
            format!("add the capability {capability}, unless iptables-nft is all you use"),
        ),
        [None, None] => Finding::ok("NET_ADMIN and NET_RAW are there"),
    }
}

fn kernel(seen: &Machine) -> Finding {
    let remedy = "load or build the modules that it names (nf_nat, xt_REDIRECT, xt_owner, xt_conntrack, xt_multiport, and those of \
                  nf_tables or ip_tables; for IPv6 too)";
    match (&seen.redirect, skipped(&seen.redirect)) {
        (Ok(report), None) => Finding::ok(format!("rules can be applied, for IPv4 and IPv6, by {}", report.backend)),
        (Ok(report), Some(why)) => {
            Finding::warning(format!("rules can be applied for IPv4 only, by {}: {why}", report.backend), remedy)
        }
        (Err(remora_init::Error::Capability(capability)), _) => untried(capability),
        (Err(error), _) => Finding::failure(format!("rules cannot be applied: {error}"), remedy),
    }
}

fn kernel_tproxy(seen: &Machine) -> Finding {
    let remedy = "load or build xt_TPROXY, xt_socket and xt_mark, or leave pods with REDIRECT, the default";
    match (&seen.tproxy, skipped(&seen.tproxy)) {
        (Ok(report), None) => Finding::ok(format!("rules can be applied, for IPv4 and IPv6, by {}", report.backend)),
        (Ok(_), Some(why)) => Finding::warning(format!("TPROXY works for IPv4 only: {why}"), remedy),
        (Err(remora_init::Error::Capability(capability)), _) => untried(capability),
        (Err(error), _) => Finding::warning(format!("TPROXY does not work: {error}"), remedy),
    }
}

fn untried(capability: &str) -> Finding {
    Finding::warning(
        format!("not tried: it takes a network namespace, and {capability} to make and change one"),
        "look as root on the machine itself",
    )
}

/// Why IPv6 was left out.
fn skipped(trial: &Result<Report, remora_init::Error>) -> Option<&str> {
    let report = trial.as_ref().ok()?;
    report.families.iter().find_map(|(_, outcome)| match outcome {
        Outcome::Skipped(why) => Some(why.as_str()),
        _ => None,
    })
}
