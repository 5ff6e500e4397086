//! Who lives in the mesh: names, addresses, users.

use std::net::{Ipv4Addr, SocketAddr};

/// One pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    /// The last byte of its address.
    pub(crate) number: u8,
    /// The application's arguments (of `remora-shop`) and user.
    pub(crate) application: Option<Application>,
    /// The service account in its certificate; without one there is no sidecar.
    pub(crate) account: Option<&'static str>,
}

/// What runs in a pod beside the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Application {
    pub(crate) arguments: &'static [&'static str],
    pub(crate) uid: u32,
    pub(crate) port: u16,
}

/// The user of every sidecar.
pub(crate) const PROXY_UID: u32 = 1337;
/// The user of the trace store.
pub(crate) const TRACES_UID: u32 = 2007;

pub(crate) const GATEWAY: Pod = Pod { name: "gateway", number: 2, application: None, account: Some("gateway") };
pub(crate) const STOREFRONT: Pod = Pod {
    name: "storefront",
    number: 3,
    application: Some(Application { arguments: &["storefront"], uid: 2001, port: 8080 }),
    account: Some("storefront"),
};
pub(crate) const CATALOG: [Pod; 3] = [
    replica("catalog-1", 11, 2002, &["catalog", "--name", "catalog-1", "--delay", "30"]),
    replica("catalog-2", 12, 2003, &["catalog", "--name", "catalog-2", "--delay", "30"]),
    replica("catalog-3", 13, 2004, &["catalog", "--name", "catalog-3", "--delay", "300"]),
];
pub(crate) const PRICING: Pod = Pod {
    name: "pricing",
    number: 20,
    application: Some(Application { arguments: &["pricing"], uid: 2005, port: 8080 }),
    account: Some("pricing"),
};
/// Stands on the same wire, and has neither sidecar nor certificate.
pub(crate) const MALLORY: Pod = Pod { name: "mallory", number: 66, application: None, account: None };
/// Holds the trace store; not part of the mesh.
pub(crate) const TRACES: Pod = Pod { name: "traces", number: 4, application: None, account: None };

pub(crate) const ALL: [Pod; 8] = [GATEWAY, STOREFRONT, CATALOG[0], CATALOG[1], CATALOG[2], PRICING, MALLORY, TRACES];

/// The namespace with the bridge.
pub(crate) const WIRE: &str = "shop-wire";
/// This machine's own address on the wire.
pub(crate) const HOST: Ipv4Addr = address(1);
/// Its interface there.
pub(crate) const HOST_INTERFACE: &str = "remora-demo";
/// What the applications call `catalog`; no machine has this address.
pub(crate) const CATALOG_VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

const fn replica(name: &'static str, number: u8, uid: u32, arguments: &'static [&'static str]) -> Pod {
    Pod { name, number, application: Some(Application { arguments, uid, port: 50051 }), account: Some("catalog") }
}

/// An address on the wire, 10.77.0.0/24.
const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

impl Pod {
    pub(crate) fn namespace(&self) -> String {
        format!("shop-{}", self.name)
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        address(self.number)
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        (self.address(), port).into()
    }

    /// Whether its traffic is redirected to its sidecar; a gateway is the sidecar's only door itself.
    pub(crate) fn is_redirected(&self) -> bool {
        self.account.is_some() && self.application.is_some()
    }
}

/// Everyone with a sidecar.
pub(crate) fn meshed() -> impl Iterator<Item = Pod> {
    ALL.into_iter().filter(|pod| pod.account.is_some())
}
