use std::future::poll_fn;

use bytes::BytesMut;
use http_body::Frame;
use remora_model::HttpLimits;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http::h1::downstream::tests::room;

/// An answer without end that carries what reads its request, as one from HTTP/1.1 does.
struct Early {
    request: Body,
}

impl http_body::Body for Early {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'a'; 8192])))))
    }
}

impl Timed for Early {
    const BROKEN_OFF: h2::Reason = h2::Reason::INTERNAL_ERROR;

    fn poll_blocked(mut self: Pin<&mut Self>, _: u64, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, BodyError>> {
        // The upload goes on, and is given up with its answer.
        assert!(Pin::new(&mut self.request).poll_frame(cx).is_pending());
        self.request = Body::Empty;
        Poll::Ready(Err(BodyError::TimedOut))
    }
}

#[tokio::test]
async fn an_answer_that_its_client_does_not_take_may_be_given_up_within_the_upload() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let stream = Downstream::Plain(listener.accept().await.unwrap().0);
    let io = Replay { prefix: BytesMut::new(), stream };
    let connection: Shared = Rc::new(RefCell::new(Connection::new(io, HttpLimits::default(), room())));
    let mut answer = pin!(Early { request: body(&connection, Framing::Length(1_000_000)) });
    assert!(connection.borrow().is_lent());
    let (mut writer, mut output) = (Writer::new(Framing::Chunked), Output::default());
    let written = poll_fn(|cx| poll_answer(&connection, &mut writer, answer.as_mut(), &mut output, cx)).await;
    assert!(matches!(written, Err(BodyError::TimedOut)), "{written:?}");
    assert!(!connection.borrow().is_lent() && !connection.borrow().is_read());
}
