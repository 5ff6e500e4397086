//! Whether this network namespace is redirected as it should be: by `remora-init`'s own verification.

use std::ffi::OsString;
use std::path::Path;

use remora_init::backend::{Backend, Iptables};
use remora_init::cli::Invocation;
use remora_init::plan::Family;
use remora_init::verify::{self, Finding as Found};

use super::beside::Proxy;
use super::{Finding, Local};
use crate::inject;

/// Where an injected proxy sees its pod's annotations.
const ANNOTATIONS: &str = "/etc/remora/pod/annotations";

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

/// What `remora-init` was told here: on the command line, else what injection makes of the pod's annotations.
///
/// # Errors
/// Arguments or annotations that make no sense.
pub(super) fn told(local: &Local, proxy: &Proxy) -> Result<Invocation, remora_init::Error> {
    if !local.init.is_empty() {
        return parse(local.init.clone());
    }
    let annotations = proxy.read(Path::new(ANNOTATIONS)).map(|text| fields(&String::from_utf8_lossy(&text)));
    let arguments = inject::redirection(&annotations.unwrap_or_default(), proxy.ids).map_err(|refusals| {
        let all: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        remora_init::Error::Arguments(all.join("; "))
    });
    parse(arguments?)
}

/// The lines of a downward API volume: `name="value"`, quoted as Go does.
fn fields(text: &str) -> inject::annotations::Map {
    let field = |line: &str| {
        let (name, quoted) = line.split_once('=')?;
        Some((name.to_owned(), serde_json::from_str(quoted).ok()?))
    };
    text.lines().filter_map(field).collect()
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
                              and the pod's annotations say, repeat that here after `--`";
                Finding::failure(format!("{first}{more}"), remedy)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_annotations_are_what_init_was_told() {
        let text = "a/b=\"x \\\"y\\\"\\n\"\nremora.dev/exclude-inbound-ports=\"9090,9100-9110\"\nnonsense\n";
        let annotations = fields(text);
        assert_eq!(annotations["a/b"], "x \"y\"\n");
        let arguments = inject::redirection(&annotations, Some((1337, 1337))).unwrap();
        assert_eq!(arguments, ["--exclude-inbound-ports=9090,9100-9110"]);
        let spec = parse(arguments).unwrap().spec;
        assert_eq!(spec.inbound.exclude_ports.len(), 2);
        // As on OpenShift, and as with TPROXY.
        let arguments = |ids| inject::redirection(&inject::annotations::Map::new(), ids).unwrap();
        assert_eq!(
            arguments(Some((1_000_620_001, 1_000_620_001))),
            ["--proxy-uid=1000620001", "--proxy-gid=1000620001"]
        );
        assert_eq!(arguments(None), Vec::<String>::new());
        let tproxy = [("remora.dev/interception".to_owned(), "tproxy".to_owned())].into();
        assert_eq!(inject::redirection(&tproxy, Some((0, 1337))).unwrap(), ["--inbound-mode=tproxy", "--proxy-uid="]);
        assert!(self::arguments(&Local { init: vec!["--frobnicate".to_owned()], ..Local::default() }).is_err());
    }
}
