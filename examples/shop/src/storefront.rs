//! The shop's door: HTTP/1.1 in, gRPC to the catalog and HTTP/1.1 to pricing out.

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tonic::transport::Endpoint;

use crate::headers::{grpc_request, trace_headers};
use crate::http_server::{self, Answer, Versions};
use shop_mesh::rpc::{CatalogClient, ListRequest, ReserveRequest};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: String,
    /// Where the catalog is
    #[arg(long, value_name = "HOST:PORT", default_value = "catalog:50051")]
    catalog: String,
    /// Where pricing is
    #[arg(long, value_name = "HOST:PORT", default_value = "pricing:8080")]
    pricing: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let catalog = Endpoint::from_shared(format!("http://{}", args.catalog))
        .with_context(|| format!("--catalog {}: not HOST:PORT", args.catalog))?
        .connect_lazy();
    let shop = Arc::new(Storefront {
        catalog: CatalogClient::new(catalog),
        pricing: args.pricing,
        http: Client::builder(TokioExecutor::new()).build_http(),
    });
    let listener = crate::listen("storefront", &args.listen).await?;
    http_server::serve(listener, Versions::Http1, move |request| {
        let shop = Arc::clone(&shop);
        async move { shop.answer(request).await }
    })
    .await;
    Ok(())
}

struct Storefront {
    catalog: CatalogClient,
    /// HOST:PORT of pricing.
    pricing: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Storefront {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let answer = match (request.method(), request.uri().path()) {
            (&Method::GET, "/products") => self.products(request.headers()).await,
            (&Method::GET, "/stock") => self.stock(request.headers()).await,
            (&Method::POST, "/orders") => {
                let (head, body) = request.into_parts();
                match http_server::read_body(body).await {
                    Ok(body) => self.order(&head.headers, &body).await,
                    Err(answer) => return answer,
                }
            }
            (&Method::GET, "/healthz") => Ok(json!("ok")),
            (method, path) => Err(Refusal::new(StatusCode::NOT_FOUND, format!("the shop has no {method} {path}"))),
        };
        match answer {
            Ok(answer) => http_server::json(&answer),
            Err(refusal) => http_server::failure(refusal.status, &refusal.reason),
        }
    }

    /// What there is, and what it costs.
    async fn products(&self, incoming: &HeaderMap) -> Result<Value, Refusal> {
        let list = self.catalog.list(grpc_request(ListRequest {}, incoming)).await?;
        let prices = self.pricing(Method::GET, "/prices", incoming, Bytes::new()).await?;
        let priced = |product: &String| json!({ "name": product, "cents": prices.get(product) });
        let products: Vec<Value> = list.products.iter().map(priced).collect();
        Ok(json!({ "replica": list.replica, "products": products, "traceparent": traceparent(incoming) }))
    }

    /// Sets a product aside and says its price. The customer's note goes to both services and comes back from both.
    async fn order(&self, incoming: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
        let order: Value = serde_json::from_slice(body).map_err(|error| Refusal::bad_request(&error))?;
        let text = |field: &str| order.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (product, note) = (text("product"), text("note"));
        let quote = Bytes::from(json!({ "product": product, "note": note }).to_string());
        let reserved = self.catalog.reserve(grpc_request(ReserveRequest { product, note }, incoming)).await?;
        let quoted = self.pricing(Method::POST, "/quote", incoming, quote).await?;
        Ok(json!({
            "replica": reserved.replica,
            "cents": quoted.get("cents"),
            "catalog_note": reserved.note,
            "pricing_note": quoted.get("note"),
            "traceparent": traceparent(incoming),
        }))
    }

    /// How much is left, as the catalog streams it.
    async fn stock(&self, incoming: &HeaderMap) -> Result<Value, Refusal> {
        let mut stream = self.catalog.watch(grpc_request(ListRequest {}, incoming)).await?;
        let mut stock = Vec::new();
        while let Some(item) = stream.next().await.transpose()? {
            stock.push(json!({ "product": item.product, "left": item.left, "replica": item.replica }));
        }
        Ok(Value::Array(stock))
    }

    /// One request to pricing; anything but 200 with JSON is a [`Refusal`].
    async fn pricing(&self, method: Method, path: &str, incoming: &HeaderMap, body: Bytes) -> Result<Value, Refusal> {
        let uri: Uri = format!("http://{}{path}", self.pricing).parse().map_err(|error| Refusal::upstream(&error))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = trace_headers(incoming);
        let answer = self.http.request(request).await.map_err(|error| Refusal::upstream(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| Refusal::upstream(&error))?.to_bytes();
        if status != StatusCode::OK {
            let words = String::from_utf8_lossy(&body);
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, format!("pricing answers {status}: {}", words.trim())));
        }
        serde_json::from_slice(&body).map_err(|error| Refusal::upstream(&error))
    }
}

/// The header as it reached the application: who asks can look the request's trace up.
fn traceparent(incoming: &HeaderMap) -> Option<&str> {
    incoming.get("traceparent").and_then(|value| value.to_str().ok())
}

/// Why the shop does not answer 200.
struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    fn new(status: StatusCode, reason: String) -> Self {
        Self { status, reason }
    }

    fn bad_request(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, with_causes(error))
    }

    fn upstream(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, format!("pricing: {}", with_causes(error)))
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        let code = match status.code() {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(code, format!("the catalog answers {:?}: {}", status.code(), status.message()))
    }
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
