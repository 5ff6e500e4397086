//! Applications without HTTP.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Behaviour;

/// What a TCP application does with a connection.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Sends back what it reads; after the client's end it sends `bye from NAME` and ends.
    Echo,
    /// Speaks first: `hello from NAME`, after the delay; then echoes.
    Greeter,
    /// Sends `half from NAME`, ends its own direction at once, reads to the client's end and logs how much came.
    Closer,
}

/// Listens and serves until the process ends.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(kind: Kind, behaviour: Behaviour) -> anyhow::Result<()> {
    let listener = TcpListener::bind(behaviour.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (name, delay) = (behaviour.name.clone(), behaviour.delay);
        tokio::spawn(async move {
            // A client that went away ends its connection; the tests look at the client's side.
            let _ = talk(kind, stream, &name, delay).await;
        });
    }
}

async fn talk(kind: Kind, mut stream: TcpStream, name: &str, delay: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match kind {
        Kind::Echo => {
            echo(&mut stream).await?;
            stream.write_all(format!("bye from {name}\n").as_bytes()).await?;
        }
        Kind::Greeter => {
            stream.write_all(format!("hello from {name}\n").as_bytes()).await?;
            echo(&mut stream).await?;
        }
        Kind::Closer => {
            stream.write_all(format!("half from {name}\n").as_bytes()).await?;
            stream.shutdown().await?;
            let read = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            println!("read {read}");
        }
    }
    stream.shutdown().await
}

/// Sends back what it reads, to the peer's end.
pub(super) async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    let mut buffer = vec![0; 16_384];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}
