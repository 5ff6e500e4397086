//! Real pods on a real Kubernetes with the images that are shipped: `remora install`, a labelled namespace, the shop's plain manifests.
//!
//! `tests/cluster/test.sh` starts the cluster and names it in `REMORA_CLUSTER_NODE`; without it all of this is SKIPPED. Every test
//! says one thing of the same cluster, so they take turns. [`uninstall`] comes last, in a run of its own.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod admission;
mod check;
mod cluster;
mod control;
mod gateway;
mod guide;
mod lifecycle;
mod shop;
mod traffic;
mod uninstall;
