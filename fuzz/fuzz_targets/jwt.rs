//! Bearer tokens as the authority judges them: any bytes are refused in words on one line, for the fuzzer has no key that
//! the issuer's key set knows.
#![no_main]

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use remora_certs::server::refusal::Refused;
use remora_certs::server::reviewer::jwks::JwksSource;
use remora_certs::server::reviewer::oidc::OidcReviewer;
use remora_certs::server::reviewer::{Caller, Reviewers, TokenReviewer};
use tokio::runtime::{Builder, Runtime};

const ISSUER: &str = "https://issuer.example";
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/jwks.json");

/// Made once: what judges, and what drives it. Nothing in it waits, so one thread does.
static JUDGE: LazyLock<(Runtime, Arc<OidcReviewer>, Reviewers)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let keys = runtime.block_on(JwksSource::new(KEYS, None)).expect("the issuer's keys");
    let domain = "example.org".parse().expect("a trust domain");
    let oidc = Arc::new(OidcReviewer::new(ISSUER.to_owned(), "remora-ca".to_owned(), keys, None, domain));
    let reviewers = Reviewers { oidc: Some(Arc::clone(&oidc)), ..Reviewers::default() };
    (runtime, oidc, reviewers)
});

// The first byte says what the rest is: the whole header field, the token, or the parts of one before they are encoded.
fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let (runtime, oidc, reviewers) = &*JUDGE;
    if kind % 3 == 0 {
        let Ok(field) = std::str::from_utf8(bytes) else { return };
        refused(runtime.block_on(reviewers.review(Some(field), None)));
        return;
    }
    let token = if kind % 3 == 1 {
        let Ok(token) = std::str::from_utf8(bytes) else { return };
        token.to_owned()
    } else {
        let parts: Vec<_> = bytes.splitn(3, |byte| *byte == b'\n').map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
        parts.join(".")
    };
    refused(runtime.block_on(reviewers.review(Some(&format!("Bearer {token}")), None)));
    // The issuer's own judge looks at every token, not only those that name the issuer.
    refused(runtime.block_on(oidc.review(&token)));
});

fn refused(judged: Result<Caller, Refused>) {
    let refusal = judged.expect_err("nobody signed this");
    let message = refusal.to_string();
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
}
