//! Connections to endpoints, driven: their peers are told of changes of the window.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::Shared;
use crate::crowd::Told;
use crate::http::h2;

/// A shared connection as its driver has it: its peer is told of changes of the window, as far as [`Self::tell`] may.
pub(crate) struct Driven {
    connection: h2::Connection,
    shared: Weak<Shared>,
    told: Told,
}

impl Driven {
    /// The connection of `shared`, whose peer was `told` of that window when it began.
    pub(crate) fn new(connection: h2::Connection, shared: &Rc<Shared>, told: Told) -> Self {
        Self { connection, shared: Rc::downgrade(shared), told }
    }

    /// Tells the peer of the window. One that has no stream learns it with the next.
    fn tell(&mut self) -> bool {
        let Some(shared) = self.shared.upgrade().filter(|shared| shared.active.get() > 0) else { return false };
        let connection = &mut self.connection;
        self.told.tell(shared.quiet.get(), false, |window| connection.set_initial_window_size(window))
    }

    /// What streams there are were written, as far as they may be.
    fn written(&self) {
        if let Some(shared) = self.shared.upgrade().filter(|shared| shared.active.get() > 0) {
            shared.quiet.set(false);
        }
    }
}

impl Future for Driven {
    type Output = Result<(), ::h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.told.listen(cx);
        this.tell();
        loop {
            let ended = Pin::new(&mut this.connection).poll(cx);
            this.written();
            // The acknowledgement may have come right now; what is told then is still to be written.
            if ended.is_ready() || !this.tell() {
                return ended;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use remora_model::HttpLimits;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::crowd::Crowd;
    use crate::io::Upstream;
    use crate::pool::Stream;
    use crate::worker::Share;

    const MOST: u32 = 256 * 1024;
    const LONG: usize = 4 << 20;

    fn enter(crowd: &Crowd, streams: u32) {
        (0..streams).for_each(|_| crowd.enter());
    }

    fn leave(crowd: &Crowd, streams: u32) {
        (0..streams).for_each(|_| crowd.leave());
    }

    /// Answers [`LONG`] bytes each, and tells how many it may send of each at once.
    async fn server(io: TcpStream, windows: mpsc::UnboundedSender<usize>) {
        let mut connection = ::h2::server::Builder::new().max_send_buffer_size(1 << 20).handshake(io).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            let windows = windows.clone();
            spawn_local(async move {
                let mut left = LONG;
                send.reserve_capacity(left);
                while left > 0 {
                    let most = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                    if left == LONG && most > 0 {
                        let _ = windows.send(most);
                    }
                    left -= most;
                    send.send_data(Bytes::from(vec![b'x'; most]), left == 0).unwrap();
                }
            });
        }
    }

    /// A stream whose answer has begun. What was to be acknowledged before that is.
    async fn ask(shared: &Rc<Shared>) -> (Stream, ::h2::RecvStream) {
        let stream = Stream::new(shared.clone());
        let request = http::Request::get("http://a/").body(()).unwrap();
        let (answer, _) = shared.sender.clone().send_request(request, true).unwrap();
        (stream, answer.await.unwrap().into_body())
    }

    /// Reads it to its end; how long it was.
    async fn read((_stream, mut body): (Stream, ::h2::RecvStream)) -> usize {
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            assert!(data.iter().all(|byte| *byte == b'x'));
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        length
    }

    #[tokio::test]
    async fn peers_are_told_between_streams_and_answers_under_way_arrive_whole() {
        let passing = async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (tell, mut windows) = mpsc::unbounded_channel();
            spawn_local(server(listener.accept().await.unwrap().0, tell));
            let crowd = Rc::<Crowd>::default();
            let limits = HttpLimits { stream_window: MOST, ..HttpLimits::default() };
            let told = Told::new(crowd.clone(), MOST);
            let (sender, connection) = h2::connect(Upstream::Plain(io), true, limits, told.last()).await.unwrap();
            let shared = Shared::new(sender, true, &limits, Share::default(), crowd.clone());
            spawn_local(Driven::new(connection, &shared, told));
            // Of this one more is read when the windows become narrow than the new one has, and less than is given back at once.
            let mut watched = ask(&shared).await;
            assert_eq!(windows.recv().await, Some(MOST as usize));
            let mut begun = 0;
            while begun <= 64 * 1024 {
                let data = watched.1.data().await.unwrap().unwrap().len();
                watched.1.flow_control().release_capacity(data).unwrap();
                begun += data;
            }
            assert!(begun < 85 * 1024, "{begun}");
            enter(&crowd, 128);
            let beside = ask(&shared).await;
            assert_eq!(windows.recv().await, Some(MOST as usize), "not while another is under way");
            assert_eq!((read(watched).await + begun, read(beside).await), (LONG, LONG));
            let narrow = ask(&shared).await;
            assert_eq!(windows.recv().await, Some(64 * 1024));
            enter(&crowd, 384);
            let beside = ask(&shared).await;
            assert_eq!(windows.recv().await, Some(64 * 1024), "not while another is under way");
            assert_eq!((read(narrow).await, read(beside).await), (LONG, LONG));
            let narrower = ask(&shared).await;
            assert_eq!(windows.recv().await, Some(32 * 1024));
            leave(&crowd, 512);
            crowd.ease();
            let wider = ask(&shared).await;
            assert_eq!(windows.recv().await, Some(64 * 1024), "as far as that goes beside another");
            assert_eq!((read(narrower).await, read(wider).await), (LONG, LONG));
            assert_eq!(crowd.streams(), 0);
            // Nobody asks while the windows change: the next one finds them as they are.
            enter(&crowd, 512);
            tokio::task::yield_now().await;
            leave(&crowd, 512);
            crowd.ease();
            let last = ask(&shared).await;
            assert_eq!(windows.recv().await, Some(MOST as usize));
            assert_eq!(read(last).await, LONG);
        };
        LocalSet::new().run_until(passing).await;
    }
}
