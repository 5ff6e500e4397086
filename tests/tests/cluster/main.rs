//! Real pods: the shop's plain manifests with sidecars beside its applications, on a real Kubernetes, with the images that are shipped.
//!
//! `tests/cluster/test.sh` starts the cluster and names it in `REMORA_CLUSTER_NODE`; without it all of this is SKIPPED. Every test
//! says one thing of the same cluster, so they take turns.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod cluster;
mod gateway;
mod lifecycle;
mod shop;
mod sidecar;
mod traffic;
