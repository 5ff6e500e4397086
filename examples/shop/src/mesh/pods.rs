//! Who lives in the mesh: names, addresses, users.

use std::net::{Ipv4Addr, SocketAddr};

/// One pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, which also is its host name.
    pub name: &'static str,
    /// The last byte of its address.
    pub number: u8,
    /// The application's arguments (of `remora-shop`) and user.
    pub application: Option<Application>,
    /// The service account in its certificate; without one there is no sidecar.
    pub account: Option<&'static str>,
}

/// What runs in a pod beside the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Application {
    /// Of `remora-shop`.
    pub arguments: &'static [&'static str],
    /// The user it runs as.
    pub uid: u32,
    /// Where it listens.
    pub port: u16,
}

/// The user of every sidecar.
pub const PROXY_UID: u32 = 1337;
/// The user of the trace store.
pub const TRACES_UID: u32 = 2007;

/// The mesh's door, for plain HTTP.
pub const GATEWAY: Pod = Pod { name: "gateway", number: 2, application: None, account: Some("gateway") };
/// The shop.
pub const STOREFRONT: Pod = Pod {
    name: "storefront",
    number: 3,
    application: Some(Application { arguments: &["storefront"], uid: 2001, port: 8080 }),
    account: Some("storefront"),
};
/// The replicas of the catalog; the last is slow.
pub const CATALOG: [Pod; 3] = [
    replica("catalog-1", 11, 2002, &["catalog", "--name", "catalog-1", "--delay", "30"]),
    replica("catalog-2", 12, 2003, &["catalog", "--name", "catalog-2", "--delay", "30"]),
    replica("catalog-3", 13, 2004, &["catalog", "--name", "catalog-3", "--delay", "300"]),
];
/// The price list.
pub const PRICING: Pod = Pod {
    name: "pricing",
    number: 20,
    application: Some(Application { arguments: &["pricing"], uid: 2005, port: 8080 }),
    account: Some("pricing"),
};
/// Stands on the same wire, and has neither sidecar nor certificate.
pub const MALLORY: Pod = Pod { name: "mallory", number: 66, application: None, account: None };
/// Holds the trace store; not part of the mesh.
pub const TRACES: Pod = Pod { name: "traces", number: 4, application: None, account: None };

/// Sends the drill's load; redirected like an application's pod, though the load comes from the drill itself.
pub const CUSTOMERS: Pod = Pod { name: "customers", number: 30, application: None, account: Some("customers") };
/// Repeats what it is told, over plain TCP.
pub const LEDGER: Pod = Pod {
    name: "ledger",
    number: 31,
    application: Some(Application { arguments: &["ledger"], uid: 2006, port: 9000 }),
    account: Some("ledger"),
};
/// Holds the certificate authority; not part of the mesh.
pub const AUTHORITY: Pod = Pod { name: "authority", number: 5, application: None, account: None };

/// The pods of the demo.
pub const ALL: [Pod; 8] = [GATEWAY, STOREFRONT, CATALOG[0], CATALOG[1], CATALOG[2], PRICING, MALLORY, TRACES];

/// The pods of the drill.
pub const DRILLED: [Pod; 9] =
    [GATEWAY, STOREFRONT, CATALOG[0], CATALOG[1], CATALOG[2], PRICING, CUSTOMERS, LEDGER, AUTHORITY];
/// Every pod there may be.
pub const EVERY: [Pod; 11] =
    [GATEWAY, STOREFRONT, CATALOG[0], CATALOG[1], CATALOG[2], PRICING, MALLORY, TRACES, CUSTOMERS, LEDGER, AUTHORITY];

/// The namespace with the bridge.
pub const WIRE: &str = "shop-wire";
/// This machine's own address on the wire.
pub const HOST: Ipv4Addr = address(1);
/// Its interface there.
pub const HOST_INTERFACE: &str = "remora-demo";
/// What the applications call `catalog`; no machine has this address.
pub const CATALOG_VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

const fn replica(name: &'static str, number: u8, uid: u32, arguments: &'static [&'static str]) -> Pod {
    Pod { name, number, application: Some(Application { arguments, uid, port: 50051 }), account: Some("catalog") }
}

/// An address on the wire, 10.77.0.0/24.
const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

impl Pod {
    /// The name of its network namespace.
    pub fn namespace(&self) -> String {
        format!("shop-{}", self.name)
    }

    /// Its address on the wire.
    pub fn address(&self) -> Ipv4Addr {
        address(self.number)
    }

    /// A port of its.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.address(), port).into()
    }

    /// Whether its traffic is redirected to its sidecar; a gateway is the sidecar's only door itself.
    pub fn is_redirected(&self) -> bool {
        (self.account.is_some() && self.application.is_some()) || *self == CUSTOMERS
    }
}

/// Everyone of the demo with a sidecar.
pub fn meshed() -> impl Iterator<Item = Pod> {
    sidecars(&ALL)
}

/// Those of `pods` with a sidecar.
pub fn sidecars(pods: &[Pod]) -> impl Iterator<Item = Pod> {
    pods.iter().copied().filter(|pod| pod.account.is_some())
}
