//! The command lines of other meshes' tools, each with its own meaning.

mod istio;
mod linkerd;

pub(crate) use istio::istio;
pub(crate) use linkerd::linkerd;
