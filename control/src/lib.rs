//! What runs beside a cluster or in a person's shell: the injector, the control plane, run, install and check.

pub mod cli;
pub mod inject;
pub mod manifest;
