//! The certificate authority as a service: real processes, a client in another language, certificates judged by OpenSSL
//! and tokens made by pyjwt.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod ask;
mod kubernetes;
mod lifecycle;
mod requests;
mod rotation;
mod tokens;
