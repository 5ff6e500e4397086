//! Accepting connections, and closing a listener without losing one.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use remora_model::Direction;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::connection;
use crate::worker::{Handed, ListenerId, Place, Worker};

/// How long accepting rests when the process or system has no file or memory left.
const REST: Duration = Duration::from_millis(100);

/// Accepts connections until the drain of its direction begins, then takes in what the kernel holds already and closes.
pub(crate) async fn accept(worker: Rc<Worker>, id: ListenerId, listener: TcpListener) {
    let direction = worker.view().listener(id).direction;
    // Until it is emptied, a listener that will be drained counts as a connection the drain waits for.
    let unemptied = (direction != Direction::Outbound).then(|| worker.connections.open());
    let drain = worker.drain(direction);
    let mut drain = pin!(drain.signaled());
    let counts = worker.telemetry.downstream(direction).clone();
    let mut asking = Context::from_waker(Waker::noop());
    loop {
        tokio::select! {
            // What could not be served waits with the kernel: others, and the admin interface, keep their files.
            () = tokio::time::sleep(REST), if worker.room.is_full() => {
                counts.accept_paused();
                worker.room.want();
                if worker.room.has_spare()
                    && let Poll::Ready(Ok((stream, client))) = listener.poll_accept(&mut asking)
                {
                    worker.room.take_spare();
                    serve(&worker, id, stream, client);
                }
            }
            accepted = listener.accept(), if !worker.room.is_full() => match accepted {
                Ok((stream, client)) => match worker.spread.hand_over(id, stream, client) {
                    Ok(Some(stream)) => serve(&worker, id, stream, client),
                    Ok(None) => {}
                    Err(error) => lost(&worker, &error),
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    counts.accept_paused();
                    if worker.may_log() {
                        tracing::warn!(%error, "accepting connections rests");
                    }
                    tokio::time::sleep(REST).await;
                }
            },
            () = &mut drain => break,
        }
    }
    while let Poll::Ready(Ok((stream, client))) = listener.poll_accept(&mut asking) {
        serve(&worker, id, stream, client);
    }
    drop(unemptied);
}

/// Serves a connection that another worker accepted.
pub(crate) fn serve_handed(worker: &Rc<Worker>, Handed { listener, stream, client, place }: Handed) {
    match TcpStream::from_std(stream) {
        Ok(stream) => serve_at(place, worker, listener, stream, client),
        Err(error) => lost(worker, &error),
    }
}

/// A connection could not be moved from one worker's event loop to another's, and is closed.
fn lost(worker: &Worker, error: &std::io::Error) {
    if worker.may_log() {
        tracing::warn!(%error, "a connection could not be handed to another worker");
    }
}

fn serve(worker: &Rc<Worker>, id: ListenerId, stream: TcpStream, client: SocketAddr) {
    serve_at(worker.spread.own_place(id), worker, id, stream, client);
}

fn serve_at(place: Place, worker: &Rc<Worker>, id: ListenerId, stream: TcpStream, client: SocketAddr) {
    let open = (worker.connections.open(), place);
    let worker = worker.clone();
    spawn_local(async move {
        connection::serve(worker, id, stream, client).await;
        drop(open);
    });
}

/// The client was gone before we accepted it: no reason to rest.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
