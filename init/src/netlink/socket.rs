//! A blocking netlink route socket: one request, its answers, its acknowledgement.

use std::io::{self, Read};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use socket2::{Domain, Type};

/// More than a kernel puts into one answer.
const LARGEST: usize = 64 * 1024;

/// The socket.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: socket2::Socket,
    sequence: u32,
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for a change.
    pub(crate) fn request(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK).map(drop)
    }

    /// Asks for something new; `AlreadyExists` when it is there.
    pub(crate) fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Asks for a list.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_DUMP)
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes)?;
        self.answers()
    }

    fn answers(&mut self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        let mut buffer = vec![0; LARGEST];
        loop {
            let length = self.socket.read(&mut buffer)?;
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let size = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length() as usize;
                let (message, padded) = (&rest[..size], size.next_multiple_of(4).min(rest.len()));
                rest = &rest[padded..];
                let message: NetlinkMessage<RouteNetlinkMessage> = match NetlinkMessage::deserialize(message) {
                    Ok(message) => message,
                    // An attribute newer than the decoder is in nothing of ours.
                    Err(_) => continue,
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.raw_code() == 0 => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    _ => {}
                }
            }
        }
    }
}
