//! What things cost: a plain HTTP/1.1 service.

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http_server::{self, Answer, Versions};

const PRICES: [(&str, u32); 3] = [("teapot", 1890), ("kettle", 3450), ("lantern", 1275)];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: String,
}

/// The body of `POST /quote`.
#[derive(Deserialize)]
struct Quote {
    product: String,
    /// The customer's words, which the answer repeats.
    #[serde(default)]
    note: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let listener = crate::listen("pricing", &args.listen).await?;
    http_server::serve(listener, Versions::Http1, answer).await;
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/prices") => {
            let prices = PRICES.iter().map(|(product, cents)| ((*product).to_owned(), json!(cents))).collect();
            http_server::json(&Value::Object(prices))
        }
        (&Method::POST, "/quote") => quote(request).await,
        (method, path) => http_server::failure(StatusCode::NOT_FOUND, &format!("pricing has no {method} {path}")),
    }
}

async fn quote(request: Request<Incoming>) -> Answer {
    let body = match http_server::read_body(request.into_body()).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let quote: Quote = match serde_json::from_slice(&body) {
        Ok(quote) => quote,
        Err(error) => return http_server::failure(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match PRICES.iter().find(|(product, _)| *product == quote.product) {
        Some((_, cents)) => http_server::json(&json!({ "cents": cents, "note": quote.note })),
        None => http_server::failure(StatusCode::NOT_FOUND, &format!("no price for {:?}", quote.product)),
    }
}
