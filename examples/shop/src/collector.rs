//! A trace store for a demo: spans come in by OTLP over gRPC, traces go out as JSON in the shape of Jaeger's query API
//! (`GET /api/traces/ID`, `GET /api/services`).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::StatusCode;
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::http_server::{self, Answer, Versions};
use crate::trace_store::{ExportReply, ExportRequest, TraceStore};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to receive spans on (OTLP over gRPC)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4317")]
    listen: String,
    /// Address to serve traces on (HTTP)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:16686")]
    query: String,
}

/// The store is locked for a few microseconds by each door, never across an await.
type Shared = Arc<Mutex<TraceStore>>;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Shared::default();
    let spans = crate::listen("collector (OTLP)", &args.listen).await?;
    let query = crate::listen("collector (query)", &args.query).await?;
    let receiver = Server::builder()
        .add_service(Receiver(Arc::clone(&store)))
        .serve_with_incoming(TcpIncoming::from(spans).with_nodelay(Some(true)));
    tokio::select! {
        served = receiver => Ok(served?),
        () = http_server::serve(query, Versions::Http1, move |request| answer(Arc::clone(&store), request)) => Ok(()),
    }
}

async fn answer<B>(store: Shared, request: http::Request<B>) -> Answer {
    let store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let path = request.uri().path();
    if path == "/api/services" {
        return http_server::json(&json!({ "data": store.services() }));
    }
    match path.strip_prefix("/api/traces/").and_then(|id| store.trace(id)) {
        Some(trace) => http_server::json(&json!({ "data": [trace], "errors": Value::Null })),
        None => http_server::failure(StatusCode::NOT_FOUND, "trace not found"),
    }
}

/// `opentelemetry.proto.collector.trace.v1.TraceService` in front of a store.
#[derive(Clone)]
struct Receiver(Shared);

impl NamedService for Receiver {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for Receiver {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() != "/opentelemetry.proto.collector.trace.v1.TraceService/Export" {
                return Ok(Status::unimplemented("the receiver has Export only").into_http());
            }
            let export = service_fn(move |request: Request<ExportRequest>| {
                store.lock().unwrap_or_else(PoisonError::into_inner).add(request.into_inner());
                async move { Ok(Response::new(ExportReply {})) }
            });
            Ok(Grpc::new(ProstCodec::default()).unary(export, request).await)
        })
    }
}
