//! `google.bigtable.admin.v2.BigtableTableAdmin`.

use std::collections::HashMap;
use std::sync::Arc;

use claviger_bigtable::catalog::Table;
use claviger_bigtable::{Bigtable, FamilyChange, KeyInUse, RowDrop, TableSpec};
use claviger_cmek::{KeyState, Status as KeyStatus};
use claviger_core::names::{InstanceName, TableName};
use claviger_core::{Error, Result};
use claviger_proto::google::bigtable::admin::v2 as pb;
use claviger_proto::google::iam::v1 as iam;
use claviger_proto::google::longrunning::Operation;
use claviger_proto::google::rpc;
use pb::bigtable_table_admin_server::BigtableTableAdmin;
use pb::table::View;
use tonic::{Request, Response, Status};

use super::convert;
use super::mask::Mask;
use crate::operations::Operations;
use crate::status::status;

/// Administration of tables.
#[derive(Debug)]
pub(crate) struct TableAdminApi {
    pub(crate) store: Arc<Bigtable>,
    pub(crate) operations: Arc<Operations>,
}

/// The most tables of a page.
const MAX_PAGE: usize = 1_000;
/// With one cluster all writes have reached all clusters.
const CONSISTENCY_TOKEN: &str = "one-cluster";
const NO_IAM: &str =
    "IAM policies of instances and tables are not built yet; grants on keys are (google.iam.v1.IAMPolicy).";

/// What the API says of the key of a table (B16).
fn encryption_to_pb(key: &KeyInUse) -> pb::EncryptionInfo {
    use pb::encryption_info::EncryptionType;
    let status = match key {
        KeyInUse::Managed => {
            return pb::EncryptionInfo {
                encryption_type: EncryptionType::GoogleDefaultEncryption.into(),
                ..Default::default()
            };
        }
        KeyInUse::Customer(status) => status,
    };
    pb::EncryptionInfo {
        encryption_type: EncryptionType::CustomerManagedEncryption.into(),
        encryption_status: Some(key_status(status)),
        kms_key_version: status.key_version.to_string(),
    }
}

fn key_status(status: &KeyStatus) -> rpc::Status {
    let (code, message) = match &status.state {
        KeyState::Unknown => (tonic::Code::Unknown, "Key version is not yet known.".to_owned()),
        KeyState::Enabled => (tonic::Code::Ok, String::new()),
        KeyState::Unreachable { locked: false, .. } => {
            (tonic::Code::Ok, "The key service does not answer; cached keys are in use.".to_owned())
        }
        _ => (
            tonic::Code::FailedPrecondition,
            status
                .lock_error
                .as_ref()
                .map_or_else(|| "The key cannot be used.".to_owned(), |e| e.message().to_owned()),
        ),
    };
    rpc::Status { code: code as i32, message, details: Vec::new() }
}

impl TableAdminApi {
    /// A table, as far as a view shows it.
    async fn view(&self, table: &Table, view: View) -> Result<pb::Table> {
        let mut shown = pb::Table { name: table.name.to_string(), ..Default::default() };
        if matches!(view, View::NameOnly) {
            return Ok(shown);
        }
        shown.deletion_protection = table.deletion_protection;
        if matches!(view, View::SchemaView | View::Full) {
            shown.granularity = pb::table::TimestampGranularity::Millis.into();
            shown.column_families = table
                .families
                .iter()
                .map(|family| (family.name.to_string(), convert::family_to_pb(family)))
                .collect();
        }
        if matches!(view, View::ReplicationView | View::EncryptionView | View::Full) {
            shown.cluster_states = self.cluster_states(table, view).await?;
        }
        Ok(shown)
    }

    async fn cluster_states(
        &self,
        table: &Table,
        view: View,
    ) -> Result<HashMap<String, pb::table::ClusterState>> {
        use pb::table::cluster_state::ReplicationState;
        let mut states = HashMap::new();
        for found in self.store.encryption(&table.name).await? {
            let mut state = pb::table::ClusterState::default();
            if !matches!(view, View::EncryptionView) {
                state.replication_state = ReplicationState::Ready.into();
            }
            if !matches!(view, View::ReplicationView) {
                state.encryption_info = vec![encryption_to_pb(&found.key)];
            }
            states.insert(found.cluster, state);
        }
        Ok(states)
    }

    async fn create(&self, request: pb::CreateTableRequest) -> Result<pb::Table> {
        let instance = InstanceName::parse(&request.parent)?;
        let table = request.table.unwrap_or_default();
        if table.change_stream_config.is_some() {
            return Err(Error::unimplemented("Change streams are not built yet."));
        }
        let families = table
            .column_families
            .into_iter()
            .map(|(name, family)| Ok((name.clone(), convert::family_from_pb(&name, family)?)))
            .collect::<Result<_>>()?;
        let spec = TableSpec { families, deletion_protection: table.deletion_protection };
        let made = self.store.create_table(&instance, &request.table_id, spec).await?;
        self.view(&made, View::SchemaView).await
    }

    async fn list(&self, request: pb::ListTablesRequest) -> Result<pb::ListTablesResponse> {
        let instance = InstanceName::parse(&request.parent)?;
        self.store.catalog().instance(&instance)?;
        let view = match View::try_from(request.view) {
            Ok(View::Unspecified) => View::NameOnly,
            Ok(view) => view,
            Err(_) => return Err(Error::invalid_field("view", format!("{} is not a view", request.view))),
        };
        let size = match usize::try_from(request.page_size) {
            Ok(0) => MAX_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => return Err(Error::invalid_field("page_size", "must not be negative")),
        };
        let mut tables = self.store.catalog().tables(&instance);
        tables.retain(|table| table.name.as_str() > request.page_token.as_str());
        let mut reply = pb::ListTablesResponse::default();
        for table in tables.iter().take(size) {
            reply.tables.push(self.view(table, view).await?);
        }
        if tables.len() > size {
            reply.next_page_token = reply.tables.last().map(|table| table.name.clone()).unwrap_or_default();
        }
        Ok(reply)
    }

    async fn get(&self, request: pb::GetTableRequest) -> Result<pb::Table> {
        let table = self.store.catalog().table(&TableName::parse(&request.name)?)?;
        let view = match View::try_from(request.view) {
            Ok(View::Unspecified) => View::SchemaView,
            Ok(view) => view,
            Err(_) => return Err(Error::invalid_field("view", format!("{} is not a view", request.view))),
        };
        self.view(&table, view).await
    }

    async fn update(&self, request: pb::UpdateTableRequest) -> Result<Operation> {
        let started = self.operations.now();
        let table = request.table.ok_or_else(|| Error::invalid_field("table", "must be set"))?;
        let name = TableName::parse(&table.name)?;
        let mut mask = Mask::new(request.update_mask)?;
        let protection = mask.has("deletion_protection");
        if mask.has("change_stream_config") {
            return Err(Error::unimplemented("Change streams are not built yet."));
        }
        if mask.has("automated_backup_policy") {
            return Err(Error::unimplemented("Backups are not built yet."));
        }
        mask.finish()?;
        let changed = if protection {
            self.store.protect_table(&name, table.deletion_protection).await?
        } else {
            self.store.catalog().table(&name)?
        };
        let metadata = pb::UpdateTableMetadata {
            name: name.to_string(),
            start_time: Some(started),
            end_time: Some(self.operations.now()),
        };
        self.operations.done(name.as_str(), &metadata, &self.view(&changed, View::SchemaView).await?).await
    }

    async fn modify(&self, request: pb::ModifyColumnFamiliesRequest) -> Result<pb::Table> {
        use pb::modify_column_families_request::modification::Mod;
        let name = TableName::parse(&request.name)?;
        if request.modifications.is_empty() {
            return Err(Error::invalid_field("modifications", "must name a column family"));
        }
        let changes = request
            .modifications
            .into_iter()
            .map(|change| match change.r#mod {
                Some(Mod::Create(family)) => {
                    Ok(FamilyChange::Create(change.id.clone(), convert::family_from_pb(&change.id, family)?))
                }
                Some(Mod::Update(family)) => {
                    Ok(FamilyChange::Update(change.id.clone(), convert::family_from_pb(&change.id, family)?))
                }
                Some(Mod::Drop(true)) => Ok(FamilyChange::Drop(change.id)),
                Some(Mod::Drop(false)) | None => Err(Error::invalid_field(
                    "modifications",
                    format!("column family '{}' needs one of create, update and drop", change.id),
                )),
            })
            .collect::<Result<Vec<_>>>()?;
        let changed = self.store.modify_families(&name, changes).await?;
        self.view(&changed, View::SchemaView).await
    }

    async fn drop_rows(&self, request: pb::DropRowRangeRequest) -> Result<()> {
        use pb::drop_row_range_request::Target;
        let name = TableName::parse(&request.name)?;
        let which = match request.target {
            Some(Target::RowKeyPrefix(prefix)) => RowDrop::Prefix(prefix.to_vec()),
            Some(Target::DeleteAllDataFromTable(true)) => RowDrop::All,
            Some(Target::DeleteAllDataFromTable(false)) | None => {
                return Err(Error::invalid_field("target", "needs a row key prefix, or true for all rows"));
            }
        };
        self.store.drop_rows(&name, which).await
    }

    fn token_for(&self, name: &str) -> Result<String> {
        self.store.catalog().table(&TableName::parse(name)?)?;
        Ok(CONSISTENCY_TOKEN.to_owned())
    }

    fn is_consistent(&self, request: &pb::CheckConsistencyRequest) -> Result<bool> {
        let token = self.token_for(&request.name)?;
        if request.consistency_token != token {
            return Err(Error::invalid_field("consistency_token", "is not one of this table"));
        }
        Ok(true)
    }
}

#[tonic::async_trait]
impl BigtableTableAdmin for TableAdminApi {
    async fn create_table(
        &self,
        request: Request<pb::CreateTableRequest>,
    ) -> Result<Response<pb::Table>, Status> {
        self.create(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn list_tables(
        &self,
        request: Request<pb::ListTablesRequest>,
    ) -> Result<Response<pb::ListTablesResponse>, Status> {
        self.list(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn get_table(&self, request: Request<pb::GetTableRequest>) -> Result<Response<pb::Table>, Status> {
        self.get(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn update_table(
        &self,
        request: Request<pb::UpdateTableRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.update(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn delete_table(&self, request: Request<pb::DeleteTableRequest>) -> Result<Response<()>, Status> {
        let name = TableName::parse(&request.into_inner().name).map_err(status)?;
        self.store.delete_table(&name).await.map(Response::new).map_err(status)
    }

    async fn modify_column_families(
        &self,
        request: Request<pb::ModifyColumnFamiliesRequest>,
    ) -> Result<Response<pb::Table>, Status> {
        self.modify(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn drop_row_range(
        &self,
        request: Request<pb::DropRowRangeRequest>,
    ) -> Result<Response<()>, Status> {
        self.drop_rows(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn generate_consistency_token(
        &self,
        request: Request<pb::GenerateConsistencyTokenRequest>,
    ) -> Result<Response<pb::GenerateConsistencyTokenResponse>, Status> {
        let consistency_token = self.token_for(&request.into_inner().name).map_err(status)?;
        Ok(Response::new(pb::GenerateConsistencyTokenResponse { consistency_token }))
    }

    async fn check_consistency(
        &self,
        request: Request<pb::CheckConsistencyRequest>,
    ) -> Result<Response<pb::CheckConsistencyResponse>, Status> {
        let consistent = self.is_consistent(&request.into_inner()).map_err(status)?;
        Ok(Response::new(pb::CheckConsistencyResponse { consistent }))
    }

    async fn get_iam_policy(
        &self,
        _: Request<iam::GetIamPolicyRequest>,
    ) -> Result<Response<iam::Policy>, Status> {
        Err(status(Error::unimplemented(NO_IAM)))
    }

    async fn set_iam_policy(
        &self,
        _: Request<iam::SetIamPolicyRequest>,
    ) -> Result<Response<iam::Policy>, Status> {
        Err(status(Error::unimplemented(NO_IAM)))
    }

    async fn test_iam_permissions(
        &self,
        _: Request<iam::TestIamPermissionsRequest>,
    ) -> Result<Response<iam::TestIamPermissionsResponse>, Status> {
        Err(status(Error::unimplemented(NO_IAM)))
    }
}
