//! TCP: connections of some seconds, whose bytes must come back as they went.

use std::hash::{DefaultHasher, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::counts::Counts;

/// How long a connection lasts: longer than many, shorter than the grace of one that drains.
const LIFE: Duration = Duration::from_secs(3);
const PACE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST: usize = 16 << 10;

/// One connection after another until the counts say stop.
pub(crate) async fn load(address: SocketAddr, seed: u64, counts: Arc<Counts>) -> anyhow::Result<()> {
    let mut noise = Noise(seed | 1);
    while counts.go_on() {
        match connection(address, &mut noise, &counts).await {
            Ok(()) => counts.connections.add(1),
            Err(error) => {
                counts.connection_broke(&error);
                tokio::time::sleep(PACE).await;
            }
        }
    }
    Ok(())
}

async fn connection(address: SocketAddr, noise: &mut Noise, counts: &Counts) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (mut sent, mut received) = (DefaultHasher::new(), DefaultHasher::new());
    while began.elapsed() < LIFE && counts.go_on() {
        let words = noise.words();
        let mut echo = vec![0; words.len()];
        let exchange = async {
            stream.write_all(&words).await?;
            stream.read_exact(&mut echo).await
        };
        let exchanged = tokio::time::timeout(PATIENCE, exchange).await.context("no echo within 10 s")?;
        exchanged.with_context(|| format!("cut after {:.1} s", began.elapsed().as_secs_f64()))?;
        sent.write(&words);
        received.write(&echo);
        counts.bytes.add(words.len() as u64);
        tokio::time::sleep(PACE).await;
    }
    stream.shutdown().await?;
    let rest = tokio::time::timeout(PATIENCE, stream.read_u8()).await.context("the connection does not end")?;
    ensure!(rest.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof), "not ended in order");
    ensure!(sent.finish() == received.finish(), "other bytes came back");
    Ok(())
}

/// Bytes that do not repeat (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn words(&mut self) -> Vec<u8> {
        let length = 1 + self.next() as usize % LARGEST;
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}
