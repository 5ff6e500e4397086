//! Where the traces are kept: a Jaeger that runs already, one that `make jaeger` built, or the shop's own collector.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, TcpStream};

use crate::http_client::{self, Ask};
use crate::namespace;
use crate::pods::TRACES;

/// Where OTLP over gRPC is spoken.
pub const OTLP_PORT: u16 = 4317;
/// Where traces are asked for.
pub const QUERY_PORT: u16 = 16686;

/// The trace store of this run.
#[derive(Clone, Debug)]
pub enum Store {
    /// A Jaeger of somebody else's; the pods reach it through a relay on this machine.
    Running {
        /// As it was given.
        url: String,
        /// Its query API.
        query: SocketAddr,
    },
    /// The Jaeger that `make jaeger` built, in a pod.
    Built {
        /// Where it was built to.
        folder: PathBuf,
    },
    /// The shop's collector, in a pod.
    Memory,
}

/// Arguments of the hidden relay.
#[derive(clap::Args)]
pub struct RelayArgs {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Address to pass connections on to
    #[arg(long)]
    to: SocketAddr,
}

/// The best store there is: the one that was named, else the one that was built, else memory.
pub async fn choose(url: Option<&str>, need_jaeger: bool) -> anyhow::Result<Store> {
    if let Some(url) = url.filter(|url| !url.is_empty()) {
        let url = url.trim_end_matches('/').to_owned();
        let query = resolve(&url).await.with_context(|| format!("JAEGER={url}"))?;
        let services = http_client::once(query, Ask::Get("/api/services".to_owned())).await;
        services.and_then(|reply| reply.json()).with_context(|| format!("no Jaeger answers at JAEGER={url}"))?;
        return Ok(Store::Running { url, query });
    }
    let folder = cache().join("remora/jaeger");
    if folder.join("jaeger").is_file() && folder.join("jaeger.yaml").is_file() {
        return Ok(Store::Built { folder });
    }
    if need_jaeger {
        bail!("no Jaeger: give the address of one (JAEGER=http://HOST:16686), or build it (make jaeger)");
    }
    Ok(Store::Memory)
}

fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"))
}

/// The first address of `http://HOST[:PORT]`.
async fn resolve(url: &str) -> anyhow::Result<SocketAddr> {
    let uri: http::Uri = url.parse()?;
    if uri.scheme_str() != Some("http") || uri.path() != "/" {
        bail!("expected http://HOST:PORT");
    }
    let host = uri.host().context("expected http://HOST:PORT")?;
    let mut addresses = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(QUERY_PORT))).await?;
    addresses.next().context("the name has no address")
}

impl Store {
    /// In words.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running { .. } => "Jaeger that was running",
            Self::Built { .. } => "Jaeger in a pod of its own",
            Self::Memory => "collector in memory",
        }
    }

    /// The page of a trace, where there are pages.
    pub fn link(&self, trace: &str) -> Option<String> {
        match self {
            Self::Running { url, .. } => Some(format!("{url}/trace/{trace}")),
            Self::Built { .. } => Some(format!("http://{}/trace/{trace}", TRACES.at(QUERY_PORT))),
            Self::Memory => None,
        }
    }

    /// An answer of the query API.
    pub async fn query(&self, path: String) -> anyhow::Result<http_client::Reply> {
        match self {
            Self::Running { query, .. } => http_client::once(*query, Ask::Get(path)).await,
            Self::Built { .. } | Self::Memory => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, QUERY_PORT));
                namespace::within(&TRACES.namespace(), move || http_client::once(address, Ask::Get(path))).await
            }
        }
    }
}

/// Passes connections on, both ways, until the process ends.
pub async fn relay(args: RelayArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(args.to).await {
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            }
        });
    }
}
