//! A tonic server that answers the benchmark's requests from constants: what gRPC alone costs here.
//!
//! Invariant: answers have the shapes and sizes of real ones (rows of 1 KB, one cell each), and nothing is
//! looked up, stored or checked. A point read of a key that is longer than the benchmark's finds nothing.

use std::pin::Pin;

use bytes::Bytes;
use clap::Args;
use claviger_proto::google::bigtable::v2::bigtable_server::{Bigtable, BigtableServer};
use claviger_proto::google::bigtable::v2::mutate_rows_response::Entry;
use claviger_proto::google::bigtable::v2::read_rows_response::{CellChunk, cell_chunk::RowStatus};
use claviger_proto::google::bigtable::v2::{
    CheckAndMutateRowRequest, CheckAndMutateRowResponse, MutateRowRequest, MutateRowResponse,
    MutateRowsRequest, MutateRowsResponse, PingAndWarmRequest, PingAndWarmResponse,
    ReadModifyWriteRowRequest, ReadModifyWriteRowResponse, ReadRowsRequest, ReadRowsResponse,
    SampleRowKeysRequest, SampleRowKeysResponse,
};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::failure::{Doing, Result};
use crate::load::KEY_BYTES;

/// Rows in one message of a scan: about 64 KB.
const ROWS_PER_MESSAGE: u64 = 60;

/// What to serve.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Rows that a full scan gives
    #[arg(long, default_value_t = 200_000)]
    rows: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 1000)]
    value_bytes: usize,
    /// Threads of the server; two as Claviger's on two cores
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[derive(Clone)]
struct Constant {
    rows: u64,
    value: Bytes,
}

/// Serves until it is killed.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn run(options: &Options) -> Result<()> {
    let service = Constant { rows: options.rows, value: vec![b'v'; options.value_bytes].into() };
    crate::runtime(options.threads)?.block_on(async {
        let listener =
            TcpListener::bind(&options.listen).await.doing(format!("cannot listen on {}", options.listen))?;
        println!("claviger ready http://{}", listener.local_addr().doing("no address")?);
        let service = BigtableServer::new(service).max_decoding_message_size(usize::MAX);
        let incoming = futures::StreamExt::inspect(TcpListenerStream::new(listener), |stream| {
            if let Ok(stream) = stream {
                let _ = stream.set_nodelay(true);
            }
        });
        tonic::transport::Server::builder()
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(64 << 20)
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
            .doing("the server stopped")
    })
}

impl Constant {
    fn chunk(&self, row_key: Bytes) -> CellChunk {
        CellChunk {
            row_key,
            family_name: Some("f".to_owned()),
            qualifier: Some(Bytes::from_static(b"q")),
            timestamp_micros: 1000,
            value: self.value.clone(),
            row_status: Some(RowStatus::CommitRow(true)),
            ..CellChunk::default()
        }
    }

    fn message(&self, first: u64, count: u64) -> ReadRowsResponse {
        let chunks =
            (first..first + count).map(|number| self.chunk(format!("user{number:016x}").into())).collect();
        ReadRowsResponse { chunks, ..ReadRowsResponse::default() }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T: Send + 'static>(items: impl Iterator<Item = T> + Send + 'static) -> Response<Answers<T>> {
    Response::new(Box::pin(tokio_stream::iter(items.map(Ok))))
}

fn unbuilt<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the constant server answers what the benchmark asks, no more"))
}

#[tonic::async_trait]
impl Bigtable for Constant {
    type ReadRowsStream = Answers<ReadRowsResponse>;
    type SampleRowKeysStream = Answers<SampleRowKeysResponse>;
    type MutateRowsStream = Answers<MutateRowsResponse>;

    async fn read_rows(
        &self,
        request: Request<ReadRowsRequest>,
    ) -> Result<Response<Self::ReadRowsStream>, Status> {
        let request = request.into_inner();
        let set = request.rows.unwrap_or_default();
        if let Some(key) = set.row_keys.into_iter().next() {
            let chunks = if key.len() == KEY_BYTES { vec![self.chunk(key)] } else { Vec::new() };
            let found = !chunks.is_empty();
            let message = ReadRowsResponse { chunks, ..ReadRowsResponse::default() };
            return Ok(answers(found.then_some(message).into_iter()));
        }
        let part =
            set.row_ranges.first().is_some_and(|range| range.start_key.is_some() && range.end_key.is_some());
        let rows = match u64::try_from(request.rows_limit) {
            Ok(limit) if limit > 0 => limit,
            _ if part => self.rows / crate::load::SCAN_PARTS,
            _ => self.rows,
        };
        let this = self.clone();
        let starts = (0..rows).step_by(ROWS_PER_MESSAGE as usize);
        Ok(answers(starts.map(move |first| this.message(first, ROWS_PER_MESSAGE.min(rows - first)))))
    }

    async fn mutate_row(&self, _: Request<MutateRowRequest>) -> Result<Response<MutateRowResponse>, Status> {
        Ok(Response::new(MutateRowResponse::default()))
    }

    async fn mutate_rows(
        &self,
        request: Request<MutateRowsRequest>,
    ) -> Result<Response<Self::MutateRowsStream>, Status> {
        let count = request.into_inner().entries.len() as i64;
        let entries = (0..count).map(|index| Entry { index, status: Some(Default::default()) }).collect();
        Ok(answers(std::iter::once(MutateRowsResponse { entries, ..MutateRowsResponse::default() })))
    }

    async fn sample_row_keys(
        &self,
        _: Request<SampleRowKeysRequest>,
    ) -> Result<Response<Self::SampleRowKeysStream>, Status> {
        unbuilt()
    }

    async fn check_and_mutate_row(
        &self,
        _: Request<CheckAndMutateRowRequest>,
    ) -> Result<Response<CheckAndMutateRowResponse>, Status> {
        unbuilt()
    }

    async fn ping_and_warm(
        &self,
        _: Request<PingAndWarmRequest>,
    ) -> Result<Response<PingAndWarmResponse>, Status> {
        Ok(Response::new(PingAndWarmResponse::default()))
    }

    async fn read_modify_write_row(
        &self,
        _: Request<ReadModifyWriteRowRequest>,
    ) -> Result<Response<ReadModifyWriteRowResponse>, Status> {
        unbuilt()
    }
}
