//! The volumes the proxy reads from, built from Kubernetes' types.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, ObjectFieldSelector, ProjectedVolumeSource,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::names::{MESH_VOLUME, POD_VOLUME, TOKEN_VOLUME, TRUST_VOLUME};

/// All of them.
pub(crate) fn volumes() -> [Volume; 4] {
    [config_map(MESH_VOLUME), config_map(TRUST_VOLUME), token(), pod()]
}

/// The copy of a ConfigMap that the control plane keeps in the pod's namespace under the volume's name.
fn config_map(name: &str) -> Volume {
    let source = ConfigMapVolumeSource { name: name.to_owned(), ..ConfigMapVolumeSource::default() };
    Volume { name: name.to_owned(), config_map: Some(source), ..Volume::default() }
}

/// A token that only the certificate authority takes.
fn token() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some("remora-ca".to_owned()),
        expiration_seconds: Some(3600),
        path: "token".to_owned(),
    };
    let sources = vec![VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() }];
    let source = ProjectedVolumeSource { sources: Some(sources), ..ProjectedVolumeSource::default() };
    Volume { name: TOKEN_VOLUME.to_owned(), projected: Some(source), ..Volume::default() }
}

fn pod() -> Volume {
    let file = |name: &str| DownwardAPIVolumeFile {
        path: name.to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: format!("metadata.{name}"),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let items = Some(vec![file("labels"), file("annotations")]);
    let source = DownwardAPIVolumeSource { items, ..DownwardAPIVolumeSource::default() };
    Volume { name: POD_VOLUME.to_owned(), downward_api: Some(source), ..Volume::default() }
}
