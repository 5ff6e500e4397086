//! Trust bundles, revocation lists and a peer's chain: any bytes are judged or refused in words, never with a panic, and no
//! chain is accepted that the bundle's own authority did not sign.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use remora_certs::{PeerRole, RevocationList, TrustBundle, TrustBundles, verify_chain};
use rustls_pki_types::CertificateDer;

// The first byte says what the rest is read as.
fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let path = "fuzz.pem".as_ref();
    let domain = "example.org".parse().expect("a trust domain");
    match kind % 3 {
        0 => {
            if let Err(error) = TrustBundle::parse(domain, path, bytes) {
                assert!(error.to_string().starts_with("fuzz.pem: "), "{error}");
            }
        }
        1 => match RevocationList::parse(path, bytes) {
            Ok(lists) => lists.iter().for_each(|list| assert!(!list.issuer().contains(char::is_control))),
            Err(error) => assert!(error.to_string().starts_with("fuzz.pem: "), "{error}"),
        },
        _ => judge(bytes),
    }
});

/// Certificates one after another, each behind its length in two bytes, under a root that the fuzzer has no key of.
fn judge(mut bytes: &[u8]) {
    const ROOT: &[u8] = include_bytes!("../root.pem");
    let bundle =
        TrustBundle::parse("example.org".parse().expect("a domain"), "root.pem".as_ref(), ROOT).expect("a root");
    let mut chain = Vec::new();
    while let &[high, low, ref rest @ ..] = bytes {
        let (der, more) = rest.split_at(usize::from(u16::from_be_bytes([high, low])).min(rest.len()));
        chain.push(CertificateDer::from(der));
        bytes = more;
    }
    let bundles = TrustBundles::new(bundle);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for role in [PeerRole::Client, PeerRole::Server] {
        let error = verify_chain(&chain, role, &bundles, &[], now).expect_err("nobody signed this");
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
}
