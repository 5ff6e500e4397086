//! From a token's claims to a path in the trust domain.

use std::str::FromStr;

use remora_model::{SpiffeId, TrustDomain};
use serde_json::{Map, Value};

use super::super::refusal::{Reason, Refused};

/// The path of a SPIFFE ID with claims in it: `/ns/{kubernetes.io/namespace}/sa/{kubernetes.io/serviceaccount/name}`.
/// Within braces `/` leads into an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Claim(Vec<String>),
}

/// Why a template is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTemplate {
    /// It does not begin with a slash.
    #[error("a subject template begins with /")]
    NoSlash,
    /// Braces do not pair, or there is nothing between them.
    #[error("a subject template names claims like {{sub}} or {{kubernetes.io/namespace}}")]
    Braces,
    /// No claim in it: everybody would be the same workload.
    #[error("a subject template has at least one claim in it")]
    NoClaim,
}

impl FromStr for SubjectTemplate {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, InvalidTemplate> {
        if !text.starts_with('/') {
            return Err(InvalidTemplate::NoSlash);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (claim, after) = after.split_once('}').ok_or(InvalidTemplate::Braces)?;
            let path: Vec<_> = claim.split('/').map(str::to_owned).collect();
            if before.contains('}') || claim.contains('{') || path.iter().any(String::is_empty) {
                return Err(InvalidTemplate::Braces);
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Claim(path));
            rest = after;
        }
        if rest.contains('}') {
            return Err(InvalidTemplate::Braces);
        }
        if parts.is_empty() {
            return Err(InvalidTemplate::NoClaim);
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }
}

impl SubjectTemplate {
    /// The identity that `claims` make. A claim fills one segment at most: a value with a slash in it could name
    /// somebody else's path.
    pub(crate) fn identity(
        &self,
        trust_domain: &TrustDomain,
        claims: &Map<String, Value>,
    ) -> Result<SpiffeId, Refused> {
        let nobody = |detail: String| Refused::new(Reason::NoIdentity, detail);
        let mut id = format!("spiffe://{trust_domain}");
        for part in &self.0 {
            match part {
                Part::Text(text) => id.push_str(text),
                Part::Claim(path) => {
                    let value = lookup(claims, path)
                        .ok_or_else(|| nobody(format!("the token has no text in the claim {}", path.join("/"))))?;
                    if value.is_empty() || value.contains('/') {
                        return Err(nobody(format!("the claim {} is no path segment", path.join("/"))));
                    }
                    id.push_str(value);
                }
            }
        }
        id.parse().map_err(|_| nobody("the token's claims make no SPIFFE ID".to_owned()))
    }
}

fn lookup<'c>(claims: &'c Map<String, Value>, path: &[String]) -> Option<&'c str> {
    let (last, parents) = path.split_last()?;
    let mut object = claims;
    for parent in parents {
        object = object.get(parent)?.as_object()?;
    }
    object.get(last)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    fn identity(template: &str, json: &str) -> Result<String, Reason> {
        let template: SubjectTemplate = template.parse().unwrap();
        let domain = "example.org".parse().unwrap();
        template.identity(&domain, &claims(json)).map(|id| id.to_string()).map_err(|refused| refused.reason)
    }

    #[test]
    fn claims_fill_segments() {
        let json = r#"{"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart"}}, "sub": "x"}"#;
        let template = "/ns/{kubernetes.io/namespace}/sa/{kubernetes.io/serviceaccount/name}";
        assert_eq!(identity(template, json).unwrap(), "spiffe://example.org/ns/shop/sa/cart");
        assert_eq!(identity("/ci/{sub}", json).unwrap(), "spiffe://example.org/ci/x");
    }

    #[test]
    fn a_claim_cannot_reach_into_another_path() {
        for value in ["a/b", "..", ".", "", "a b", "a%2fb", "a?b", "ü"] {
            let json = serde_json::json!({ "sub": value }).to_string();
            assert_eq!(identity("/ns/{sub}/sa/x", &json), Err(Reason::NoIdentity), "{value:?}");
        }
        assert_eq!(identity("/ns/{sub}", r#"{"sub": 7}"#), Err(Reason::NoIdentity));
        assert_eq!(identity("/ns/{a/b}", r#"{"a": "b"}"#), Err(Reason::NoIdentity));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        let parse = |text: &str| text.parse::<SubjectTemplate>().unwrap_err();
        assert_eq!(parse("ns/{sub}"), InvalidTemplate::NoSlash);
        assert_eq!(parse("/ns/x"), InvalidTemplate::NoClaim);
        for text in ["/{", "/{}", "/{a//b}", "/}{a}", "/{a}}", "/{a{b}}"] {
            assert_eq!(parse(text), InvalidTemplate::Braces, "{text}");
        }
    }
}
