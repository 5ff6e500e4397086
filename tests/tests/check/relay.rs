//! An HTTP/1.1 server that hands on what another answers, word for word but for what it is told to replace.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use remora_test::netns::Netns;

/// What is replaced by what, in heads and bodies; both are equally long.
pub(crate) type Replaced = Arc<Mutex<Vec<(String, String)>>>;

/// Starts it at `listen`, in the namespace if there is one; it runs until the test ends.
pub(crate) fn start(inside: Option<&Netns>, listen: SocketAddr, to: SocketAddr) -> (SocketAddr, Replaced) {
    let bind = || TcpListener::bind(listen).unwrap();
    let listener = inside.map_or_else(bind, |inside| inside.enter(bind));
    let address = listener.local_addr().unwrap();
    let replaced = Replaced::default();
    let rules = Arc::clone(&replaced);
    let serve = move || {
        for stream in listener.incoming().flatten() {
            let rules = Arc::clone(&rules);
            let connection = move || {
                // Whoever hangs up early is not missed.
                let _ = exchange(stream, to, &rules);
            };
            // Made by a thread of the namespace, it is there too.
            std::thread::spawn(connection);
        }
    };
    match inside {
        Some(inside) => drop(inside.spawn(serve)),
        None => drop(std::thread::spawn(serve)),
    }
    (address, replaced)
}

/// One request, handed on with `connection: close`, and so is the answer.
fn exchange(stream: TcpStream, to: SocketAddr, rules: &Replaced) -> std::io::Result<()> {
    let mut from = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "connection" => continue,
            _ => {}
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let mut server = TcpStream::connect(to)?;
    server.write_all(format!("{head}connection: close\r\n\r\n").as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let mut answer = String::from_utf8(answer).unwrap();
    for (old, new) in &*rules.lock().unwrap() {
        assert_eq!(old.len(), new.len());
        answer = answer.replace(old, new);
    }
    let mut back = stream;
    back.write_all(answer.as_bytes())
}
