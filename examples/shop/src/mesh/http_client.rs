//! The customers: plain HTTP/1.1 from inside a namespace, one request or a steady load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// No answer of a working mesh takes this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// An HTTP answer with its whole body.
pub struct Reply {
    /// Of the answer.
    pub status: StatusCode,
    /// As text.
    pub body: String,
}

impl Reply {
    /// The body of a 200 as JSON; anything else is an error.
    pub fn json(&self) -> anyhow::Result<Value> {
        if self.status != StatusCode::OK {
            bail!("answer {}: {}", self.status, self.body.trim());
        }
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body.trim()))
    }
}

/// What to ask for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// `GET` of a path.
    Get(String),
    /// `POST` of nothing to a path.
    Post(String),
    /// An order of the shop with this note.
    Order(String),
}

impl Ask {
    fn request(&self, host: SocketAddr) -> anyhow::Result<Request<Full<Bytes>>> {
        let (method, path, body) = match self {
            Self::Get(path) => (Method::GET, path.as_str(), String::new()),
            Self::Post(path) => (Method::POST, path.as_str(), String::new()),
            Self::Order(note) => {
                let order = serde_json::json!({ "product": "teapot", "note": note });
                (Method::POST, "/orders", order.to_string())
            }
        };
        let mut request = Request::builder().method(method).uri(path).body(Full::from(body))?;
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(&host.to_string())?);
        Ok(request)
    }
}

/// One keep-alive connection.
pub struct Connection {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { address, sender })
    }

    /// Whether the server has closed it, or is about to.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// One request and its whole answer.
    pub async fn send(&mut self, ask: &Ask) -> anyhow::Result<Reply> {
        let exchange = async {
            self.sender.ready().await?;
            let reply = self.sender.send_request(ask.request(self.address)?).await?;
            let status = reply.status();
            let body = reply.into_body().collect().await?.to_bytes();
            anyhow::Ok(Reply { status, body: String::from_utf8_lossy(&body).into_owned() })
        };
        tokio::time::timeout(PATIENCE, exchange).await.with_context(|| format!("no answer within {PATIENCE:?}"))?
    }
}

/// One request on a connection of its own.
pub async fn once(address: SocketAddr, ask: Ask) -> anyhow::Result<Reply> {
    Connection::open(address).await?.send(&ask).await
}

/// How many requests a load still sends, and how many it has sent: shared with whoever watches it.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
    answered: AtomicU64,
}

impl Budget {
    /// So many requests.
    pub fn new(requests: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(requests), answered: AtomicU64::new(0) })
    }

    /// As many as fit until [`Budget::stop`].
    pub fn endless() -> Arc<Self> {
        Self::new(u64::MAX)
    }

    /// No further request is sent.
    pub fn stop(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// How many were answered or failed.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Report {
    /// Answers by the replica of the catalog that had a part in them.
    pub by_replica: BTreeMap<String, u64>,
    /// Why requests failed.
    pub failures: Vec<String>,
}

impl Report {
    /// How many were answered.
    pub fn answered(&self) -> u64 {
        self.by_replica.values().sum()
    }
}

/// Sends `ask` over `clients` connections at once until the budget is used up.
pub async fn load(address: SocketAddr, clients: usize, ask: Ask, budget: Arc<Budget>) -> anyhow::Result<Report> {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..clients {
        running.spawn(client(address, ask.clone(), Arc::clone(&budget)));
    }
    let mut report = Report::default();
    while let Some(client) = running.join_next().await {
        let client = client?;
        for (replica, count) in client.by_replica {
            *report.by_replica.entry(replica).or_default() += count;
        }
        report.failures.extend(client.failures);
    }
    Ok(report)
}

async fn client(address: SocketAddr, ask: Ask, budget: Arc<Budget>) -> Report {
    let mut report = Report::default();
    let mut connection = None;
    while budget.take() {
        match answer(&mut connection, address, &ask).await {
            Ok(replica) => *report.by_replica.entry(replica).or_default() += 1,
            Err(error) => {
                connection = None;
                report.failures.push(format!("{error:#}"));
            }
        }
        budget.answered.fetch_add(1, Ordering::Relaxed);
    }
    report
}

async fn answer(connection: &mut Option<Connection>, address: SocketAddr, ask: &Ask) -> anyhow::Result<String> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(address).await?),
    };
    let answer = connection.send(ask).await?.json()?;
    answer["replica"].as_str().map(str::to_owned).context("an answer that names no replica")
}
