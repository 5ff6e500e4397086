//! The messages and stubs of the protocols that identity travels by, generated from `proto/`.
#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)] // Generated; the .proto files explain.

/// Istio's certificate service.
pub mod istio {
    tonic::include_proto!("istio.v1.auth");
}

/// The SPIFFE Workload API.
pub mod workload {
    tonic::include_proto!("_");
}

/// Remora's own watch of trust bundles.
pub mod trust_bundle {
    tonic::include_proto!("remora.identity.v1");
}
