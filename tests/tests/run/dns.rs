//! A name server with one answer.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};

use remora_test::netns::Netns;

/// The address of every name it is asked for.
pub(crate) const ANSWER: [u8; 4] = [192, 0, 2, 77];

/// Serves in a pod at port 53 of `ip`, UDP and TCP, until the test ends.
pub(crate) fn serve(pod: &Netns, ip: IpAddr) {
    let (udp, tcp) = pod.enter(|| (UdpSocket::bind((ip, 53)).unwrap(), TcpListener::bind((ip, 53)).unwrap()));
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut question) {
            let _ = udp.send_to(&answer(&question[..length]), from);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            // A client may send several questions on one connection.
            while stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).unwrap();
                let answer = answer(&question);
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &answer].concat()).unwrap();
            }
        }
    });
}

/// RFC 1035, section 4: the question again, and for an A question one record; for any other none.
fn answer(message: &[u8]) -> Vec<u8> {
    let name = message[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &message[12..12 + name + 4];
    let is_a = question[name..name + 2] == [0, 1];
    let mut answer = [&message[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], question].concat();
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(ANSWER);
    }
    answer
}
