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
pub(crate) const CATALOG: &str = "shop.v1.Catalog";
pub(crate) const LIST: &str = "/shop.v1.Catalog/List";
pub(crate) const RESERVE: &str = "/shop.v1.Catalog/Reserve";
pub(crate) const WATCH: &str = "/shop.v1.Catalog/Watch";

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListRequest {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListReply {
    /// Which replica answers.
    #[prost(string, tag = "1")]
    pub(crate) replica: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) products: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReserveRequest {
    #[prost(string, tag = "1")]
    pub(crate) product: String,
    /// The customer's words, which the reply repeats.
    #[prost(string, tag = "2")]
    pub(crate) note: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReserveReply {
    #[prost(string, tag = "1")]
    pub(crate) replica: String,
    #[prost(string, tag = "2")]
    pub(crate) note: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stock {
    #[prost(string, tag = "1")]
    pub(crate) replica: String,
    #[prost(string, tag = "2")]
    pub(crate) product: String,
    #[prost(uint32, tag = "3")]
    pub(crate) left: u32,
}

/// A client of the catalog. Its clones share one HTTP/2 connection, as gRPC clients do: without something in between
/// that balances each request, one replica would get them all.
#[derive(Clone)]
pub(crate) struct CatalogClient {
    channel: Channel,
}

impl CatalogClient {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    pub(crate) async fn list(&self, request: Request<ListRequest>) -> Result<ListReply, Status> {
        self.unary(request, LIST).await
    }

    pub(crate) async fn reserve(&self, request: Request<ReserveRequest>) -> Result<ReserveReply, Status> {
        self.unary(request, RESERVE).await
    }

    pub(crate) async fn watch(&self, request: Request<ListRequest>) -> Result<Streaming<Stock>, Status> {
        let mut grpc = self.ready().await?;
        let codec: ProstCodec<ListRequest, Stock> = ProstCodec::default();
        grpc.server_streaming(request, PathAndQuery::from_static(WATCH), codec).await.map(Response::into_inner)
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
