//! Detection: however the first bytes are cut into reads, one verdict, which more bytes never change, with no byte eaten.
//! What rustls takes for a ClientHello says the same to us.
#![no_main]

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use remora_proxy::inspect::{ClientHello, Inspected, LIMIT, Limits, Verdict, classify, inspect};
use remora_proxy::io::Replay;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, ReadBuf};

// The first byte says how the rest is cut.
fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else { return };
    let step = usize::from(*step) + 1;
    let verdict = grows(bytes, step);
    assert_eq!(inspected(bytes, step), of(&verdict, bytes));
    if let Some(theirs) = rustls_reading(bytes) {
        match &verdict {
            Verdict::Tls(ours) => {
                assert_eq!(ours.alpn, theirs.alpn);
                // It passes over addresses, which RFC 6066 does not allow here.
                assert!(theirs.sni.is_none() || ours.sni == theirs.sni, "{ours:?}, but rustls reads {theirs:?}");
            }
            other => panic!("{other:?}, but rustls reads {theirs:?}"),
        }
    }
});

/// The verdict on all of `bytes`, which none before it contradicts.
fn grows(bytes: &[u8], step: usize) -> Verdict {
    let verdict = classify(bytes);
    for end in (0..bytes.len()).step_by(step) {
        let earlier = classify(&bytes[..end]);
        assert!(earlier == Verdict::NeedMore || earlier == verdict, "{earlier:?} at {end}, {verdict:?} at last");
    }
    assert!(verdict != Verdict::NeedMore || bytes.len() < LIMIT, "no verdict at the limit");
    verdict
}

/// What a connection carries that sends just these bytes.
fn of(verdict: &Verdict, bytes: &[u8]) -> Inspected {
    match verdict {
        _ if bytes.is_empty() => Inspected::Eof,
        Verdict::Tls(hello) => Inspected::Tls(hello.clone()),
        Verdict::Http1 => Inspected::Http1,
        Verdict::Http2 => Inspected::Http2,
        Verdict::Tcp | Verdict::NeedMore => Inspected::Tcp,
    }
}

/// Bytes that come in pieces.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, rest) = self.0.split_at(self.0.len().min(self.1).min(buf.remaining()));
        buf.put_slice(now);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

/// Longer than any input takes.
const HOUR: Duration = Duration::from_secs(3600);

fn inspected(bytes: &[u8], step: usize) -> Inspected {
    let mut io = Replay::new(Pieces(bytes, step));
    let limits = Limits { first_byte: None, complete: HOUR, unclear: HOUR };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let inspected = match pin!(inspect(&mut io, limits)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(inspected) => inspected.expect("nothing breaks"),
        Poll::Pending => panic!("waits, though there are bytes"),
    };
    assert_eq!([&io.prefix, io.stream.0].concat(), bytes, "bytes were eaten");
    inspected
}

/// The same bytes, read by rustls, which takes any version of TLS for one.
fn rustls_reading(mut bytes: &[u8]) -> Option<ClientHello> {
    if bytes.get(2).is_none_or(|minor| *minor > 4) {
        return None;
    }
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
            return Some(ClientHello { sni: hello.server_name().map(Into::into), alpn });
        }
    }
    None
}
