//! `remora check`: for each line a world in which just that is broken, and the whole answer compared with the one before.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod answer;
mod cluster;
mod machine;
mod pod;
mod relay;
