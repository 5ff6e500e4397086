//! What runs beside a cluster or in a person's shell: the injector, the control plane, run, install and check.

pub mod authority;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod control_plane;
pub mod inject;
pub mod install;
pub mod manifest;
pub mod run;
pub mod webhook;
