//! HTTP/1.1: customers who read the list and order, and know what must be answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use shop_mesh::http_client::{Ask, Connection};

use crate::counts::Counts;

/// How long a customer thinks between two requests.
const PAUSE: Duration = Duration::from_millis(10);
const TEAPOT_CENTS: u64 = 1890;

/// `clients` customers at once, each over one kept connection, until the counts say stop.
pub(crate) async fn load(address: SocketAddr, clients: usize, counts: Arc<Counts>) -> anyhow::Result<()> {
    let mut running = tokio::task::JoinSet::new();
    for number in 0..clients {
        running.spawn(customer(address, number, Arc::clone(&counts)));
    }
    while let Some(ended) = running.join_next().await {
        ended.context("a customer panicked")?;
    }
    Ok(())
}

async fn customer(address: SocketAddr, number: usize, counts: Arc<Counts>) {
    let mut connection = None;
    for turn in 0_u64.. {
        if !counts.go_on() {
            return;
        }
        let note = format!("{address} {number} {turn}");
        match exchange(&mut connection, address, turn, &note).await {
            Ok(()) => counts.requests.add(1),
            Err(error) => {
                connection = None;
                counts.request_failed(&error);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One request, asked once: nothing is tried again, whatever the reason.
async fn exchange(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    turn: u64,
    note: &str,
) -> anyhow::Result<()> {
    // A server may close a connection that nobody uses (RFC 9112, section 9.5); what was not sent on it did not fail.
    if connection.as_ref().is_some_and(Connection::is_closed) {
        *connection = None;
    }
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(address).await?),
    };
    if turn.is_multiple_of(2) {
        check_list(&connection.send(&Ask::Get("/products".to_owned())).await?.json()?)
    } else {
        check_order(&connection.send(&Ask::Order(note.to_owned())).await?.json()?, note)
    }
}

fn check_list(answer: &Value) -> anyhow::Result<()> {
    let products = answer["products"].as_array().context("a list without products")?;
    ensure!(products.len() == 3, "a list of {} products: {answer}", products.len());
    ensure!(products.iter().all(|product| product["cents"].is_u64()), "a product without its price: {answer}");
    Ok(())
}

fn check_order(answer: &Value, note: &str) -> anyhow::Result<()> {
    ensure!(answer["cents"] == TEAPOT_CENTS, "a wrong price: {answer}");
    for field in ["catalog_note", "pricing_note"] {
        ensure!(answer[field] == note, "{field} is not {note:?}: {answer}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_told_from_a_right_one() {
        let order = serde_json::json!({ "cents": 1890, "catalog_note": "a", "pricing_note": "a" });
        assert!(check_order(&order, "a").is_ok());
        assert!(check_order(&order, "b").is_err());
        let list = serde_json::json!({ "products": [{ "cents": 1 }, { "cents": 2 }, { "cents": null }] });
        assert!(check_list(&list).is_err());
    }
}
