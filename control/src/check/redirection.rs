//! Whether this network namespace is redirected as it should be: by `remora-init`'s own verification.

use std::ffi::OsString;

use remora_init::backend::{Backend, Iptables};
use remora_init::cli::Invocation;
use remora_init::plan::Family;
use remora_init::verify::{self, Finding as Found};

use super::beside::Proxy;
use super::{Finding, Local};
use crate::inject::REDIRECTION_VARIABLE;

/// What was seen of it.
#[derive(Debug)]
pub(super) struct Redirection {
    /// Whether there is any rule of ours; none where nobody may look.
    ours: Option<bool>,
    found: Vec<Found>,
    /// Why the rules could not be looked at; then only connections were tried.
    unseen: Option<remora_init::Error>,
}

/// Whether `remora-init` understands its arguments.
///
/// # Errors
/// What it says.
pub fn arguments(local: &Local) -> Result<(), remora_init::Error> {
    parse(local.init.clone()).map(drop)
}

fn parse(arguments: Vec<String>) -> Result<Invocation, remora_init::Error> {
    let arguments: Vec<OsString> =
        std::iter::once("remora-init".into()).chain(arguments.into_iter().map(Into::into)).collect();
    remora_init::cli::parse(&arguments).unwrap_or_else(|error| Err(remora_init::Error::Arguments(error.to_string())))
}

/// What `remora-init` was told here: on the command line, else as injection tells the proxy.
///
/// # Errors
/// Arguments that make no sense.
pub(super) fn told(local: &Local, proxy: &Proxy) -> Result<Invocation, remora_init::Error> {
    match proxy.variable(REDIRECTION_VARIABLE) {
        Some(told) if local.init.is_empty() => parse(told.split_whitespace().map(str::to_owned).collect()),
        _ => parse(local.init.clone()),
    }
}

impl Redirection {
    /// Looks, and tries connections; where nobody may look, and redirection must be there, only that.
    pub(super) fn look(invocation: &Invocation, must_be: bool) -> Self {
        let Invocation { spec, options, .. } = invocation;
        let verified = verify::verify(spec, options);
        let all = Backend::BOTH.into_iter().flat_map(|backend| Family::BOTH.map(|family| (backend, family)));
        let saved = all.filter_map(|(backend, family)| Iptables::find(backend, family, options).ok()?.save().ok());
        let ours = saved.map(|live| live.has_ours()).reduce(|one, other| one || other);
        let (found, unseen) = match verified {
            Ok(report) => (report, None),
            Err(error) if must_be => (verify::connect(spec, options), Some(error)),
            Err(error) => (verify::Report::default(), Some(error)),
        };
        Self { ours, found: found.findings().to_vec(), unseen }
    }

    /// Whether nothing of ours is there at all.
    pub(super) fn is_none(&self) -> bool {
        self.ours == Some(false)
    }

    /// Whether it is in place and works.
    pub(super) fn judge(&self) -> Finding {
        if self.is_none() {
            let remedy = "run remora-init in this network namespace; in a pod, see its init container's log";
            return Finding::failure("nothing is redirected here", remedy);
        }
        let texts = |which: fn(&Found) -> Option<&String>| self.found.iter().filter_map(which).collect::<Vec<_>>();
        let problems = texts(|found| if let Found::Problem(text) = found { Some(text) } else { None });
        let proofs = texts(|found| if let Found::Good(text) = found { Some(text) } else { None });
        match (&problems[..], &self.unseen) {
            ([], None) => Finding::ok("connections in and out are redirected to the proxy"),
            ([], Some(why)) => {
                let proof = proofs.first().map_or("no connection could be tried", |proof| proof.as_str());
                let remedy = "look as root, with iptables and the capabilities NET_ADMIN, NET_RAW and SYS_ADMIN";
                Finding::warning(format!("the rules cannot be looked at: {why}; {proof}"), remedy)
            }
            ([first, rest @ ..], _) => {
                let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
                let remedy = "run remora-init again with what it was told, it repairs; if it was told more than its defaults \
                              and injection say, repeat that here after `--`";
                Finding::failure(format!("{first}{more}"), remedy)
            }
        }
    }
}
