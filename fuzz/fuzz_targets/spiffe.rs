//! SPIFFE IDs: what is accepted is displayed as it came, and any reader of URIs finds the same trust domain and path in it.
#![no_main]

use http::Uri;
use libfuzzer_sys::fuzz_target;
use remora_model::identity::{SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    if let Ok(domain) = text.parse::<TrustDomain>() {
        assert_eq!(domain.as_str(), text);
        assert!(SpiffeId::workload(&domain, "a", "b").is_ok());
    }
    // With a scheme or without: most inputs should get as far as the path.
    for text in [text.to_owned(), format!("spiffe://{text}")] {
        let Ok(id) = text.parse::<SpiffeId>() else { continue };
        assert_eq!(id.to_string(), text);
        assert!(id.trust_domain().parse::<TrustDomain>().is_ok());
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        assert!(!id.path().split('/').any(|segment| segment == ".."), "{text}");
        if let Ok(uri) = text.parse::<Uri>() {
            assert_eq!(uri.scheme_str(), Some("spiffe"));
            assert_eq!(uri.authority().map(|authority| authority.as_str()), Some(id.trust_domain()));
            assert_eq!((uri.path().trim_start_matches('/'), uri.query()), (id.path().trim_start_matches('/'), None));
        }
    }
});
