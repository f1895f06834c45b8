//! Long-running operations, as the admin API returns them and every client polls them.
//!
//! Invariant: an operation is stored done, with its result, before it is returned: what it stands for
//! has happened. It survives a restart.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use claviger_core::{Clock, Error, ErrorKind, Result, Timestamp};
use claviger_proto::google::longrunning as lro;
use claviger_sealed::{RecordBatch, Records};
use prost::{Message, Name};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use crate::status::status;

/// The records' prefix. The rest of a key is the operation's name.
const PREFIX: &str = "operation/";
/// Where the number of the next operation is kept.
const NEXT: &str = "operation-next";
/// Operations that are kept; older ones are forgotten.
const KEPT: u64 = 10_000;

/// The operations of all services.
#[derive(Debug)]
pub(crate) struct Operations {
    records: Arc<Records>,
    clock: Arc<dyn Clock>,
    /// The number of the next one.
    next: Mutex<u64>,
}

impl Operations {
    /// Reads where the numbers stand.
    pub(crate) async fn open(records: Arc<Records>, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        let next = records.get(NEXT).await?.unwrap_or(1);
        Ok(Arc::new(Self { records, clock, next: Mutex::new(next) }))
    }

    /// The time, for an operation's metadata.
    pub(crate) fn now(&self) -> prost_types::Timestamp {
        timestamp(self.clock.now())
    }

    /// Stores an operation that is done. `resource` becomes part of its name.
    pub(crate) async fn done(
        &self,
        resource: &str,
        metadata: &impl Any,
        response: &impl Any,
    ) -> Result<lro::Operation> {
        let mut next = self.next.lock().await;
        let number = *next;
        let operation = lro::Operation {
            name: name(resource, number),
            metadata: Some(metadata.to_any()),
            done: true,
            result: Some(lro::operation::Result::Response(response.to_any())),
        };
        let stored = BASE64.encode(operation.encode_to_vec());
        let mut batch = RecordBatch::new()
            .put(&format!("{PREFIX}{}", operation.name), &stored)?
            .put(&format!("{NEXT}/{number:020}"), &operation.name)?
            .put(NEXT, &(number + 1))?;
        if let Some(old) = number.checked_sub(KEPT) {
            let index = format!("{NEXT}/{old:020}");
            if let Some(name) = self.records.get::<String>(&index).await? {
                batch = batch.delete(&index).delete(&format!("{PREFIX}{name}"));
            }
        }
        self.records.write(batch).await?;
        *next = number + 1;
        Ok(operation)
    }

    async fn get(&self, name: &str) -> Result<lro::Operation> {
        let missing = || Error::not_found(format!("Operation not found: {name}"));
        let stored: String = self.records.get(&format!("{PREFIX}{name}")).await?.ok_or_else(missing)?;
        let bytes = BASE64.decode(stored).map_err(|e| unreadable(name).because(e))?;
        lro::Operation::decode(bytes.as_slice()).map_err(|e| unreadable(name).because(e))
    }
}

fn name(resource: &str, number: u64) -> String {
    format!("operations/{resource}/operations/{number}")
}

fn unreadable(name: &str) -> Error {
    Error::new(ErrorKind::DataLoss, format!("operation {name} cannot be read"))
}

/// A time as the APIs write it.
pub(crate) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
}

/// A message that can travel as `google.protobuf.Any`.
pub(crate) trait Any {
    fn to_any(&self) -> prost_types::Any;
}

impl<M: Message + Name> Any for M {
    fn to_any(&self) -> prost_types::Any {
        let type_url = format!("type.googleapis.com/{}", M::full_name());
        prost_types::Any { type_url, value: self.encode_to_vec() }
    }
}

/// `google.longrunning.Operations`.
#[derive(Debug)]
pub(crate) struct OperationsApi(pub(crate) Arc<Operations>);

#[tonic::async_trait]
impl lro::operations_server::Operations for OperationsApi {
    async fn get_operation(
        &self,
        request: Request<lro::GetOperationRequest>,
    ) -> Result<Response<lro::Operation>, Status> {
        self.0.get(&request.into_inner().name).await.map(Response::new).map_err(status)
    }

    async fn list_operations(
        &self,
        request: Request<lro::ListOperationsRequest>,
    ) -> Result<Response<lro::ListOperationsResponse>, Status> {
        let request = request.into_inner();
        let all =
            self.0.records.scan::<String>(&format!("{PREFIX}{}/", request.name)).await.map_err(status)?;
        let mut operations = Vec::new();
        for (key, _) in all {
            operations.push(self.0.get(key.trim_start_matches(PREFIX)).await.map_err(status)?);
        }
        Ok(Response::new(lro::ListOperationsResponse { operations, ..Default::default() }))
    }

    async fn delete_operation(
        &self,
        request: Request<lro::DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let name = request.into_inner().name;
        self.0.get(&name).await.map_err(status)?;
        self.0.records.delete(&format!("{PREFIX}{name}")).await.map_err(status)?;
        Ok(Response::new(()))
    }

    async fn cancel_operation(
        &self,
        request: Request<lro::CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        // Done operations cannot be cancelled; as in the public API, to ask is not an error.
        self.0.get(&request.into_inner().name).await.map_err(status)?;
        Ok(Response::new(()))
    }

    async fn wait_operation(
        &self,
        request: Request<lro::WaitOperationRequest>,
    ) -> Result<Response<lro::Operation>, Status> {
        self.0.get(&request.into_inner().name).await.map(Response::new).map_err(status)
    }
}
