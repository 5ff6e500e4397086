//! One exchange on a connection: the request out, the head of the answer in.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use tokio::task::{JoinHandle, spawn_local};

use super::{Bound, Checked, Failure, Response, while_it_moves, within};
use crate::Error;
use crate::breaker::Place;
use crate::cluster::{ClusterState, Picked};
use crate::http::body::{Body, BodyError, RequestBody};
use crate::http::h1::client::{Unanswered, Why};
use crate::http::informational::Informational;
use crate::http::resend::{Lent, Progress};
use crate::http::{RequestHead, ResponseHead, fields, h1, h2};
use crate::pool::{Connection, Hop, Host, Shared, Stream};
use crate::telemetry::AttemptTelemetry;

/// What an exchange holds: its endpoint counts as active, its connection is in use.
#[derive(Debug)]
pub(crate) struct Lease {
    picked: Picked,
    connection: Option<(Rc<Host>, h1::client::Sender, u64)>,
    stream: Option<Rc<Stream>>,
    upload: Option<Upload>,
    /// Within the cluster's bounds; a shared connection's stream has its own.
    place: Option<Place>,
}

/// The pumping of a request body. Dropped before the response is complete it ends, and the stream is reset: a client that
/// gave up, or ran out of time, leaves nothing behind.
#[derive(Debug)]
struct Upload {
    pumping: JoinHandle<()>,
    progress: Progress,
}

impl Upload {
    fn start(body: Lent, mut send: ::h2::SendStream<Bytes>, open: Rc<Stream>) -> Self {
        let progress = body.progress();
        let pumping = spawn_local(async move {
            // What breaks the body resets the stream.
            let _ = h2::pump(&mut send, pin!(body), open.0.ours).await;
            // Counts for as long as the stream is open: an upload may outlive its answer.
            drop(open);
        });
        Self { pumping, progress }
    }

    /// Lets it go on for as long as it gets on.
    async fn finish(mut self) {
        while_it_moves(Pin::new(&mut self.pumping), || self.progress.moved()).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.pumping.abort();
    }
}

impl Lease {
    /// Whether its stream's connection was drained, and had its grace.
    pub(crate) fn is_retired(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.0.is_retired())
    }

    /// The exchange ended well: its connection may serve another, and an upload may go on beyond its answer.
    pub(crate) fn reuse(mut self) {
        if let Some(upload) = self.upload.take_if(|upload| !upload.pumping.is_finished()) {
            spawn_local(upload.finish());
        }
        let Some((host, sender, generation)) = self.connection else { return };
        let place = self.place;
        if sender.is_uploading() {
            spawn_local(async move {
                sender.finish().await;
                host.give_back(sender, generation);
                drop(place);
            });
        } else {
            host.give_back(sender, generation);
        }
    }
}

pub(super) async fn exchange(
    cluster: &ClusterState,
    picked: Picked,
    checked: Checked,
    mut attempt: AttemptTelemetry,
    bound: Option<&Bound>,
    informational: &Informational,
    (head, body): (Box<RequestHead>, RequestBody),
) -> Result<Response, Failure> {
    let at = At { cluster, endpoint: picked.address() };
    let Checked { host, connection, generation, hop, place } = checked;
    let mut lease = Lease { picked, connection: None, stream: None, upload: None, place };
    let answered = match connection {
        Connection::Http1(sender) => {
            let answered =
                within(bound, cluster.name(), pin!(exchange_h1(&at, &sender, head, body, informational))).await;
            lease.connection = Some((host.clone(), sender, generation));
            answered
        }
        Connection::Http2(mut stream) => {
            stream.1 = lease.place.take();
            let stream = Rc::new(stream);
            let answering = exchange_h2(&at, &host, &stream, hop, (head, body), &mut lease.upload, informational);
            let answered = within(bound, cluster.name(), pin!(answering)).await;
            lease.stream = Some(stream);
            answered
        }
    };
    match answered {
        Ok((head, body)) => {
            lease.picked.reached();
            attempt.response(&head);
            // It leaves HTTP, and the pool.
            let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
            let (lease, upgrade) = match lease.connection.take_if(|_| switched) {
                Some((_, sender, _)) => (None, sender.upgrade(Some(lease))),
                None => (Some(lease), None),
            };
            Ok(Response { head, body, attempt, lease, upgrade })
        }
        Err(failure) => {
            attempt.failed(&failure.error);
            match failure.error {
                Error::Undelivered { .. } => lease.picked.unreachable(&failure.error),
                Error::UpstreamClosed { unprocessed, .. } => {
                    match &lease.connection {
                        Some((_, sender, _)) if unprocessed => host.learn(sender),
                        Some((_, sender, _)) => host.learn_haste(sender),
                        None => {}
                    }
                    if unprocessed || failure.request.is_some() {
                        host.discard_ended();
                    }
                }
                _ => {}
            }
            Err(failure)
        }
    }
}

/// Names the endpoint in errors.
struct At<'a> {
    cluster: &'a ClusterState,
    endpoint: SocketAddr,
}

impl At<'_> {
    fn closed(&self, message: String, unprocessed: bool) -> Error {
        let (cluster, endpoint) = (self.cluster.name().clone(), self.endpoint);
        Error::UpstreamClosed { cluster, endpoint, message, code: None, unprocessed }
    }

    fn undelivered(&self, reason: String) -> Error {
        Error::Undelivered { cluster: self.cluster.name().clone(), endpoint: self.endpoint, reason }
    }

    fn broke(&self, message: &str) -> Error {
        let (cluster, endpoint) = (self.cluster.name().clone(), self.endpoint);
        Error::UpstreamProtocol { cluster, endpoint, message: message.to_owned() }
    }

    fn http1(&self, why: Why, unprocessed: bool) -> Error {
        match why {
            Why::Closed(message) => self.closed(message, unprocessed),
            Why::Invalid(_) | Why::Misplaced(_) => self.broke(&why.to_string()),
            Why::Request(error) => broke_off(&error),
        }
    }

    /// What the error of a stream says of it. Other streams of a connection that is broken are not tried.
    fn http2(&self, host: &Host, shared: &Rc<Shared>, error: &::h2::Error) -> Error {
        if !error.is_reset() {
            host.discard(shared);
        }
        let (cluster, endpoint) = (self.cluster.name().clone(), self.endpoint);
        match error.reason() {
            Some(code) if error.is_reset() && error.is_remote() => Error::UpstreamReset { cluster, endpoint, code },
            // Streams above a GOAWAY's last one were never processed (RFC 9113 section 6.8).
            code @ Some(_) if error.is_go_away() && error.is_remote() => {
                let message = error.to_string();
                Error::UpstreamClosed { cluster, endpoint, message, code, unprocessed: true }
            }
            Some(_) => self.broke(&error.to_string()),
            None => self.closed(error.to_string(), false),
        }
    }

    /// An answer, unless it says that there is none.
    fn answer(
        &self,
        host: &Host,
        shared: &Rc<Shared>,
        answer: http::Response<::h2::RecvStream>,
    ) -> Result<(ResponseHead, Body), Error> {
        let (mut head, body) =
            h2::response_parts(answer, shared.ours, &shared.limits).map_err(|why| self.broke(why))?;
        if shared.ours {
            if let Some(reason) = fields::undelivered(&head.headers) {
                host.supersede(shared);
                return Err(self.undelivered(reason));
            }
            fields::learn_spelling(&mut head);
        }
        Ok((head, body))
    }
}

/// Why a request broke off.
fn broke_off(error: &BodyError) -> Error {
    match error {
        BodyError::Invalid(invalid) => Error::InvalidBody(*invalid),
        BodyError::Stalled(timeout) => Error::IdleTimeout(*timeout),
        _ => Error::DownstreamClosed,
    }
}

async fn exchange_h1(
    at: &At<'_>,
    sender: &h1::client::Sender,
    head: Box<RequestHead>,
    body: RequestBody,
    informational: &Informational,
) -> Result<(ResponseHead, Body), Failure> {
    let answered = sender.send(&head, body, informational).await;
    answered.map_err(|Unanswered { why, unprocessed, body }| Failure {
        error: at.http1(why, unprocessed),
        request: body.map(|body| Box::new((head, body))),
    })
}

async fn exchange_h2(
    at: &At<'_>,
    host: &Host,
    stream: &Rc<Stream>,
    hop: Hop,
    (mut head, mut body): (Box<RequestHead>, RequestBody),
    upload: &mut Option<Upload>,
    informational: &Informational,
) -> Result<(ResponseHead, Body), Failure> {
    let shared = &stream.0;
    let mut sender = shared.sender.clone();
    if let Err(error) = body.wait_for(pin!(poll_fn(|cx| sender.poll_ready(cx)))).await {
        host.discard(shared);
        return Err(Failure { error: at.closed(error.to_string(), true), request: Some(Box::new((head, body))) });
    }
    // Of ours they all are; of others' it is known by now.
    if head.protocol.is_some() && !shared.ours && !sender.is_extended_connect_protocol_enabled() {
        return Err(Error::DownstreamProtocol("CONNECT with :protocol, which its endpoint does not take".into()).into());
    }
    let end = body.is_end_stream();
    // The head is kept for another try. Its copy of the fields is full; what goes out has room for another one.
    let copy = head.headers.clone();
    let mut headers = std::mem::replace(&mut head.headers, copy);
    if shared.ours && hop == Hop::MeshHttp1 {
        fields::mark_hop(&head, &mut headers);
    }
    let (request, bytes) = h2::request(&head, headers, &shared.named)
        .map_err(|message| Failure::from(Error::DownstreamProtocol(message)))?;
    // One that is far too large would end the connection, with everybody's streams on it.
    shared.sender.takes.check(bytes, &mut body).await.map_err(|invalid| Failure::from(Error::InvalidHead(invalid)))?;
    let sent = Sent { head, body: (!end).then(|| Lent::new(body).within(shared.sender.takes.clone())) };
    let (mut response, send) = match sender.send_request(request, end) {
        Ok(begun) => begun,
        Err(error) => return Err(sent.failed(at.http2(host, shared, &error))),
    };
    *upload = sent.body.clone().map(|body| Upload::start(body, send, stream.clone()));
    let answered = poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
            let mut head = match h2::informational(head, &shared.limits) {
                Ok(head) => head,
                Err(why) => return Poll::Ready(Err(at.broke(why))),
            };
            if shared.ours {
                fields::learn_spelling(&mut head);
            }
            if !informational.push(head) {
                // The stream's fault alone: it is reset when it is dropped, and the connection goes on.
                return Poll::Ready(Err(at.broke("informational responses too many, or a 101")));
            }
        }
        Pin::new(&mut response).poll(cx).map_err(|error| at.http2(host, shared, &error))
    })
    .await;
    match answered.and_then(|answer| at.answer(host, shared, answer)) {
        Ok(answer) => {
            if let Some(body) = sent.body {
                body.settle();
            }
            Ok(answer)
        }
        Err(error) => {
            // Who sends the body is not to find it ended when it is had back.
            *upload = None;
            Err(sent.failed(error))
        }
    }
}

/// A request that was sent, as far as it can be had back.
struct Sent {
    head: Box<RequestHead>,
    body: Option<Lent>,
}

impl Sent {
    fn failed(self, error: Error) -> Failure {
        let Self { head, body } = self;
        let error = body.as_ref().and_then(Lent::broken).map_or(error, |error| broke_off(&error));
        let again = || body.as_ref().map_or_else(|| Some(RequestBody::empty()), Lent::take_back);
        let body = if error.retryable() { again() } else { None };
        Failure { error, request: body.map(|body| Box::new((head, body))) }
    }
}

#[cfg(test)]
mod tests;
