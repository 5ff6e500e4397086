//! Answers every request with what it received: the service behind the gateway examples.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::http_server::{self, Answer, Versions};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: String,
    /// The name that the answers carry
    #[arg(long)]
    name: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let listener = crate::listen(&args.name, &args.listen).await?;
    let name: Arc<str> = args.name.into();
    http_server::serve(listener, Versions::Http1And2, move |request| answer(Arc::clone(&name), request)).await;
    Ok(())
}

async fn answer(name: Arc<str>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let body = match http_server::read_body(body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let headers = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), Value::String(value))
    });
    http_server::json(&json!({
        "name": &*name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "version": format!("{:?}", head.version),
        "headers": headers.collect::<serde_json::Map<_, _>>(),
        "body": String::from_utf8_lossy(&body),
    }))
}
