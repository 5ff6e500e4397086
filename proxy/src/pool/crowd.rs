//! Windows towards endpoints, which are narrower in a crowd. What an endpoint may send before anybody reads it is memory that clients
//! have held by asking and not reading, a window for each request: so the more are under way, the less each may have.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::Shared;
use crate::http::h2;
use crate::signal::{Reaches, Signal};

/// From so many streams of a worker on, each may have so many bytes unread. The first of these windows is the one that HTTP/2 begins
/// with (RFC 9113 section 6.9.2).
const LEVELS: [(u32, u32); 3] = [(128, 64 * 1024), (512, 32 * 1024), (2_048, 16 * 1024)];

/// The streams under way on a worker's HTTP/2 connections to endpoints.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    streams: Cell<u32>,
    /// How many of [`LEVELS`] have been reached.
    level: Cell<usize>,
    /// Memory is short.
    pressed: Cell<bool>,
    /// How often the level has changed.
    changes: Rc<Signal<u64>>,
}

impl Crowd {
    /// One more; before its request is written, so that its window is told before it.
    pub(super) fn enter(&self) {
        let streams = self.streams.get() + 1;
        self.streams.set(streams);
        if LEVELS.get(self.level.get()).is_some_and(|(from, _)| streams >= *from) {
            self.set(self.level.get() + 1);
        }
    }

    pub(super) fn leave(&self) {
        self.streams.set(self.streams.get() - 1);
    }

    /// Widens the windows again where no more than half of the crowd is left that made them narrow. Asked from time to time: a
    /// crowd that comes and goes is not to cost every connection a frame each time.
    pub(crate) fn ease(&self) {
        let mut level = self.level.get();
        while level > 0 && !self.pressed.get() && self.streams.get() <= LEVELS[level - 1].0 / 2 {
            level -= 1;
        }
        self.set(level);
    }

    /// While memory is `short` the windows are as narrow as in the largest crowd.
    pub(crate) fn press(&self, short: bool) {
        self.pressed.set(short);
        if short {
            self.set(LEVELS.len());
        }
    }

    /// Bytes that a stream may have unread now, at `most` these.
    pub(crate) fn window(&self, most: u32) -> u32 {
        self.level.get().checked_sub(1).map_or(most, |level| most.min(LEVELS[level].1))
    }

    fn set(&self, level: usize) {
        if self.level.replace(level) != level {
            self.changes.advance(self.changes.stage() + 1);
        }
    }

    /// Completes when the level changes.
    fn changed(&self) -> Reaches<u64> {
        self.changes.reaches(self.changes.stage() + 1)
    }
}

/// A shared connection as its driver has it: its peer is told of changes of the window, as far as [`Self::tell`] may.
pub(crate) struct Driven {
    connection: h2::Connection,
    shared: Weak<Shared>,
    crowd: Rc<Crowd>,
    changed: Reaches<u64>,
    /// The window, in bytes, where there is no crowd.
    most: u32,
    /// What the peer was told last.
    told: u32,
}

impl Driven {
    /// The connection of `shared`, whose peer was `told` of that window when it began.
    pub(crate) fn new(connection: h2::Connection, shared: &Rc<Shared>, most: u32, told: u32) -> Self {
        let crowd = shared.crowd.clone();
        Self { connection, shared: Rc::downgrade(shared), changed: crowd.changed(), crowd, most, told }
    }

    /// Tells the peer of the window, unless it knows. One that has no stream learns it with the next, and one that has not yet
    /// acknowledged what it heard before (RFC 9113 section 6.5.3) when it has: this is asked again behind each frame.
    ///
    /// While streams are under way their windows are not made narrower: of one of which much was read already nothing would be left, and
    /// the h2 crate gives such a window back with the next data alone, which then cannot come. They become no wider than what HTTP/2
    /// begins with: who keeps one open is not to have the others' windows opened for the next crowd.
    fn tell(&mut self) -> bool {
        let Some(shared) = self.shared.upgrade().filter(|shared| shared.active.get() > 0) else { return false };
        let window = self.crowd.window(self.most);
        let window = if shared.quiet.get() { window } else { window.min(LEVELS[0].1).max(self.told) };
        let tells = window != self.told && self.connection.set_initial_window_size(window).is_ok();
        if tells {
            self.told = window;
        }
        tells
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
        while Pin::new(&mut this.changed).poll(cx).is_ready() {
            this.changed = this.crowd.changed();
        }
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

    #[test]
    fn windows_narrow_at_once_and_widen_when_half_of_the_crowd_is_gone() {
        let crowd = Crowd::default();
        let more = |streams| {
            enter(&crowd, streams);
            crowd.window(MOST) / 1024
        };
        assert_eq!((more(127), more(1)), (256, 64), "127, 128");
        assert_eq!((more(383), more(1)), (64, 32), "511, 512");
        assert_eq!((more(1_535), more(1), more(5_000)), (32, 16, 16), "2,047, 2,048");
        assert_eq!((crowd.window(20_000), crowd.window(10_000)), (16_384, 10_000), "never wider than configured");
        let fewer = |streams| {
            leave(&crowd, streams);
            let before = crowd.window(MOST) / 1024;
            crowd.ease();
            (before, crowd.window(MOST) / 1024)
        };
        assert_eq!((fewer(6_023), fewer(1)), ((16, 16), (16, 32)), "1,025, 1,024");
        assert_eq!((fewer(767), fewer(1)), ((32, 32), (32, 64)), "257, 256");
        assert_eq!((fewer(191), fewer(1)), ((64, 64), (64, 256)), "65, 64");
        enter(&crowd, 1_000);
        assert_eq!(fewer(1_064), (32, 256), "all at once");
    }

    #[test]
    fn windows_are_narrow_while_memory_is_short() {
        let crowd = Crowd::default();
        crowd.press(true);
        crowd.ease();
        assert_eq!(crowd.window(MOST), 16 * 1024);
        crowd.press(false);
        crowd.ease();
        assert_eq!(crowd.window(MOST), MOST);
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
            let (sender, connection) =
                h2::connect(Upstream::Plain(io), true, limits, crowd.window(MOST)).await.unwrap();
            let shared = Shared::new(sender, true, &limits, Share::default(), crowd.clone());
            spawn_local(Driven::new(connection, &shared, MOST, MOST));
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
            assert_eq!(crowd.streams.get(), 0);
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
