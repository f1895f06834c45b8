//! `google.bigtable.v2.Bigtable`.

use std::sync::Arc;
use std::time::Duration;

use claviger_bigtable::catalog::Routing;
use claviger_bigtable::model::{Cell, Chunk, Families, Filter};
use claviger_bigtable::{
    Bigtable, CheckAndMutate, ReadAnswer, ReadEvent, ReadModifyWrite, ReadRequest, ReadStats, RowChange,
};
use claviger_core::names::{AppProfileName, InstanceName, TableName};
use claviger_core::{Clock, Error, Result, limits};
use claviger_proto::google::bigtable::v2 as pb;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use pb::bigtable_server::Bigtable as BigtableService;
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use crate::status::{rpc_status, status};

/// Reads and writes of rows.
#[derive(Debug)]
pub(crate) struct DataApi {
    pub(crate) store: Arc<Bigtable>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Entries of a MutateRows reply that go in one message.
const ENTRIES_PER_MESSAGE: usize = 10_000;

type Answer<T> = BoxStream<'static, Result<T, Status>>;

/// The table of a request, which may name a view in its place.
fn table_name(table: &str, authorized_view: &str, materialized_view: &str) -> Result<TableName> {
    if !authorized_view.is_empty() || !materialized_view.is_empty() {
        return Err(Error::unimplemented("Authorized and materialized views are not built yet."));
    }
    TableName::parse(table).map_err(|e| Error::invalid_field("table_name", e.message()))
}

fn compile(filter: Option<pb::RowFilter>, families: &Families) -> Result<Option<Arc<Filter>>> {
    let Some(filter) = filter else { return Ok(None) };
    let bytes = filter.encoded_len();
    if bytes > limits::FILTER_BYTES {
        return Err(Error::invalid_field(
            "filter",
            format!("has {bytes} bytes, but may have {} at most", limits::FILTER_BYTES),
        ));
    }
    let filter = Filter::compile(&convert::filter(filter)?, families, rand::random())?;
    Ok((!filter.is_pass_all()).then(|| Arc::new(filter)))
}

fn chunk_to_pb(chunk: Chunk) -> pb::read_rows_response::CellChunk {
    use pb::read_rows_response::cell_chunk::RowStatus;
    pb::read_rows_response::CellChunk {
        row_key: chunk.row_key,
        family_name: chunk.family.map(|family| family.to_string()),
        qualifier: chunk.qualifier,
        timestamp_micros: chunk.timestamp_micros,
        labels: chunk.label.into_iter().map(|label| label.to_string()).collect(),
        value: chunk.value,
        // A value has at most 100 MiB.
        value_size: i32::try_from(chunk.value_size).unwrap_or(i32::MAX),
        row_status: chunk.commit_row.then_some(RowStatus::CommitRow(true)),
    }
}

fn stats_to_pb(stats: ReadStats, took: Duration) -> pb::RequestStats {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let view = pb::FullReadStatsView {
        read_iteration_stats: Some(pb::ReadIterationStats {
            rows_seen_count: count(stats.rows_seen),
            rows_returned_count: count(stats.rows_returned),
            cells_seen_count: count(stats.cells_seen),
            cells_returned_count: count(stats.cells_returned),
        }),
        // The Go client reads it without a look whether it is there.
        request_latency_stats: Some(pb::RequestLatencyStats {
            frontend_server_latency: prost_types::Duration::try_from(took).ok(),
        }),
    };
    pb::RequestStats { stats_view: Some(pb::request_stats::StatsView::FullReadStatsView(view)) }
}

/// When a request whose figures were asked for came in.
struct Timed {
    clock: Arc<dyn Clock>,
    started: Duration,
}

impl Timed {
    fn took(&self) -> Duration {
        self.clock.elapsed().saturating_sub(self.started)
    }
}

/// The message of an event; none for the end, unless its figures were asked for.
fn event_to_pb(event: ReadEvent, timed: Option<&Timed>) -> Option<pb::ReadRowsResponse> {
    let mut message = pb::ReadRowsResponse::default();
    match event {
        ReadEvent::Chunks(chunks) => message.chunks = chunks.into_iter().map(chunk_to_pb).collect(),
        ReadEvent::Scanned(key) => message.last_scanned_row_key = key,
        ReadEvent::Done(stats) => message.request_stats = Some(stats_to_pb(stats, timed?.took())),
    }
    Some(message)
}

fn row_to_pb(key: bytes::Bytes, families: &Families, cells: Vec<Cell>) -> pb::Row {
    let mut row = pb::Row { key, families: Vec::new() };
    for cell in cells {
        let name = families.name_at(cell.family);
        if row.families.last().is_none_or(|family: &pb::Family| family.name != name) {
            row.families.push(pb::Family { name: name.to_owned(), columns: Vec::new() });
        }
        let Some(family) = row.families.last_mut() else { continue };
        if family.columns.last().is_none_or(|column: &pb::Column| column.qualifier != cell.qualifier) {
            family.columns.push(pb::Column { qualifier: cell.qualifier.clone(), cells: Vec::new() });
        }
        let Some(column) = family.columns.last_mut() else { continue };
        column.cells.push(pb::Cell {
            timestamp_micros: cell.timestamp_micros,
            value: cell.value,
            labels: cell.label.into_iter().map(|label| label.to_string()).collect(),
        });
    }
    row
}

impl DataApi {
    /// Checks that the request's app profile exists, and that it allows what the request does.
    fn check_profile(&self, instance: &InstanceName, id: &str, reads_before_writing: bool) -> Result<()> {
        if id.is_empty() {
            return Ok(());
        }
        let name = AppProfileName::new(instance.project(), instance.instance(), id)?;
        let profile = self.store.catalog().profile(&name)?;
        let allowed = matches!(&profile.routing, Routing::Single { transactional_writes: true, .. });
        if reads_before_writing && !allowed {
            return Err(Error::precondition(format!(
                "App profile {name} does not allow single-row transactions (CheckAndMutateRow, ReadModifyWriteRow)."
            )));
        }
        Ok(())
    }

    async fn read(&self, request: pb::ReadRowsRequest) -> Result<Answer<pb::ReadRowsResponse>> {
        use pb::read_rows_request::RequestStatsView;
        let table =
            table_name(&request.table_name, &request.authorized_view_name, &request.materialized_view_name)?;
        self.check_profile(&table.instance_name(), &request.app_profile_id, false)?;
        let limit = u64::try_from(request.rows_limit)
            .map_err(|_| Error::invalid_field("rows_limit", "must not be negative"))?;
        let wanted = request.request_stats_view() == RequestStatsView::RequestStatsFull;
        let timed = wanted.then(|| Timed { clock: self.clock.clone(), started: self.clock.elapsed() });
        let families = self.store.families(&table)?;
        let filter = compile(request.filter, &families)?;
        let rows = convert::row_set(request.rows)?;
        let read = ReadRequest { families, rows, filter, limit, reversed: request.reversed };
        Ok(match self.store.read_rows(&table, read).await? {
            ReadAnswer::Whole(events) => stream::iter(
                events.into_iter().filter_map(move |event| event_to_pb(event, timed.as_ref())).map(Ok),
            )
            .boxed(),
            ReadAnswer::Parts(parts) => ReceiverStream::new(parts)
                .filter_map(move |part| {
                    std::future::ready(match part {
                        Ok(event) => event_to_pb(event, timed.as_ref()).map(Ok),
                        Err(error) => Some(Err(status(error))),
                    })
                })
                .boxed(),
        })
    }

    async fn mutate(&self, request: pb::MutateRowRequest) -> Result<pb::MutateRowResponse> {
        let table = table_name(&request.table_name, &request.authorized_view_name, "")?;
        self.check_profile(&table.instance_name(), &request.app_profile_id, false)?;
        let mutations = convert::mutations(request.mutations, &*self.store.families(&table)?)?;
        self.store.mutate_row(&table, &RowChange { key: request.row_key, mutations }).await?;
        Ok(pb::MutateRowResponse {})
    }

    async fn mutate_many(&self, request: pb::MutateRowsRequest) -> Result<Answer<pb::MutateRowsResponse>> {
        let table = table_name(&request.table_name, &request.authorized_view_name, "")?;
        self.check_profile(&table.instance_name(), &request.app_profile_id, false)?;
        if request.entries.is_empty() {
            return Err(Error::invalid_field("entries", "must not be empty"));
        }
        let count: usize = request.entries.iter().map(|entry| entry.mutations.len()).sum();
        if count > limits::MUTATIONS_PER_REQUEST {
            return Err(Error::invalid_field(
                "entries",
                format!("have {count} mutations, but may have {} at most", limits::MUTATIONS_PER_REQUEST),
            ));
        }
        let families = self.store.families(&table)?;
        let changes = request
            .entries
            .into_iter()
            .map(|entry| {
                let mutations = convert::mutations(entry.mutations, &families)?;
                Ok(RowChange { key: entry.row_key, mutations })
            })
            .collect();
        let results = self.store.mutate_rows(&table, changes).await?;
        let entries: Vec<_> = (0..)
            .zip(results)
            .map(|(index, result)| pb::mutate_rows_response::Entry {
                index,
                status: Some(result.as_ref().err().map(rpc_status).unwrap_or_default()),
            })
            .collect();
        let messages: Vec<_> = entries
            .chunks(ENTRIES_PER_MESSAGE)
            .map(|entries| Ok(pb::MutateRowsResponse { entries: entries.to_vec(), rate_limit_info: None }))
            .collect();
        Ok(stream::iter(messages).boxed())
    }

    async fn check(&self, request: pb::CheckAndMutateRowRequest) -> Result<pb::CheckAndMutateRowResponse> {
        let table = table_name(&request.table_name, &request.authorized_view_name, "")?;
        self.check_profile(&table.instance_name(), &request.app_profile_id, true)?;
        let families = self.store.families(&table)?;
        let change = CheckAndMutate {
            key: request.row_key,
            predicate: compile(request.predicate_filter, &families)?,
            when_true: convert::mutations(request.true_mutations, &families)?,
            when_false: convert::mutations(request.false_mutations, &families)?,
            families,
        };
        let predicate_matched = self.store.check_and_mutate(&table, &change).await?;
        Ok(pb::CheckAndMutateRowResponse { predicate_matched })
    }

    async fn modify(&self, request: pb::ReadModifyWriteRowRequest) -> Result<pb::ReadModifyWriteRowResponse> {
        let table = table_name(&request.table_name, &request.authorized_view_name, "")?;
        self.check_profile(&table.instance_name(), &request.app_profile_id, true)?;
        let families = self.store.families(&table)?;
        let rules = convert::rules(request.rules, &families)?;
        let change = ReadModifyWrite { families, key: request.row_key, rules };
        let cells = self.store.read_modify_write(&table, &change).await?;
        Ok(pb::ReadModifyWriteRowResponse { row: Some(row_to_pb(change.key, &change.families, cells)) })
    }

    async fn sample(&self, request: pb::SampleRowKeysRequest) -> Result<Answer<pb::SampleRowKeysResponse>> {
        let table =
            table_name(&request.table_name, &request.authorized_view_name, &request.materialized_view_name)?;
        self.check_profile(&table.instance_name(), &request.app_profile_id, false)?;
        let samples = self.store.sample_row_keys(&table).await?;
        let messages = samples.into_iter().map(|sample| {
            Ok(pb::SampleRowKeysResponse {
                row_key: sample.key,
                offset_bytes: i64::try_from(sample.offset_bytes).unwrap_or(i64::MAX),
            })
        });
        Ok(stream::iter(messages).boxed())
    }

    fn ping(&self, request: &pb::PingAndWarmRequest) -> Result<pb::PingAndWarmResponse> {
        let name =
            InstanceName::parse(&request.name).map_err(|e| Error::invalid_field("name", e.message()))?;
        self.store.catalog().instance(&name)?;
        self.check_profile(&name, &request.app_profile_id, false)?;
        Ok(pb::PingAndWarmResponse {})
    }
}

#[tonic::async_trait]
impl BigtableService for DataApi {
    type ReadRowsStream = Answer<pb::ReadRowsResponse>;
    type SampleRowKeysStream = Answer<pb::SampleRowKeysResponse>;
    type MutateRowsStream = Answer<pb::MutateRowsResponse>;

    async fn read_rows(
        &self,
        request: Request<pb::ReadRowsRequest>,
    ) -> Result<Response<Self::ReadRowsStream>, Status> {
        self.read(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn sample_row_keys(
        &self,
        request: Request<pb::SampleRowKeysRequest>,
    ) -> Result<Response<Self::SampleRowKeysStream>, Status> {
        self.sample(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn mutate_row(
        &self,
        request: Request<pb::MutateRowRequest>,
    ) -> Result<Response<pb::MutateRowResponse>, Status> {
        self.mutate(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn mutate_rows(
        &self,
        request: Request<pb::MutateRowsRequest>,
    ) -> Result<Response<Self::MutateRowsStream>, Status> {
        self.mutate_many(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn check_and_mutate_row(
        &self,
        request: Request<pb::CheckAndMutateRowRequest>,
    ) -> Result<Response<pb::CheckAndMutateRowResponse>, Status> {
        self.check(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn ping_and_warm(
        &self,
        request: Request<pb::PingAndWarmRequest>,
    ) -> Result<Response<pb::PingAndWarmResponse>, Status> {
        self.ping(&request.into_inner()).map(Response::new).map_err(status)
    }

    async fn read_modify_write_row(
        &self,
        request: Request<pb::ReadModifyWriteRowRequest>,
    ) -> Result<Response<pb::ReadModifyWriteRowResponse>, Status> {
        self.modify(request.into_inner()).await.map(Response::new).map_err(status)
    }
}
