//! The origin in HTTP/2, for requests that reach it as they came: a library reads them, which resets what is malformed.

use std::future::poll_fn;
use std::net::TcpStream;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};

use super::{Origin, Seen};

/// Whether HTTP/2 begins on a connection.
pub(super) fn begins(stream: &TcpStream) -> bool {
    let mut begin = [0; 3];
    stream.peek(&mut begin).is_ok_and(|read| read > 1 && b"PRI".starts_with(&begin[..read]))
}

/// Serves a connection to its end.
pub(super) fn serve(origin: &Origin, stream: TcpStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let mut builder = h2::server::Builder::new();
        // What it does not read is not to stop the rest.
        builder.initial_connection_window_size(16 << 20);
        let error = match builder.handshake::<_, Bytes>(stream).await {
            Ok(mut connection) => loop {
                match connection.accept().await {
                    Some(Ok((request, respond))) => {
                        tokio::spawn(answer(origin.clone(), request, respond));
                    }
                    Some(Err(error)) => break error,
                    None => return,
                }
            },
            Err(error) => error,
        };
        // Too many resets are not malformed: the library bears fewer of them than the proxy lets a client send.
        if !error.is_io() && !error.is_remote() && error.reason() != Some(h2::Reason::ENHANCE_YOUR_CALM) {
            origin.refuses(format!("HTTP/2: {error}"));
        }
    });
}

async fn answer(origin: Origin, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    origin.has_begun(head.uri.path());
    if head.uri.path() == "/unread" {
        let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
        return;
    }
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        // A body that breaks off is no whole request.
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    let Ok(trailers) = body.trailers().await else { return };
    let path = head.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let host = head.uri.authority().map(|authority| format!("host: {authority}\r\n")).unwrap_or_default();
    let line = format!("{} {path} HTTP/2\r\n{host}", head.method);
    origin.has_seen(Seen {
        head: line + &lines(&head.headers),
        body: bytes,
        trailers: lines(&trailers.unwrap_or_default()),
    });
    if path == "/silent" {
        let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
        return;
    }
    if let Ok(mut answer) = respond.send_response(Response::new(()), false) {
        let _ = answer.send_data(super::content(&path).into(), true);
    }
}

fn lines(headers: &HeaderMap) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()))).collect()
}
