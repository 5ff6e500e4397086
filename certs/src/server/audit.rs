//! One line for every certificate and every refusal, under the log target `audit`. Never a token, a key or a request.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::refusal::Refused;
use super::reviewer::{Caller, word};
use crate::ca::IssuedRecord;
use crate::verify::Clock;

/// The log target.
pub const TARGET: &str = "audit";

/// Who asked, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// Where the connection comes from.
    pub(crate) peer: SocketAddr,
    /// What the request calls the process, if it does.
    pub(crate) instance: Option<String>,
    /// Who it proved to be, once it has.
    pub(crate) caller: Option<Caller>,
}

/// A certificate was issued and recorded.
pub(crate) fn issued(asker: &Asker, record: &IssuedRecord) {
    let Some(caller) = &asker.caller else { return };
    tracing::info!(
        target: TARGET,
        spiffe_id = %caller.spiffe_id,
        subject = caller.subject.as_str(),
        proof = word(caller.proof),
        serial = record.serial.as_str(),
        not_after = %Clock(&(SystemTime::UNIX_EPOCH + Duration::from_secs(record.not_after))),
        anchor = %record.anchor,
        instance = asker.instance.as_deref().unwrap_or_default(),
        peer = %asker.peer,
        "certificate issued"
    );
}

/// A request was refused.
pub(crate) fn refused(asker: &Asker, refused: &Refused) {
    let caller = asker.caller.as_ref();
    tracing::warn!(
        target: TARGET,
        reason = refused.reason.word(),
        detail = refused.detail.as_str(),
        spiffe_id = caller.map(|caller| caller.spiffe_id.as_str()).unwrap_or_default(),
        subject = caller.map(|caller| caller.subject.as_str()).unwrap_or_default(),
        proof = caller.map(|caller| word(caller.proof)).unwrap_or_default(),
        instance = asker.instance.as_deref().unwrap_or_default(),
        peer = %asker.peer,
        "request refused"
    );
}
