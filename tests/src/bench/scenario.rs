//! What is measured, and through whose sidecars.

/// Whose sidecars carry the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Remora,
    /// Envoy, as a sidecar.
    Envoy,
    /// HAProxy in the place of one: it is no mesh.
    Haproxy,
    /// `bench/relay`: what hyper, tokio and rustls cost without any feature.
    Relay,
    /// No sidecar and no redirection.
    Direct,
}

impl Kind {
    /// Every one, in the order of tables.
    pub const ALL: [Self; 5] = [Self::Remora, Self::Envoy, Self::Haproxy, Self::Relay, Self::Direct];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Remora => "remora",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::Relay => "relay",
            Self::Direct => "direct",
        }
    }
}

/// What the applications speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    Tcp,
}

/// What passes through the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// HTTP/1.1, answers of 128 bytes, no mTLS.
    H1Plain,
    /// HTTP/1.1 at both ends, mTLS between.
    H1Mtls,
    /// HTTP/2, no mTLS.
    H2Plain,
    /// HTTP/2, mTLS between.
    H2Mtls,
    /// HTTP/1.1 with answers of 64 KiB, mTLS between.
    H1Mtls64k,
    /// gRPC streams that answer each message of 128 bytes, mTLS between.
    GrpcStream,
    /// One connection's bytes, no mTLS.
    TcpPlain,
    /// One connection's bytes, mTLS between.
    TcpMtls,
}

impl Scenario {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::H1Plain,
        Self::H1Mtls,
        Self::H2Plain,
        Self::H2Mtls,
        Self::H1Mtls64k,
        Self::GrpcStream,
        Self::TcpPlain,
        Self::TcpMtls,
    ];

    /// Those of small requests, in which latency is measured at a fixed rate too.
    pub const REQUESTS: [Self; 4] = [Self::H1Plain, Self::H1Mtls, Self::H2Plain, Self::H2Mtls];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::H1Plain => "h1-plain",
            Self::H1Mtls => "h1-mtls",
            Self::H2Plain => "h2-plain",
            Self::H2Mtls => "h2-mtls",
            Self::H1Mtls64k => "h1-mtls-64k",
            Self::GrpcStream => "grpc-stream",
            Self::TcpPlain => "tcp-plain",
            Self::TcpMtls => "tcp-mtls",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    pub(super) fn protocol(self) -> Protocol {
        match self {
            Self::H1Plain | Self::H1Mtls | Self::H1Mtls64k => Protocol::Http1,
            Self::H2Plain | Self::H2Mtls | Self::GrpcStream => Protocol::Http2,
            Self::TcpPlain | Self::TcpMtls => Protocol::Tcp,
        }
    }

    pub(super) fn is_mtls(self) -> bool {
        !matches!(self, Self::H1Plain | Self::H2Plain | Self::TcpPlain)
    }

    /// The port of its application.
    pub(super) fn port(self) -> u16 {
        if self.protocol() == Protocol::Tcp { 5_201 } else { 8_080 }
    }

    /// The words by which configurations of peers choose their lines.
    pub(super) fn words(self) -> Vec<&'static str> {
        let mut words = match self.protocol() {
            Protocol::Http1 => vec!["http", "h1"],
            Protocol::Http2 => vec!["http", "h2"],
            Protocol::Tcp => vec!["tcp"],
        };
        words.push(if self.is_mtls() { "mtls" } else { "plain" });
        words
    }

    /// What h2load is told of the protocol and requests at once on each connection.
    pub(super) fn load(self) -> &'static [&'static str] {
        match self.protocol() {
            Protocol::Http1 => &["--h1"],
            _ => &["-m", "4"],
        }
    }

    /// Requests at once in [`Scenario::load`] over 32 connections.
    pub(super) fn at_once(self) -> u64 {
        if self.protocol() == Protocol::Http1 { 32 } else { 128 }
    }

    pub(super) fn path(self) -> &'static str {
        if self == Self::H1Mtls64k { "/bytes/65536" } else { "/bytes/128" }
    }
}

#[cfg(test)]
mod tests {
    use super::Scenario;

    #[test]
    fn names_lead_back() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::named(scenario.name()), Some(scenario));
        }
        assert_eq!(Scenario::named("h3"), None);
    }
}
