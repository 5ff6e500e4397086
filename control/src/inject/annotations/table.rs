//! The table's rows.

use super::Map;
use crate::inject::settings::{Networks, Options};
use crate::inject::values::{self, quoted};

/// One annotation of ours.
#[derive(Debug)]
pub(crate) struct Annotation {
    /// After `remora.dev/`.
    pub(crate) name: &'static str,
    /// What its value looks like.
    pub(crate) kind: &'static str,
    /// What holds without it.
    pub(crate) default: &'static str,
    /// What it does.
    pub(crate) doc: &'static str,
    /// Parses the value and sets it.
    pub(crate) set: fn(&mut Options, &str) -> Result<(), String>,
    /// Istio's names for it.
    pub(crate) istio: &'static [Foreign],
    /// Linkerd's names for it.
    pub(crate) linkerd: &'static [Foreign],
}

/// Another mesh's annotation with the same meaning.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// The whole name.
    pub(crate) name: &'static str,
    /// Its value in our words ([`None`]: it changes nothing here), given all annotations beside it.
    pub(crate) read: fn(&Map, &str) -> Result<Option<String>, String>,
}

/// The same value.
const fn same(name: &'static str) -> Foreign {
    Foreign { name, read: |_, value| Ok(Some(value.to_owned())) }
}

const fn other(name: &'static str, read: fn(&Map, &str) -> Result<Option<String>, String>) -> Foreign {
    Foreign { name, read }
}

const ISTIO_INCLUDE_IN: &str = "traffic.sidecar.istio.io/includeInboundPorts";
const ISTIO_INCLUDE_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";

/// `true`, `false`, and `enabled`, `disabled` as on a namespace.
pub(crate) fn inject_word(value: &str) -> Result<bool, String> {
    match value {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        other => values::switch(other),
    }
}

/// Every annotation, in the documentation's order.
pub(crate) const ANNOTATIONS: &[Annotation] = &[
    Annotation {
        name: "inject",
        kind: "`true` or `false`",
        default: "by the namespace's label",
        doc: "whether the pod gets a sidecar; as a label too",
        set: |_, value| inject_word(value).map(|_| ()),
        istio: &[same("sidecar.istio.io/inject")],
        linkerd: &[other("linkerd.io/inject", |_, value| match value {
            "enabled" => Ok(Some("true".to_owned())),
            "disabled" => Ok(Some("false".to_owned())),
            other => Err(format!("{} has no equivalent here (enabled or disabled)", quoted(other))),
        })],
    },
    Annotation {
        name: "mtls",
        kind: "`strict`, `permissive` or `off`",
        default: "the mesh's configuration",
        doc: "which inbound connections are taken: `strict` only mutual TLS of the mesh, `permissive` plaintext too",
        set: |options, value| values::mtls(value).map(|mode| options.mtls = Some(mode)),
        istio: &[],
        linkerd: &[other("config.linkerd.io/default-inbound-policy", |_, value| match value {
            "all-authenticated" => Ok(Some("strict".to_owned())),
            "all-unauthenticated" => Ok(Some("permissive".to_owned())),
            other => Err(format!("{} has no equivalent here", quoted(other))),
        })],
    },
    Annotation {
        name: "log-level",
        kind: "a level (`off` `error` `warn` `info` `debug` `trace`), or `target=level` parts",
        default: "`info`",
        doc: "what the proxy logs",
        set: |options, value| values::log_level(value).map(|level| options.log_level = level),
        istio: &[other("sidecar.istio.io/logLevel", istio_level)],
        linkerd: &[same("config.linkerd.io/proxy-log-level")],
    },
    Annotation {
        name: "proxy-image",
        kind: "an image",
        default: "the mesh's",
        doc: "the proxy's image",
        set: |options, value| values::image(value).map(|image| options.proxy_image = Some(image)),
        istio: &[],
        linkerd: &[],
    },
    Annotation {
        name: "init-image",
        kind: "an image",
        default: "the mesh's",
        doc: "the image of `remora-init`",
        set: |options, value| values::image(value).map(|image| options.init_image = Some(image)),
        istio: &[],
        linkerd: &[],
    },
    Annotation {
        name: "proxy-cpu-request",
        kind: "an amount (`100m`, `0.5`)",
        default: "`50m`",
        doc: "CPU the proxy asks for",
        set: |options, value| value.parse().map(|amount| options.resources.cpu_request = Some(amount)),
        istio: &[same("sidecar.istio.io/proxyCPU")],
        linkerd: &[same("config.linkerd.io/proxy-cpu-request")],
    },
    Annotation {
        name: "proxy-cpu-limit",
        kind: "an amount",
        default: "`2`",
        doc: "CPU the proxy may use; also decides its worker threads (at most 2)",
        set: |options, value| value.parse().map(|amount| options.resources.cpu_limit = Some(amount)),
        istio: &[same("sidecar.istio.io/proxyCPULimit")],
        linkerd: &[same("config.linkerd.io/proxy-cpu-limit")],
    },
    Annotation {
        name: "proxy-memory-request",
        kind: "an amount (`64Mi`)",
        default: "`64Mi`",
        doc: "memory the proxy asks for",
        set: |options, value| value.parse().map(|amount| options.resources.memory_request = Some(amount)),
        istio: &[same("sidecar.istio.io/proxyMemory")],
        linkerd: &[same("config.linkerd.io/proxy-memory-request")],
    },
    Annotation {
        name: "proxy-memory-limit",
        kind: "an amount",
        default: "`256Mi`",
        doc: "memory the proxy may use",
        set: |options, value| value.parse().map(|amount| options.resources.memory_limit = Some(amount)),
        istio: &[same("sidecar.istio.io/proxyMemoryLimit")],
        linkerd: &[same("config.linkerd.io/proxy-memory-limit")],
    },
    Annotation {
        name: "include-inbound-ports",
        kind: "`*`, or ports and ranges (`80,8000-8099`); empty is none",
        default: "`*`",
        doc: "inbound ports that are captured",
        set: |options, value| values::ports(value).map(|ports| options.include_inbound_ports = ports),
        istio: &[same(ISTIO_INCLUDE_IN)],
        linkerd: &[],
    },
    Annotation {
        name: "exclude-inbound-ports",
        kind: "ports and ranges",
        default: "none",
        doc: "inbound ports that are left alone",
        set: |options, value| values::some_ports(value).map(|ports| options.exclude_inbound_ports = ports),
        // Their exclusions count only where everything is included.
        istio: &[other("traffic.sidecar.istio.io/excludeInboundPorts", |all, value| {
            let everything = all.get(ISTIO_INCLUDE_IN).is_none_or(|ports| ports.trim() == "*");
            Ok(everything.then(|| value.to_owned()))
        })],
        linkerd: &[same("config.linkerd.io/skip-inbound-ports")],
    },
    Annotation {
        name: "exclude-inbound-cidrs",
        kind: "networks or addresses",
        default: "none",
        doc: "clients whose connections are left alone",
        set: |options, value| values::networks(value).map(|networks| options.exclude_inbound_cidrs = networks),
        istio: &[],
        linkerd: &[same("config.linkerd.io/skip-subnets")],
    },
    Annotation {
        name: "include-outbound-ports",
        kind: "`*`, or ports and ranges",
        default: "all, unless networks are given",
        doc: "outbound ports that are captured, wherever they are",
        set: |options, value| values::ports(value).map(|ports| options.include_outbound_ports = Some(ports)),
        // Theirs add to the networks, of which the default is all.
        istio: &[other("traffic.sidecar.istio.io/includeOutboundPorts", |all, value| {
            let networks = all.get(ISTIO_INCLUDE_RANGES).is_some_and(|networks| networks.trim() != "*");
            Ok(networks.then(|| value.to_owned()))
        })],
        linkerd: &[],
    },
    Annotation {
        name: "exclude-outbound-ports",
        kind: "ports and ranges",
        default: "none",
        doc: "outbound ports that are left alone",
        set: |options, value| values::some_ports(value).map(|ports| options.exclude_outbound_ports = ports),
        istio: &[same("traffic.sidecar.istio.io/excludeOutboundPorts")],
        linkerd: &[same("config.linkerd.io/skip-outbound-ports")],
    },
    Annotation {
        name: "include-outbound-cidrs",
        kind: "`*`, or networks and addresses; empty is none",
        default: "all, unless ports are given",
        doc: "destinations that are captured",
        set: |options, value| {
            let networks = match value {
                "*" => Networks::All,
                some => Networks::Only(values::networks(some)?),
            };
            options.include_outbound_cidrs = Some(networks);
            Ok(())
        },
        istio: &[same(ISTIO_INCLUDE_RANGES)],
        linkerd: &[],
    },
    Annotation {
        name: "exclude-outbound-cidrs",
        kind: "networks or addresses",
        default: "none",
        doc: "destinations that are left alone",
        set: |options, value| values::networks(value).map(|networks| options.exclude_outbound_cidrs = networks),
        istio: &[same("traffic.sidecar.istio.io/excludeOutboundIPRanges")],
        linkerd: &[],
    },
    Annotation {
        name: "exclude-interfaces",
        kind: "interfaces (`net1,veth+`)",
        default: "none",
        doc: "interfaces that are left alone in both directions",
        set: |options, value| values::list(value).map(|names| options.exclude_interfaces = names),
        istio: &[same("traffic.sidecar.istio.io/excludeInterfaces")],
        linkerd: &[],
    },
    Annotation {
        name: "exclude-outbound-uids",
        kind: "uids",
        default: "none",
        doc: "users in the pod whose outbound connections are left alone",
        set: |options, value| {
            let uids = values::list::<u32>(value).map_err(|_| format!("{} is not a list of uids", quoted(value)))?;
            options.exclude_outbound_uids = uids;
            Ok(())
        },
        istio: &[],
        linkerd: &[],
    },
    Annotation {
        name: "interception",
        kind: "`redirect` or `tproxy`",
        default: "`redirect`",
        doc: "how inbound connections reach the proxy; with `tproxy` the application sees its clients' addresses, and the proxy \
              runs as root with NET_ADMIN alone",
        set: |options, value| match value {
            "redirect" | "tproxy" => {
                options.tproxy = value == "tproxy";
                Ok(())
            }
            other => Err(format!("{} is not redirect or tproxy", quoted(other))),
        },
        istio: &[other("sidecar.istio.io/interceptionMode", |_, value| Ok(Some(value.to_ascii_lowercase())))],
        linkerd: &[],
    },
    Annotation {
        name: "tracing-endpoint",
        kind: "a URL (`http://collector.observability:4317`)",
        default: "the mesh's configuration",
        doc: "where spans are sent, by OTLP",
        set: |options, value| values::endpoint(value).map(|endpoint| options.tracing_endpoint = Some(endpoint)),
        istio: &[],
        linkerd: &[],
    },
    Annotation {
        name: "tracing-sampling",
        kind: "a share from 0 to 1",
        default: "the mesh's configuration",
        doc: "the share of traces that nobody decided on yet",
        set: |options, value| values::share(value).map(|share| options.tracing_sampling = Some(share)),
        istio: &[],
        linkerd: &[],
    },
    Annotation {
        name: "service-name",
        kind: "a name",
        default: "the workload's name",
        doc: "`service.name` of the proxy's spans",
        set: |options, value| values::service_name(value).map(|name| options.service_name = Some(name)),
        istio: &[],
        linkerd: &[],
    },
    Annotation {
        name: "native-sidecar",
        kind: "`true` or `false`",
        default: "`true`",
        doc: "whether the proxy is an init container that keeps running (Kubernetes 1.29), or an ordinary container placed first",
        set: |options, value| values::switch(value).map(|native| options.native_sidecar = native),
        istio: &[same("sidecar.istio.io/nativeSidecar")],
        linkerd: &[
            same("config.alpha.linkerd.io/proxy-enable-native-sidecar"),
            same("config.beta.linkerd.io/proxy-enable-native-sidecar"),
        ],
    },
    Annotation {
        name: "drain-timeout",
        kind: "a duration (`30s`)",
        default: "the mesh's configuration",
        doc: "how long connections may go on after the pod was told to end",
        set: |options, value| values::duration(value).map(|time| options.drain_timeout = Some(time)),
        istio: &[],
        linkerd: &[
            same("config.alpha.linkerd.io/shutdown-grace-period"),
            same("config.linkerd.io/shutdown-grace-period"),
        ],
    },
    Annotation {
        name: "lame-duck",
        kind: "a duration (`5s`)",
        default: "native: `0`; ordinary: `5s`",
        doc: "how long new connections are still taken after the pod was told to end, until everybody knows",
        set: |options, value| values::duration(value).map(|time| options.lame_duck = Some(time)),
        istio: &[],
        linkerd: &[other("config.alpha.linkerd.io/proxy-wait-before-exit-seconds", |_, value| {
            Ok(Some(format!("{value}s")))
        })],
    },
    Annotation {
        name: "rewrite-probes",
        kind: "`true` or `false`",
        default: "`true`",
        doc: "whether HTTP, gRPC and TCP probes go by way of the proxy, so that they pass under strict mTLS",
        set: |options, value| values::switch(value).map(|rewrite| options.rewrite_probes = rewrite),
        istio: &[same("sidecar.istio.io/rewriteAppHTTPProbers")],
        linkerd: &[],
    },
    Annotation {
        name: "trust-domain",
        kind: "a trust domain",
        default: "`cluster.local`",
        doc: "the trust domain of the pod's identity",
        set: |options, value| {
            let parsed = value.parse().map_err(|why| format!("{} is not a trust domain: {why}", quoted(value)));
            parsed.map(|domain| options.trust_domain = domain)
        },
        istio: &[],
        linkerd: &[],
    },
    Annotation {
        name: "proxy-uid",
        kind: "a uid",
        default: "`1337`; on OpenShift the second of the namespace's range",
        doc: "the uid and gid the proxy runs under",
        set: |options, value| values::proxy_uid(value).map(|uid| options.proxy_uid = Some(uid)),
        istio: &[],
        linkerd: &[same("config.linkerd.io/proxy-uid")],
    },
];

/// Envoy's levels, of which `warning` and `critical` are called otherwise here; their scoped form has no equivalent.
fn istio_level(_: &Map, value: &str) -> Result<Option<String>, String> {
    Ok(Some(match value {
        "warning" => "warn".to_owned(),
        "critical" => "error".to_owned(),
        other => other.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use remora_model::capture::Ports;

    use super::*;

    #[test]
    fn names_are_unique_and_sets_nothing_is_a_refusal() {
        let mut names: Vec<&str> = ANNOTATIONS.iter().map(|annotation| annotation.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ANNOTATIONS.len());
    }

    #[test]
    fn an_include_of_all_is_every_port() {
        let mut options = crate::inject::Settings::new("cluster.local".parse().unwrap()).defaults;
        let row = ANNOTATIONS.iter().find(|annotation| annotation.name == "include-inbound-ports").unwrap();
        (row.set)(&mut options, "").unwrap();
        assert_eq!(options.include_inbound_ports, Ports::Only(Vec::new()));
        (row.set)(&mut options, "*").unwrap();
        assert_eq!(options.include_inbound_ports, Ports::All);
    }
}
