//! The webhook's own small authority: what it and its certificate are, and what is to be done next. Pure but for keys.
//!
//! The API server trusts whoever its `caBundle` names, so a new authority is put into the bundle first, signs only when it
//! is seen there, and the old one leaves when nothing it signed is shown any more.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};

/// How far back validity begins, for API servers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// The longest that others are given to notice a change.
const SETTLE_AT_MOST: Duration = Duration::from_secs(60);

/// How long things live. Both are replaced at two thirds of it.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    /// The serving certificate.
    pub leaf: Duration,
    /// The authority.
    pub authority: Duration,
}

/// What the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Oldest first; at most two. The last one signs.
    authorities: Vec<Authority>,
    /// The key of the last one.
    key: String,
    leaf: Leaf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Authority {
    certificate: String,
    made: u64,
    ends: u64,
}

/// The serving certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// PEM.
    pub certificate: String,
    /// PKCS#8 PEM.
    pub key: String,
    names: Vec<String>,
    made: u64,
    ends: u64,
    /// The authority that signed it.
    by: String,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put a new authority into the bundle.
    AddAuthority,
    /// Sign a new serving certificate.
    RenewLeaf,
    /// Take the old authority out of the bundle.
    DropAuthority,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Lives {
    /// How long others are given to notice a change.
    fn settle(self) -> u64 {
        (self.leaf / 10).min(SETTLE_AT_MOST).as_secs()
    }
}

/// Whether two thirds of a life are over, or the clock went back before it.
fn is_due(made: u64, ends: u64, now: u64) -> bool {
    now < made || now >= made + (ends - made) * 2 / 3
}

impl State {
    /// Makes an authority and a certificate for `names`.
    ///
    /// # Errors
    /// A name that is neither a DNS name nor an address, or no randomness.
    pub fn make(names: &[String], lives: Lives, now: SystemTime) -> Result<Self, rcgen::Error> {
        let (authority, key) = Authority::make(lives.authority, now)?;
        let leaf = Leaf::sign(&authority, &key, names, lives.leaf, now)?;
        Ok(Self { authorities: vec![authority], key, leaf })
    }

    /// What the API server must trust, PEM.
    pub fn bundle(&self) -> String {
        self.authorities.iter().map(|authority| &*authority.certificate).collect()
    }

    /// What is shown.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// What is to be done at `now`. `trusted` is the bundle that the API server has; [`None`] where nobody asks us yet.
    pub fn next(&self, names: &[String], lives: Lives, trusted: Option<&str>, now: SystemTime) -> Option<Step> {
        let now = seconds(now);
        let newest = self.authorities.last()?;
        if self.authorities.len() == 1 && is_due(newest.made, newest.ends, now) {
            return Some(Step::AddAuthority);
        }
        let signed_by_newest = self.leaf.by == newest.certificate;
        let may_sign = trusted.is_none_or(|trusted| trusted.contains(&*newest.certificate))
            && (signed_by_newest || now >= newest.made + lives.settle());
        let wanted = !signed_by_newest || is_due(self.leaf.made, self.leaf.ends, now) || self.leaf.names != names;
        if wanted {
            return may_sign.then_some(Step::RenewLeaf);
        }
        let settled = now >= self.leaf.made + lives.settle();
        (self.authorities.len() > 1 && settled).then_some(Step::DropAuthority)
    }

    /// Does it.
    ///
    /// # Errors
    /// As [`State::make`].
    pub fn after(&self, step: Step, names: &[String], lives: Lives, now: SystemTime) -> Result<Self, rcgen::Error> {
        let mut state = self.clone();
        match step {
            Step::AddAuthority => {
                let (authority, key) = Authority::make(lives.authority, now)?;
                state.authorities.push(authority);
                state.key = key;
            }
            Step::RenewLeaf => {
                if let Some(newest) = self.authorities.last() {
                    state.leaf = Leaf::sign(newest, &self.key, names, lives.leaf, now)?;
                }
            }
            Step::DropAuthority => drop(state.authorities.drain(..self.authorities.len() - 1)),
        }
        Ok(state)
    }
}

impl Authority {
    fn make(life: Duration, now: SystemTime) -> Result<(Self, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("remora webhook CA {}", seconds(now)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, life, now);
        let certificate = params.self_signed(&key)?.pem();
        Ok((Self { certificate, made: seconds(now), ends: seconds(now + life) }, key.serialize_pem()))
    }
}

impl Leaf {
    fn sign(
        authority: &Authority,
        authority_key: &str,
        names: &[String],
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(authority_key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        let common = names.iter().find(|name| name.parse::<IpAddr>().is_err());
        params.distinguished_name.push(DnType::CommonName, common.map_or("remora-control", String::as_str));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, life, now);
        Ok(Self {
            certificate: params.signed_by(&key, &issuer)?.pem(),
            key: key.serialize_pem(),
            names: names.to_vec(),
            made: seconds(now),
            ends: seconds(now + life),
            by: authority.certificate.clone(),
        })
    }
}

fn valid(params: &mut CertificateParams, life: Duration, now: SystemTime) {
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVES: Lives = Lives { leaf: Duration::from_secs(600), authority: Duration::from_secs(6000) };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn names() -> Vec<String> {
        vec!["remora-control.remora-system.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn step(state: &State, trusted: Option<&str>, now: u64) -> Option<Step> {
        state.next(&names(), LIVES, trusted, at(now))
    }

    fn done(state: &State, step: Step, now: u64) -> State {
        state.after(step, &names(), LIVES, at(now)).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_or_for_other_names() {
        let state = State::make(&names(), LIVES, at(0)).unwrap();
        assert_eq!(step(&state, None, 399), None);
        assert_eq!(step(&state, None, 400), Some(Step::RenewLeaf));
        assert_eq!(state.next(&["other".to_owned()], LIVES, None, at(1)), Some(Step::RenewLeaf));
        let renewed = done(&state, Step::RenewLeaf, 400);
        assert_ne!(renewed.leaf(), state.leaf());
        assert_eq!(renewed.bundle(), state.bundle());
        assert_eq!(step(&renewed, None, 799), None);
    }

    #[test]
    fn a_new_authority_signs_only_when_it_is_trusted_and_the_old_one_leaves_last() {
        let state = done(&State::make(&names(), LIVES, at(0)).unwrap(), Step::RenewLeaf, 3999);
        let old = state.bundle();
        assert_eq!(step(&state, Some(&old), 4000), Some(Step::AddAuthority));
        let state = done(&state, Step::AddAuthority, 4000);
        assert!(state.bundle().starts_with(&old) && state.bundle().len() > old.len());
        let both = state.bundle();
        assert_eq!(step(&state, Some(&old), 4100), None, "the API server does not know it yet");
        assert_eq!(step(&state, Some(&both), 4059), None, "others may not know it yet");
        assert_eq!(step(&state, Some(&both), 4060), Some(Step::RenewLeaf));
        let state = done(&state, Step::RenewLeaf, 4060);
        assert_eq!(step(&state, Some(&both), 4119), None, "somebody may still show the old certificate");
        assert_eq!(step(&state, Some(&both), 4120), Some(Step::DropAuthority));
        let state = done(&state, Step::DropAuthority, 4120);
        assert_eq!(format!("{old}{}", state.bundle()), both);
        assert_eq!(step(&state, Some(&both), 4121), None);
    }
}
