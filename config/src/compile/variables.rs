//! The values of environment variables: each malformed one is reported under its name.

use std::time::Duration;

use remora_model::MtlsMode;

use crate::environment::Environment;
use crate::errors::{Complaint, Problems, quoted};
use crate::raw::{INTERCEPTIONS, MODES};
use crate::suggest::nearest;
use crate::value;

/// The variable that names the resource.
pub(super) const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
/// The variable that wins over the file's `inbound.mtls`.
pub(super) const INBOUND_MTLS: &str = "REMORA_INBOUND_MTLS";

/// The variables, and where to complain about them.
pub(super) struct Variables<'e> {
    pub(super) env: &'e Environment,
    pub(super) problems: &'e mut Problems,
}

/// What the pod says of itself where many share one file: it wins over the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overrides {
    pub(super) inbound_mtls: Option<MtlsMode>,
    pub(super) tproxy: Option<bool>,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) lame_duck: Option<Duration>,
    pub(super) exit_with_application: bool,
}

impl Overrides {
    pub(super) fn read(variables: &mut Variables<'_>) -> Self {
        Self {
            inbound_mtls: variables.first(&[INBOUND_MTLS], |text| word(text, MODES)),
            tproxy: variables.first(&["REMORA_INTERCEPTION"], |text| word(text, INTERCEPTIONS)),
            drain_timeout: variables.first(&["REMORA_DRAIN_TIMEOUT"], value::duration),
            lame_duck: variables.first(&["REMORA_LAME_DUCK"], value::duration),
            exit_with_application: variables.first(&["REMORA_EXIT_WITH_APPLICATION"], truth).unwrap_or(false),
        }
    }
}

impl Variables<'_> {
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        parse(text).map_err(|complaint| self.problems.variable(name, complaint)).ok()
    }

    pub(super) fn first<T>(&mut self, names: &[&str], parse: impl Fn(&str) -> Result<T, Complaint>) -> Option<T> {
        let (name, text) = self.env.first(names)?;
        self.parsed(name, text, parse)
    }

    /// `key=value,key=value`, percent-encoded (W3C Baggage, as the OpenTelemetry specification asks).
    pub(super) fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let text = self.env.variable(name).unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let mut pairs = Vec::new();
        for (index, item) in items.enumerate() {
            let pair = item.split_once('=').and_then(|(key, value)| {
                Some((percent_decoded(key.trim())?, percent_decoded(value.trim())?)).filter(|(key, _)| !key.is_empty())
            });
            if pair.is_none() {
                self.problems.variable(name, format!("item {} is not KEY=VALUE, percent-encoded", index + 1));
            }
            pairs.extend(pair);
        }
        pairs
    }
}

/// `true` or `false`, in any case.
pub(super) fn truth(text: &str) -> Result<bool, Complaint> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{} is not true or false", quoted(text)).into()),
    }
}

/// One of the known words.
pub(super) fn word<T: Copy>(text: &str, known: &[(&str, T)]) -> Result<T, Complaint> {
    let names = || known.iter().map(|(name, _)| *name);
    known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let all = names().collect::<Vec<_>>().join(", ");
        Complaint::from(format!("{} is not one of {all}", quoted(text))).suggest(nearest(text, names()))
    })
}

/// `None`: a percent sign without two hexadecimal digits, or not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(if byte == b'%' { u8::try_from(digit()? * 16 + digit()?).ok()? } else { byte });
    }
    String::from_utf8(bytes).ok()
}
