//! `shop.v1.Catalog` and the span receiver's service, written by hand: what tonic would generate from
//!
//! ```proto
//! syntax = "proto3";
//! package shop.v1;
//!
//! service Catalog {
//!   rpc List(ListRequest) returns (ListReply);
//!   rpc Reserve(ReserveRequest) returns (ReserveReply);
//!   rpc Watch(ListRequest) returns (stream Stock);
//!   rpc Tally(stream Sale) returns (stream Total);
//! }
//! ```
//!
//! so that building the shop needs neither protoc nor a build script.

use http::uri::PathAndQuery;
use prost::Message;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The service's full name.
pub const CATALOG: &str = "shop.v1.Catalog";
/// What there is.
pub const LIST: &str = "/shop.v1.Catalog/List";
/// Sets a product aside.
pub const RESERVE: &str = "/shop.v1.Catalog/Reserve";
/// How much is left, product by product.
pub const WATCH: &str = "/shop.v1.Catalog/Watch";
/// The sum of what was sold so far, after each sale.
pub const TALLY: &str = "/shop.v1.Catalog/Tally";

/// Asks for everything.
#[derive(Clone, PartialEq, Message)]
pub struct ListRequest {}

/// What there is.
#[derive(Clone, PartialEq, Message)]
pub struct ListReply {
    /// Which replica answers.
    #[prost(string, tag = "1")]
    pub replica: String,
    /// Their names.
    #[prost(string, repeated, tag = "2")]
    pub products: Vec<String>,
}

/// Asks for a product.
#[derive(Clone, PartialEq, Message)]
pub struct ReserveRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub product: String,
    /// The customer's words, which the reply repeats.
    #[prost(string, tag = "2")]
    pub note: String,
}

/// A product was set aside.
#[derive(Clone, PartialEq, Message)]
pub struct ReserveReply {
    /// Which replica answers.
    #[prost(string, tag = "1")]
    pub replica: String,
    /// The customer's words, repeated.
    #[prost(string, tag = "2")]
    pub note: String,
}

/// How much is left of a product.
#[derive(Clone, PartialEq, Message)]
pub struct Stock {
    /// Which replica answers.
    #[prost(string, tag = "1")]
    pub replica: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub product: String,
    /// How many pieces.
    #[prost(uint32, tag = "3")]
    pub left: u32,
}

/// Something was sold.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Sale {
    /// For so much.
    #[prost(uint64, tag = "1")]
    pub cents: u64,
}

/// The sum so far.
#[derive(Clone, PartialEq, Message)]
pub struct Total {
    /// Which replica adds up.
    #[prost(string, tag = "1")]
    pub replica: String,
    /// How many sales.
    #[prost(uint64, tag = "2")]
    pub sales: u64,
    /// Their sum.
    #[prost(uint64, tag = "3")]
    pub cents: u64,
}

/// A client of the catalog. Its clones share one HTTP/2 connection, as gRPC clients do: without something in between
/// that balances each request, one replica would get them all.
#[derive(Clone)]
pub struct CatalogClient {
    channel: Channel,
}

impl CatalogClient {
    /// Over `channel`.
    pub fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// What there is.
    pub async fn list(&self, request: Request<ListRequest>) -> Result<ListReply, Status> {
        self.unary(request, LIST).await
    }

    /// Sets a product aside.
    pub async fn reserve(&self, request: Request<ReserveRequest>) -> Result<ReserveReply, Status> {
        self.unary(request, RESERVE).await
    }

    /// How much is left.
    pub async fn watch(&self, request: Request<ListRequest>) -> Result<Streaming<Stock>, Status> {
        let mut grpc = self.ready().await?;
        let codec: ProstCodec<ListRequest, Stock> = ProstCodec::default();
        grpc.server_streaming(request, PathAndQuery::from_static(WATCH), codec).await.map(Response::into_inner)
    }

    /// Every sale is answered by the sum so far.
    pub async fn tally(
        &self,
        sales: impl tokio_stream::Stream<Item = Sale> + Send + 'static,
    ) -> Result<Streaming<Total>, Status> {
        let mut grpc = self.ready().await?;
        let codec: ProstCodec<Sale, Total> = ProstCodec::default();
        grpc.streaming(Request::new(sales), PathAndQuery::from_static(TALLY), codec).await.map(Response::into_inner)
    }

    async fn unary<Q, A>(&self, request: Request<Q>, path: &'static str) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        grpc.unary(request, PathAndQuery::from_static(path), codec).await.map(Response::into_inner)
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(format!("the catalog cannot be reached: {error}")))?;
        Ok(grpc)
    }
}
