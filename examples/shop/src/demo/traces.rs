//! Traces as a store's query API tells them: spans, and the tree they make.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// A span as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) service: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Microseconds since 1970.
    pub(crate) start: u64,
    /// Microseconds.
    pub(crate) duration: u64,
    /// The HTTP or gRPC status, if there is one.
    pub(crate) status: String,
}

/// What a trace must look like: a span's service and kind, and what it caused, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) service: String,
    pub(crate) kind: String,
    pub(crate) caused: Vec<Shape>,
}

/// A span and what it caused, by start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) caused: Vec<Node>,
}

/// The spans in an answer of `GET /api/traces/ID`.
pub(crate) fn spans(answer: &Value) -> anyhow::Result<Vec<Span>> {
    let trace = &answer["data"][0];
    let spans = trace["spans"].as_array().context("an answer without spans")?;
    spans.iter().map(|span| read(span, &trace["processes"])).collect()
}

fn read(span: &Value, processes: &Value) -> anyhow::Result<Span> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let tag = |key: &str| span["tags"].as_array()?.iter().find(|tag| tag["key"] == key).map(|tag| &tag["value"]);
    let number = |key: &str| tag(key).map(|value| text(value).unwrap_or_else(|| value.to_string()));
    let parents = span["references"].as_array().into_iter().flatten();
    let parent = parents.filter(|reference| reference["refType"] == "CHILD_OF").find_map(|it| text(&it["spanID"]));
    let process = span["processID"].as_str().unwrap_or_default();
    Ok(Span {
        id: text(&span["spanID"]).context("a span without an id")?,
        parent,
        service: text(&processes[process]["serviceName"]).context("a span without a service")?,
        kind: tag("span.kind").and_then(text).unwrap_or_else(|| "none".to_owned()),
        name: text(&span["operationName"]).context("a span without a name")?,
        start: span["startTime"].as_u64().context("a span without a start")?,
        duration: span["duration"].as_u64().context("a span without a duration")?,
        status: status(number("http.response.status_code"), number("rpc.grpc.status_code")),
    })
}

fn status(http: Option<String>, grpc: Option<String>) -> String {
    match (http, grpc) {
        (_, Some(grpc)) => format!("gRPC {grpc}"),
        (Some(http), None) => http,
        (None, None) => "-".to_owned(),
    }
}

/// Joins spans to the one tree that they must make.
pub(crate) fn tree(spans: &[Span]) -> anyhow::Result<Node> {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    ensure!(ids.len() == spans.len(), "two spans share an id");
    let mut roots = Vec::new();
    let mut children: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        match span.parent.as_deref() {
            None => roots.push(span),
            Some(parent) if ids.contains(parent) => children.entry(parent).or_default().push(span),
            Some(parent) => bail!("the {} span of {} has a parent {parent} that is not there", span.kind, span.service),
        }
    }
    match roots[..] {
        [root] => Ok(node(root, &children)),
        _ => bail!("{} spans have no parent, where one should", roots.len()),
    }
}

fn node(span: &Span, children: &BTreeMap<&str, Vec<&Span>>) -> Node {
    let caused = children.get(span.id.as_str()).into_iter().flatten();
    let mut caused: Vec<Node> = caused.map(|child| node(child, children)).collect();
    caused.sort_by_key(|child| child.span.start);
    Node { span: span.clone(), caused }
}

impl Node {
    /// The tree without what differs from request to request.
    pub(crate) fn shape(&self) -> Shape {
        let caused = self.caused.iter().map(Self::shape).collect();
        Shape { service: self.span.service.clone(), kind: self.span.kind.clone(), caused }
    }

    /// The lines of the tree: its branches as text, and the span of each.
    pub(crate) fn lines(&self) -> Vec<(String, &Span)> {
        let mut lines = vec![(self.span.service.clone(), &self.span)];
        let last = self.caused.len().saturating_sub(1);
        for (index, child) in self.caused.iter().enumerate() {
            let (first, other) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            for (number, (text, span)) in child.lines().into_iter().enumerate() {
                let branch = if number == 0 { first } else { other };
                lines.push((format!("{branch}{text}"), span));
            }
        }
        lines
    }
}

impl Shape {
    pub(crate) fn of(service: &str, kind: &str, caused: Vec<Self>) -> Self {
        Self { service: service.to_owned(), kind: kind.to_owned(), caused }
    }

    /// How many spans it has.
    pub(crate) fn count(&self) -> usize {
        1 + self.caused.iter().map(Self::count).sum::<usize>()
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.service, self.kind)?;
        if self.caused.is_empty() {
            return Ok(());
        }
        f.write_str(" (")?;
        for (index, child) in self.caused.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{child}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: Option<&str>, service: &str, start: u64) -> Span {
        Span {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            service: service.to_owned(),
            kind: "server".to_owned(),
            name: "GET".to_owned(),
            start,
            duration: 1,
            status: "200".to_owned(),
        }
    }

    #[test]
    fn spans_are_read_from_the_query_apis_answer() {
        let answer = serde_json::json!({ "data": [{
            "processes": { "p1": { "serviceName": "catalog" } },
            "spans": [{
                "spanID": "02", "processID": "p1", "operationName": "List", "startTime": 5, "duration": 7,
                "references": [{ "refType": "CHILD_OF", "spanID": "01" }],
                "tags": [{ "key": "span.kind", "value": "server" }, { "key": "rpc.grpc.status_code", "value": 0 }],
            }],
        }]});
        let expected = Span {
            name: "List".to_owned(),
            duration: 7,
            status: "gRPC 0".to_owned(),
            ..span("02", Some("01"), "catalog", 5)
        };
        assert_eq!(spans(&answer).unwrap(), [expected]);
        assert!(spans(&serde_json::json!({ "data": [] })).is_err());
    }

    #[test]
    fn a_tree_is_ordered_by_start_and_drawn() {
        let all =
            [span("c", Some("a"), "pricing", 9), span("a", None, "gateway", 1), span("b", Some("a"), "catalog", 3)];
        let tree = tree(&all).unwrap();
        assert_eq!(tree.shape().to_string(), "gateway server (catalog server, pricing server)");
        assert_eq!(tree.shape().count(), 3);
        let lines: Vec<String> = tree.lines().into_iter().map(|(text, _)| text).collect();
        assert_eq!(lines, ["gateway", "├─ catalog", "└─ pricing"]);
    }

    #[test]
    fn what_makes_no_tree_is_refused() {
        assert!(tree(&[]).is_err());
        assert!(tree(&[span("a", None, "x", 1), span("b", None, "x", 1)]).is_err(), "two roots");
        assert!(tree(&[span("a", None, "x", 1), span("b", Some("z"), "x", 1)]).is_err(), "a parent that is missing");
        assert!(tree(&[span("a", None, "x", 1), span("a", Some("a"), "x", 1)]).is_err(), "one id twice");
    }
}
