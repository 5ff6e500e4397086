//! What is called what in an injected pod.

/// The init container that redirects.
pub(crate) const INIT_CONTAINER: &str = "remora-init";
/// The sidecar.
pub(crate) const PROXY_CONTAINER: &str = "remora-proxy";
/// The lists of containers in a pod's specification.
pub(crate) const CONTAINERS: [&str; 2] = ["containers", "initContainers"];

/// The volume with the mesh's configuration.
pub(crate) const MESH_VOLUME: &str = "remora-mesh";
/// The volume with the trust bundle.
pub(crate) const TRUST_VOLUME: &str = "remora-trust-bundle";
/// The volume with the token for the certificate authority.
pub(crate) const TOKEN_VOLUME: &str = "remora-token";
/// The volume with the pod's labels and annotations.
pub(crate) const POD_VOLUME: &str = "remora-pod";
/// All of them, in order.
pub(crate) const VOLUMES: [&str; 4] = [MESH_VOLUME, TRUST_VOLUME, TOKEN_VOLUME, POD_VOLUME];

/// Where an injected proxy has its configuration.
pub(crate) const CONFIG: &str = "/etc/remora/mesh/mesh.yaml";

/// The variable with what `remora-init` was told; only for those who look into the pod.
pub(crate) const REDIRECTION_VARIABLE: &str = "REMORA_REDIRECTION";
/// The variable with the application's probes.
pub(crate) const PROBES_VARIABLE: &str = "REMORA_PROBES";
