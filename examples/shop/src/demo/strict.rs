//! A caller on the same wire who has no certificate.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use shop_mesh::http_client::Ask;
use shop_mesh::namespace;
use shop_mesh::pods::{CATALOG, MALLORY, PRICING, Pod, STOREFRONT};
use shop_mesh::raised::{Mesh, ask_at_the_door};
use shop_mesh::screen::Screen;
use shop_mesh::sidecar;

/// How long a refusal may take.
const PATIENCE: Duration = Duration::from_secs(5);

const GET: &[u8] = b"GET /products HTTP/1.1\r\nhost: shop\r\n\r\n";
/// What every HTTP/2 client says first (RFC 9113, section 3.4), and empty SETTINGS.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub(crate) async fn show(screen: &Screen, mesh: &Mesh) -> anyhow::Result<()> {
    mesh.store()?;
    let attempts = [
        (STOREFRONT, 8080, "plain HTTP/1.1", GET),
        (CATALOG[0], 50051, "plain HTTP/2", HTTP2),
        (PRICING, 8080, "plain HTTP/1.1", GET),
    ];
    let mut rows = Vec::new();
    for (pod, port, how, words) in attempts {
        let before = refused(pod).await?;
        let address = pod.at(port);
        let got = namespace::within(&MALLORY.namespace(), move || attempt(address, words)).await?;
        sidecar::wait(pod, "has not counted the refusal", || async { Ok(refused(pod).await? > before) }).await?;
        let counted = refused(pod).await? - before;
        let target = format!("{}:{port}", pod.name);
        rows.push(vec!["mallory".to_owned(), target, how.to_owned(), got, format!("+{counted}")]);
    }
    screen.table(&["caller", "target", "speaks", "gets", "counted as refused"], &rows);
    ask_at_the_door(Ask::Get("/products".to_owned())).await?;
    screen.good("strict sidecars answer a caller without a certificate nothing at all, and count it");
    Ok(())
}

/// How the caller was refused; to be answered anything at all is an error.
async fn attempt(address: SocketAddr, words: &'static [u8]) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(words).await?;
        stream.read(&mut [0; 1]).await
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(0)) => Ok("closed without a byte".to_owned()),
        Ok(Ok(_)) => bail!("mallory is answered by {address}"),
        Ok(Err(error)) => Ok(error.kind().to_string()),
        Err(_) => bail!("{address} neither answers nor refuses mallory within {} s", PATIENCE.as_secs()),
    }
}

/// How many inbound connections the pod's sidecar has refused because they were plaintext.
async fn refused(pod: Pod) -> anyhow::Result<u64> {
    let labels = [("direction", "inbound"), ("reason", "plaintext")];
    sidecar::metric(pod, "remora_connections_refused_total", &labels).await
}
