//! Signing requests: any bytes are a request whose key signed it, or an error on one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remora_certs::ca::ParsedCsr;

fuzz_target!(|pem: &[u8]| {
    if let Err(error) = ParsedCsr::from_pem(pem) {
        let message = error.to_string();
        assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
    }
});
