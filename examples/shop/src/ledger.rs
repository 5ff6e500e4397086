//! Repeats every byte that it is told, over plain TCP, until the client has nothing more to say.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stop;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9000")]
    listen: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let listener = crate::listen("ledger", &args.listen).await?;
    let stop = stop::requested();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => return Ok(()),
        };
        // An accept fails for that one client only.
        let Ok((stream, _)) = accepted else { continue };
        tokio::spawn(async move { drop(repeat(stream).await) });
    }
}

async fn repeat(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; 16 << 10];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return stream.shutdown().await,
            count => stream.write_all(&bytes[..count]).await?,
        }
    }
}
