use super::*;
use crate::Fingerprint;
use crate::ca::fixture::{CATALOG, PRICING, id};
use crate::ca::{CaRoot, Revoked, Signer};

const NOW: u64 = 1_800_000_000;

fn root(name: &str) -> CaRoot {
    CaRoot { certificate: name.to_owned(), key: format!("{name}-key"), fingerprint: Fingerprint::of(name.as_bytes()) }
}

fn signer(root: &str) -> Signer {
    let name = format!("intermediate of {root}");
    let fingerprint = Fingerprint::of(name.as_bytes());
    Signer { certificate: name.clone(), key: name, fingerprint, root: Fingerprint::of(root.as_bytes()) }
}

fn state(phase: Phase) -> State {
    let mut state = State::new("example.org".parse().unwrap(), root("A"), signer("A"));
    if phase != Phase::Stable {
        state.distribute(root("B"), signer("B"));
    }
    if phase == Phase::Issue {
        state.use_next_signer();
    }
    assert_eq!(state.phase, phase);
    state
}

fn leaf(serial: &str, root: &str, bundle_version: u64) -> IssuedRecord {
    IssuedRecord {
        serial: serial.to_owned(),
        spiffe_id: id(CATALOG),
        anchor: Fingerprint::of(root.as_bytes()),
        signer: signer(root).fingerprint,
        issued_at: NOW - 100,
        not_after: NOW + 100,
        bundle_version,
        instance: None,
        replaces: None,
        by: Proof::Oidc,
        proved_by: None,
    }
}

fn replacing(serial: &str, replaced: &str, root: &str, bundle_version: u64) -> IssuedRecord {
    IssuedRecord { replaces: Some(replaced.to_owned()), ..leaf(serial, root, bundle_version) }
}

/// The serials in the way, or "safe".
fn ask(step: Step, state: &State, records: &[IssuedRecord]) -> Vec<String> {
    match decide(step, state, &holders(state, records.to_vec(), moment(NOW))) {
        Decision::Safe => vec!["safe".to_owned()],
        Decision::Refused(obstacles) => obstacles
            .iter()
            .map(|obstacle| obstacle.record().map_or("order".to_owned(), |r| r.serial.clone()))
            .collect(),
    }
}

#[test]
fn steps_have_an_order() {
    for (phase, next) in [(Phase::Stable, Step::Start), (Phase::Distribute, Step::Issue), (Phase::Issue, Step::Drop)] {
        for step in [Step::Start, Step::Issue, Step::Drop] {
            let expected = if step == next { "safe" } else { "order" };
            assert_eq!(ask(step, &state(phase), &[]), [expected], "{step} in {phase}");
        }
    }
}

#[test]
fn issuing_waits_for_everybody_to_have_the_bundle() {
    let state = state(Phase::Distribute);
    assert_eq!(ask(Step::Issue, &state, &[leaf("01", "A", 1), leaf("02", "A", 2)]), ["01"]);
    assert_eq!(ask(Step::Issue, &state, &[leaf("01", "A", 1), replacing("02", "01", "A", 2)]), ["safe"]);
    assert_eq!(ask(Step::Issue, &state, &[leaf("01", "A", 1), replacing("02", "01", "A", 1)]), ["02"]);
}

#[test]
fn dropping_waits_for_the_last_leaf_of_the_old_root() {
    let state = state(Phase::Issue);
    assert_eq!(ask(Step::Drop, &state, &[leaf("01", "A", 2), leaf("02", "B", 2)]), ["01"]);
    assert_eq!(ask(Step::Drop, &state, &[leaf("01", "A", 2), replacing("02", "01", "B", 2)]), ["safe"]);
    let gone = IssuedRecord { not_after: NOW - 1, ..leaf("01", "A", 2) };
    assert_eq!(ask(Step::Drop, &state, &[gone]), ["safe"], "expired");
    let last_second = IssuedRecord { not_after: NOW, ..leaf("01", "A", 2) };
    assert_eq!(ask(Step::Drop, &state, &[last_second]), ["01"], "valid to the end of its last second");
}

#[test]
fn nobody_can_replace_another_identitys_leaf() {
    let state = state(Phase::Issue);
    let foreign = IssuedRecord { spiffe_id: id(PRICING), ..replacing("02", "01", "B", 2) };
    assert_eq!(ask(Step::Drop, &state, &[leaf("01", "A", 2), foreign]), ["01"]);
}

#[test]
fn an_answer_that_may_be_lost_replaces_nothing_yet() {
    let state = state(Phase::Issue);
    let at = |issued_at, by| IssuedRecord { issued_at, by, ..replacing("02", "01", "B", 2) };
    let ask = |record| ask(Step::Drop, &state, &[leaf("01", "A", 2), record]);
    let settled = SETTLED.as_secs();
    assert!(SETTLED >= crate::source::LONGEST_RETRY, "whoever lost an answer is on record again by then");
    assert_eq!(ask(at(NOW - settled + 1, Proof::Oidc)), ["01"]);
    assert_eq!(ask(at(NOW - settled, Proof::Oidc)), ["safe"]);
    assert_eq!(ask(at(NOW, Proof::Command)), ["safe"], "its files were in place before it said so");
    assert_eq!(ask(at(NOW + settled, Proof::Oidc)), ["safe"], "by a clock that was wrong");
}

#[test]
fn a_holder_says_that_it_has_a_certificate_by_renewing_it() {
    let state = state(Phase::Issue);
    let fresh = |serial, replaced| IssuedRecord { issued_at: NOW, ..replacing(serial, replaced, "B", 2) };
    let old = leaf("01", "A", 2);
    assert_eq!(ask(Step::Drop, &state, &[old.clone(), fresh("02", "01")]), ["01"]);
    assert_eq!(ask(Step::Drop, &state, &[old.clone(), fresh("02", "01"), fresh("03", "02")]), ["safe"]);
    // The answer was lost, however long ago: it asked anew with the old one.
    let lost = IssuedRecord { issued_at: NOW - 99, ..fresh("02", "01") };
    assert_eq!(ask(Step::Drop, &state, &[old.clone(), lost.clone(), fresh("03", "01")]), ["01"]);
    let foreign = IssuedRecord { spiffe_id: id(PRICING), ..fresh("04", "03") };
    assert_eq!(ask(Step::Drop, &state, &[old.clone(), lost.clone(), fresh("03", "01"), foreign]), ["01"]);
    assert_eq!(ask(Step::Drop, &state, &[old, lost, fresh("03", "01"), fresh("04", "03")]), ["safe"]);
}

#[test]
fn a_replacement_that_expired_earlier_still_counts() {
    let state = state(Phase::Issue);
    let short = IssuedRecord { not_after: NOW - 1, ..replacing("02", "01", "B", 2) };
    assert_eq!(ask(Step::Drop, &state, &[leaf("01", "A", 2), short]), ["safe"]);
}

#[test]
fn a_revoked_leaf_is_not_waited_for() {
    let mut state = state(Phase::Issue);
    state.revoked = vec![Revoked::new(&leaf("01", "A", 2), moment(NOW))];
    assert_eq!(ask(Step::Drop, &state, &[leaf("01", "A", 2)]), ["safe"]);
}

#[test]
fn a_refusal_names_who_is_in_the_way() {
    let record = IssuedRecord { instance: Some("pod\n7".to_owned()), ..leaf("0a", "A", 1) };
    let expected = format!(
        "{CATALOG} (pod\\n7) holds a certificate of the old root: serial 0a, until {}",
        Clock(&moment(NOW + 100))
    );
    assert_eq!(Obstacle::OldAnchor(record).to_string(), expected);
}
