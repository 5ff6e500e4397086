//! What the shop sells: a gRPC service, run as several replicas.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::{GRACE, stop};
use shop_mesh::rpc::{self, ListReply, ListRequest, ReserveReply, ReserveRequest, Sale, Stock, Total};

const PRODUCTS: [&str; 3] = ["teapot", "kettle", "lantern"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:50051")]
    listen: String,
    /// This replica's name, which its answers carry
    #[arg(long)]
    name: String,
    /// How long each answer takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay: u64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let listener = crate::listen(&format!("catalog {}", args.name), &args.listen).await?;
    let catalog = Catalog(Arc::new(Replica { name: args.name, delay: Duration::from_millis(args.delay) }));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let server = Server::builder().add_service(catalog).serve_with_incoming_shutdown(incoming, async move {
        stop::requested().await;
        stopping.send_replace(true);
    });
    tokio::select! {
        served = server => Ok(served?),
        // Clients that keep a stream open for ever do not keep a replica that was told to go.
        () = async { drop(stopped.wait_for(|stopping| *stopping).await); tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

/// One replica of `shop.v1.Catalog`.
struct Replica {
    name: String,
    delay: Duration,
}

impl Replica {
    async fn list(&self) -> Result<Response<ListReply>, Status> {
        tokio::time::sleep(self.delay).await;
        let products = PRODUCTS.iter().map(ToString::to_string).collect();
        Ok(Response::new(ListReply { replica: self.name.clone(), products }))
    }

    async fn reserve(&self, request: ReserveRequest) -> Result<Response<ReserveReply>, Status> {
        tokio::time::sleep(self.delay).await;
        if !PRODUCTS.contains(&request.product.as_str()) {
            return Err(Status::not_found(format!("the shop has no {:?}", request.product)));
        }
        Ok(Response::new(ReserveReply { replica: self.name.clone(), note: request.note }))
    }

    /// The sum so far after each sale, at once.
    fn tally(&self, sales: Streaming<Sale>) -> impl tokio_stream::Stream<Item = Result<Total, Status>> + Send + use<> {
        let mut total = Total { replica: self.name.clone(), ..Total::default() };
        sales.map(move |sale| {
            total.sales += 1;
            total.cents += sale?.cents;
            Ok(total.clone())
        })
    }

    fn watch(&self) -> Vec<Result<Stock, Status>> {
        let stock = |(index, product): (usize, &&str)| {
            Ok(Stock { replica: self.name.clone(), product: (*product).to_owned(), left: 10 - index as u32 })
        };
        PRODUCTS.iter().enumerate().map(stock).collect()
    }
}

/// The replica as the gRPC server wants it.
#[derive(Clone)]
struct Catalog(Arc<Replica>);

impl NamedService for Catalog {
    const NAME: &'static str = rpc::CATALOG;
}

impl Service<http::Request<Body>> for Catalog {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let replica = Arc::clone(&self.0);
        Box::pin(async move { Ok(answer(replica, request).await) })
    }
}

async fn answer(replica: Arc<Replica>, request: http::Request<Body>) -> http::Response<Body> {
    match request.uri().path() {
        rpc::LIST => {
            let list = service_fn(move |_: Request<ListRequest>| {
                let replica = Arc::clone(&replica);
                async move { replica.list().await }
            });
            Grpc::new(ProstCodec::default()).unary(list, request).await
        }
        rpc::RESERVE => {
            let reserve = service_fn(move |request: Request<ReserveRequest>| {
                let replica = Arc::clone(&replica);
                async move { replica.reserve(request.into_inner()).await }
            });
            Grpc::new(ProstCodec::default()).unary(reserve, request).await
        }
        rpc::WATCH => {
            let watch = service_fn(move |_: Request<ListRequest>| {
                let stock = replica.watch();
                let delay = replica.delay;
                async move { Ok(Response::new(paced(stock, delay))) }
            });
            Grpc::new(ProstCodec::default()).server_streaming(watch, request).await
        }
        rpc::TALLY => {
            let tally = service_fn(move |request: Request<Streaming<Sale>>| {
                let totals = replica.tally(request.into_inner());
                async move { Ok(Response::new(totals)) }
            });
            Grpc::new(ProstCodec::default()).streaming(tally, request).await
        }
        other => Status::unimplemented(format!("no method {other}")).into_http(),
    }
}

/// `items` one after the other, `delay` before each.
fn paced(
    items: Vec<Result<Stock, Status>>,
    delay: Duration,
) -> impl tokio_stream::Stream<Item = Result<Stock, Status>> + Send + 'static {
    tokio_stream::iter(items).then(move |item| async move {
        tokio::time::sleep(delay).await;
        item
    })
}
