//! One request, and the one tree of spans that the sidecars sent of it.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::traces::{Shape, Span, spans, tree};
use shop_mesh::http_client::Ask;
use shop_mesh::jaeger::Store;
use shop_mesh::raised::{Mesh, ask_at_the_door};
use shop_mesh::screen::Screen;

/// How long spans may be under way.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the store is watched for spans that should not be there.
const SETTLE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

/// What one `GET /products` must leave in the store: a server span for each inbound request, a client span for each
/// outbound one, each the child of what caused it.
fn expected() -> Shape {
    let call = |from: &str, to: &str| Shape::of(from, "client", vec![Shape::of(to, "server", Vec::new())]);
    let storefront =
        Shape::of("storefront", "server", vec![call("storefront", "catalog"), call("storefront", "pricing")]);
    Shape::of("gateway", "server", vec![Shape::of("gateway", "client", vec![storefront])])
}

/// Shows the trace; the link to its page, if the store has pages.
pub(crate) async fn show(screen: &Screen, mesh: &Mesh) -> anyhow::Result<Option<String>> {
    let store = mesh.store()?;
    let answer = ask_at_the_door(Ask::Get("/products".to_owned())).await?;
    let traceparent = answer["traceparent"].as_str().context("the storefront received no traceparent")?;
    let id = traceparent.split('-').nth(1).context("a traceparent names a trace")?.to_owned();
    let expected = expected();
    screen.busy(&format!("waiting for {} spans of trace {id}", expected.count()));
    let spans = fetch(store, &id, expected.count()).await?;
    let tree = tree(&spans)?;
    let first = tree.span.start;
    let rows = tree.lines().into_iter().map(|(branch, span)| {
        vec![
            branch,
            span.kind.clone(),
            span.name.clone(),
            span.status.clone(),
            format!("{:.1} ms", milliseconds(span.start.saturating_sub(first))),
            format!("{:.1} ms", milliseconds(span.duration)),
            span.id.clone(),
        ]
    });
    let heading = ["service", "kind", "name", "status", "begins", "takes", "span"];
    screen.table(&heading, &rows.collect::<Vec<_>>());
    ensure!(tree.shape() == expected, "the trace is {}, not {expected}", tree.shape());
    let failed: Vec<&Span> = spans.iter().filter(|span| !matches!(span.status.as_str(), "200" | "gRPC 0")).collect();
    ensure!(failed.is_empty(), "spans without the status of a success: {failed:?}");
    screen.good(&format!(
        "{} spans of {} sidecars, joined to one tree by headers that the applications passed on",
        spans.len(),
        4
    ));
    let link = store.link(&id);
    match &link {
        Some(link) => screen.plain(&format!("  {link}")),
        None => screen.note(&format!("trace {id}; `make jaeger` builds a real Jaeger for the next one")),
    }
    Ok(link)
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

/// The spans of a trace, once there are `wanted` and no more of them come.
async fn fetch(store: &Store, id: &str, wanted: usize) -> anyhow::Result<Vec<Span>> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut found = Vec::new();
    loop {
        let reply = store.query(format!("/api/traces/{id}")).await?;
        // A store that has heard nothing of a trace says 404.
        if let Ok(answer) = reply.json() {
            found = spans(&answer)?;
        }
        if found.len() >= wanted {
            break;
        }
        let late = tokio::time::Instant::now() > deadline;
        ensure!(!late, "the store has {} of {wanted} spans after {} s", found.len(), PATIENCE.as_secs());
        tokio::time::sleep(PAUSE).await;
    }
    // There is no event for "no more": what comes within this time would be one too many.
    tokio::time::sleep(SETTLE).await;
    spans(&store.query(format!("/api/traces/{id}")).await?.json()?)
}
