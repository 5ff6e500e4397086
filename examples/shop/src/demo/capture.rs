//! What passes between the pods, as tcpdump writes it down.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use shop_mesh::namespace;
use shop_mesh::pods::{GATEWAY, MALLORY, WIRE};
use shop_mesh::state;

/// How long tcpdump may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A capture that is running.
pub(crate) struct Capture {
    file: PathBuf,
    tcpdump: Child,
    words: Lines<BufReader<ChildStderr>>,
}

/// Everything that was captured.
pub(crate) struct Captured {
    bytes: Vec<u8>,
    pub(crate) packets: Vec<Packet>,
}

/// A TCP segment with data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    pub(crate) data: Vec<u8>,
}

impl Capture {
    /// Captures every frame that any pod sends; returns when it really does.
    pub(crate) async fn start(name: &str) -> anyhow::Result<Self> {
        let file = state::path(name);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", WIRE, "tcpdump", "-i", "any", "-Q", "in", "-n", "-s", "0", "-B", "65536"]);
        // Written packet by packet, and as root: by default it would become a user who cannot write here.
        command.args(["-U", "-Z", "root", "-w"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command.process_group(0);
        let mut tcpdump = command.spawn().context("cannot run tcpdump")?;
        let stderr = tcpdump.stderr.take().context("tcpdump's standard error is piped")?;
        let mut words = BufReader::new(stderr).lines();
        let mut said = Vec::new();
        let started = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = words.next_line().await? {
                if line.contains("listening on") {
                    return anyhow::Ok(());
                }
                said.push(line);
            }
            bail!("tcpdump ended: {}", said.join(" | "))
        });
        started.await.context("tcpdump does not begin")??;
        Ok(Self { file, tcpdump, words })
    }

    /// Ends the capture once all that was sent before is in it.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Captured> {
        self.wait_for_sentinel().await?;
        let pid = self.tcpdump.id().context("tcpdump ended by itself")?;
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGINT)?;
        let mut said = String::new();
        tokio::time::timeout(PATIENCE, self.words.into_inner().read_to_string(&mut said)).await??;
        self.tcpdump.wait().await?;
        let dropped = said.lines().find_map(|line| line.strip_suffix(" dropped by kernel"));
        let dropped = dropped.and_then(|line| line.split(' ').next()).unwrap_or("an unknown number of");
        ensure!(dropped == "0", "tcpdump lost packets: {dropped} dropped by the kernel");
        let bytes = std::fs::read(&self.file)?;
        let packets = packets(&bytes)?;
        Ok(Captured { bytes, packets })
    }

    /// Sends one datagram that nobody else would send, and waits until it is in the file.
    async fn wait_for_sentinel(&self) -> anyhow::Result<()> {
        let sentinel = format!("the end of this capture {}", random_token()?);
        let bytes = sentinel.clone().into_bytes();
        namespace::within(&MALLORY.namespace(), move || async move {
            let socket = tokio::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
            socket.send_to(&bytes, GATEWAY.at(9)).await?;
            Ok(())
        })
        .await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while count(&std::fs::read(&self.file)?, sentinel.as_bytes()) == 0 {
            ensure!(tokio::time::Instant::now() < deadline, "tcpdump does not write down what it captures");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Captured {
    /// How often `token` occurs anywhere in the capture file.
    pub(crate) fn count(&self, token: &str) -> usize {
        count(&self.bytes, token.as_bytes())
    }
}

/// How often `token` occurs in `bytes`.
pub(crate) fn count(bytes: &[u8], token: &[u8]) -> usize {
    bytes.windows(token.len()).filter(|window| *window == token).count()
}

/// Twenty-four random letters and digits.
pub(crate) fn random_token() -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 12];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The TCP segments with data in a pcap file, in the order of their capture.
fn packets(file: &[u8]) -> anyhow::Result<Vec<Packet>> {
    const MICROSECONDS: u32 = 0xa1b2_c3d4;
    const LINUX_SLL: u32 = 113;
    const LINUX_SLL2: u32 = 276;
    let word = |at: usize| file.get(at..at + 4).map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    ensure!(word(0) == Some(MICROSECONDS), "the capture is no pcap file of this machine");
    // Where the protocol stands in a frame's header, and how long that is.
    let (protocol, header) = match word(20) {
        Some(LINUX_SLL) => (14, 16),
        Some(LINUX_SLL2) => (0, 20),
        other => bail!("the capture has frames of an unknown kind ({other:?})"),
    };
    let mut packets = Vec::new();
    let mut at = 24;
    while let Some(length) = word(at + 8) {
        let frame = file.get(at + 16..at + 16 + length as usize).context("the capture ends inside a frame")?;
        at += 16 + length as usize;
        const IPV4: [u8; 2] = [0x08, 0x00];
        if frame.get(protocol..protocol + 2) == Some(&IPV4) {
            packets.extend(frame.get(header..).and_then(segment));
        }
    }
    Ok(packets)
}

/// The TCP segment in an IPv4 packet, if it carries data.
fn segment(packet: &[u8]) -> Option<Packet> {
    const TCP: u8 = 6;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if *packet.get(9)? != TCP {
        return None;
    }
    let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok().map(Ipv4Addr::from);
    let tcp = packet.get(header..total)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let data = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    (!data.is_empty()).then_some(Packet {
        source: SocketAddrV4::new(address(12)?, port(0)?),
        destination: SocketAddrV4::new(address(16)?, port(2)?),
        data: data.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: u8, data: &[u8]) -> Vec<u8> {
        let mut ip =
            vec![0x45, 0, 0, (40 + data.len()) as u8, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 77, 0, 2, 10, 77, 0, 3];
        let mut tcp = vec![0x1f, 0x90, 0x00, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0];
        tcp.extend(data);
        ip.extend(tcp);
        // A short frame is padded on the wire; the padding is no data.
        ip.extend([0xee; 6]);
        let mut frame = vec![0x08, 0x00];
        frame.extend([0; 18]);
        frame.extend(ip);
        frame
    }

    fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0, 0, 0, 262_144, 276] {
            file.extend(word.to_ne_bytes());
        }
        for frame in frames {
            for word in [0, 0, frame.len() as u32, frame.len() as u32] {
                file.extend(word.to_ne_bytes());
            }
            file.extend(frame);
        }
        file
    }

    #[test]
    fn segments_with_data_come_out_of_a_capture() {
        let file = pcap(&[frame(6, b"hello"), frame(6, b""), frame(17, b"udp"), frame(6, b"world")]);
        let found = packets(&file).unwrap();
        let data: Vec<&[u8]> = found.iter().map(|packet| packet.data.as_slice()).collect();
        assert_eq!(data, [b"hello", b"world"]);
        assert_eq!(found[0].source, "10.77.0.2:8080".parse().unwrap());
        assert_eq!(found[0].destination, "10.77.0.3:80".parse().unwrap());
    }

    #[test]
    fn a_capture_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
        assert!(packets(b"").is_err());
        let mut file = pcap(&[frame(6, b"hello")]);
        file.pop();
        assert!(packets(&file).is_err());
        file[20] = 1;
        assert!(packets(&file).is_err());
    }

    #[test]
    fn a_token_is_found_wherever_it_stands() {
        assert_eq!(count(b"xxabcxabc", b"abc"), 2);
        assert_eq!(count(b"xxab", b"abc"), 0);
    }
}
