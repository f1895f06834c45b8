//! A bare tonic server for one method: Encrypt gives back what it gets. What gRPC alone costs.
//!
//! Invariant: requests are decoded and answers encoded as a real server's are, and nothing else is done.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use clap::Args;
use claviger_proto::google::cloud::kms::v1::{EncryptRequest, EncryptResponse};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::failure::{Doing, Result};

/// Where to serve.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Threads of the server; two as Claviger's on two cores
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Serves until it is killed.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn run(options: &Options) -> Result<()> {
    crate::runtime(options.threads)?.block_on(async {
        let listener =
            TcpListener::bind(&options.listen).await.doing(format!("cannot listen on {}", options.listen))?;
        println!("claviger ready http://{}", listener.local_addr().doing("no address")?);
        let incoming = futures::StreamExt::inspect(TcpListenerStream::new(listener), |stream| {
            if let Ok(stream) = stream {
                let _ = stream.set_nodelay(true);
            }
        });
        tonic::transport::Server::builder()
            .add_service(Echo)
            .serve_with_incoming(incoming)
            .await
            .doing("the server stopped")
    })
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "google.cloud.kms.v1.KeyManagementService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<EncryptResponse, EncryptRequest>::default();
            Ok(Grpc::new(codec).unary(Encrypt, request).await)
        })
    }
}

struct Encrypt;

impl UnaryService<EncryptRequest> for Encrypt {
    type Response = EncryptResponse;
    type Future = Ready<Result<Response<EncryptResponse>, Status>>;

    fn call(&mut self, request: Request<EncryptRequest>) -> Self::Future {
        let EncryptRequest { name, plaintext, .. } = request.into_inner();
        ready(Ok(Response::new(EncryptResponse {
            name,
            ciphertext: plaintext,
            ..EncryptResponse::default()
        })))
    }
}
