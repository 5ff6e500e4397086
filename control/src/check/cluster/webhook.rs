//! The lines about the webhook, judged: pure.

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Cluster;
use super::judge::{INSTALL, LOOK, either, some, there};
use crate::check::Finding;
use crate::cluster::{INJECTOR, NAMESPACE, WEBHOOK_SECRET};
use crate::install::objects::{Options, objects};
use crate::webhook::certificates::STATE_KEY;
use crate::webhook::issue;

pub(super) fn configuration(seen: &Cluster) -> Finding {
    let what = format!("MutatingWebhookConfiguration {INJECTOR}");
    either(there(seen, &seen.configuration, &what, INSTALL).map(|configuration| {
        let found = configuration.webhooks.as_deref().unwrap_or_default();
        let missing: Vec<_> =
            installed().into_iter().filter(|name| !found.iter().any(|webhook| webhook.name == *name)).collect();
        let lenient: Vec<_> = found
            .iter()
            .filter(|webhook| webhook.failure_policy.as_deref() != Some("Fail"))
            .map(|webhook| webhook.name.clone())
            .collect();
        match (&missing[..], &lenient[..]) {
            ([], []) => Finding::ok(format!("{what} is there")),
            ([], lenient) => Finding::warning(
                format!("{what}: while it is away, pods start without a sidecar: {}", some(lenient)),
                format!("{INSTALL}, which sets failurePolicy to Fail"),
            ),
            (missing, _) => Finding::failure(format!("{what} has no webhook {}", some(missing)), INSTALL),
        }
    }))
}

/// The names of the webhooks that are installed.
fn installed() -> Vec<String> {
    let Ok(trust_domain) = "cluster.local".parse() else { return Vec::new() };
    let options = Options {
        trust_domain,
        image_registry: String::new(),
        version: String::new(),
        compat: None,
        replicas: 1,
        mesh: None,
        webhook_url: None,
    };
    let last = objects(&options).pop();
    let webhooks = last.and_then(|object| object.value["webhooks"].as_array().cloned()).unwrap_or_default();
    webhooks.iter().filter_map(|webhook| webhook["name"].as_str().map(str::to_owned)).collect()
}

pub(super) fn certificate(seen: &Cluster) -> Finding {
    let what = format!("Secret {NAMESPACE}/{WEBHOOK_SECRET}");
    either((|| {
        let secret = there(seen, &seen.webhook, &what, LOOK)?;
        let broken =
            |why: String| Finding::failure(format!("{what}: {why}"), "delete it: the control plane makes it anew");
        let content = secret.data.as_ref().and_then(|data| data.get(STATE_KEY));
        let content = content.ok_or_else(|| broken(format!("it has no {STATE_KEY}")))?;
        let state: issue::State = serde_json::from_slice(&content.0).map_err(|error| broken(error.to_string()))?;
        let configuration = seen.configuration.as_ref().ok().and_then(Option::as_ref);
        let webhooks = configuration.and_then(|configuration| configuration.webhooks.as_deref()).unwrap_or_default();
        for webhook in webhooks {
            let bundle = webhook.client_config.ca_bundle.as_ref().map(|bundle| &*bundle.0).unwrap_or_default();
            vouches(bundle, &webhook.client_config, &state, seen).map_err(|why| {
                Finding::failure(
                    format!("the caBundle of {} does not vouch for {what}: {why}", webhook.name),
                    format!("the control plane sets it: {LOOK}"),
                )
            })?;
        }
        Ok(Finding::ok(format!("the API server knows the certificate in {what}")))
    })())
}

fn vouches(bundle: &[u8], to: &WebhookClientConfig, state: &issue::State, seen: &Cluster) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle) {
        roots.add(root.map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    }
    let provider = Arc::clone(remora_certs::tls::provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| text(&e))?;
    let leaf = CertificateDer::from_pem_slice(state.leaf().certificate.as_bytes()).map_err(|e| text(&e))?;
    let host = match (&to.url, &to.service) {
        (Some(url), _) => {
            url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default()
        }
        (None, Some(service)) => format!("{}.{}.svc", service.name, service.namespace),
        (None, None) => return Err("it names neither a URL nor a Service".to_owned()),
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| format!("{host} is not a server name"))?;
    let now =
        UnixTime::since_unix_epoch(seen.now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default());
    verifier.verify_server_cert(&leaf, &[], &name, &[], now).map(drop).map_err(|e| text(&e))
}

pub(super) fn injection(seen: &Cluster) -> Finding {
    match &seen.injection {
        Ok(()) => Finding::ok("a pod that asks for a sidecar gets one"),
        Err(why) => Finding::failure(
            format!("a pod that asks for a sidecar gets none: {why}"),
            "see the lines about the control plane and the webhook, and whether the API server may reach port 15017",
        ),
    }
}
