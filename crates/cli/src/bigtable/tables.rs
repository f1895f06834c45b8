//! `claviger bigtable tables`.
//!
//! Invariant: what deletes rows or tables asks first when someone is there to answer.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use claviger_core::names::TableName;
use claviger_proto::google::bigtable::admin::v2::create_table_request::Split;
use claviger_proto::google::bigtable::admin::v2::drop_row_range_request::Target;
use claviger_proto::google::bigtable::admin::v2::{
    ChangeStreamConfig, CreateTableRequest, DeleteTableRequest, DropRowRangeRequest, GetTableRequest,
    ListTablesRequest, Table, table,
};
use serde_json::{Value, json};

use super::columns::Escapes;
use super::{gc, tables_update};
use crate::client::Session;
use crate::failure::{Failure, code_name_of};
use crate::flags;
use crate::names::InInstance;
use crate::output::{Cell, Column, Format, confirm, say};
use crate::progress::Progress;

const COLUMNS: [Column; 2] =
    [Column::new("NAME", Cell::Id("name")), Column::new("TABLE", Cell::Path("name"))];

const ENCRYPTION: [Column; 5] = [
    Column::new("CLUSTER", Cell::Path("cluster")),
    Column::new("TYPE", Cell::Path("type")),
    Column::new("STATUS", Cell::Path("status")),
    Column::new("KEY_VERSION", Cell::Path("keyVersion")),
    Column::new("MESSAGE", Cell::Path("message")),
];

/// Tables asked for at a time.
const PAGE: i32 = 500;

const CREATE_EXAMPLES: &str = "\
Examples:
  claviger bigtable tables create sightings --instance aviary \\
      --column-families 'f:maxversions=1,g:maxage=30d'
  claviger bigtable tables create sightings --instance aviary \\
      --column-families 'f:maxversions=2||maxage=5d' --splits m,t

A rule behind a family's name says which cells are removed: maxversions=N,
maxage=DURATION or never, joined with || (any) or && (all).";

/// `claviger bigtable tables ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a table
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List the tables of an instance
    List {
        #[command(flatten)]
        at: InInstance,
        /// List at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a table
    Describe {
        #[command(flatten)]
        one: One,
        /// How much of it
        #[arg(long, value_enum, default_value_t = View::Schema)]
        view: View,
    },
    /// Change a table's column families or protections
    #[command(after_help = tables_update::EXAMPLES)]
    Update(Box<tables_update::Update>),
    /// Show which key version protects a table in each cluster, and whether it can be used
    Encryption(One),
    /// Delete rows by prefix, or all rows
    DropRows(DropRows),
    /// Delete a table; the key of its data is destroyed
    Delete(One),
}

/// One table.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The table: an id, or its full name
    #[arg(value_name = "TABLE")]
    pub(super) table: String,
    #[command(flatten)]
    pub(super) at: InInstance,
}

impl One {
    /// The table's name.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(super) fn name(&self, session: &Session) -> Result<TableName, Failure> {
        self.at.table(&session.project, &self.table)
    }
}

/// How much of a table is shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum View {
    /// The name alone
    Name,
    /// The column families
    Schema,
    /// The state in each cluster
    Replication,
    /// The key in each cluster
    Encryption,
    /// All
    Full,
}

impl From<View> for table::View {
    fn from(view: View) -> Self {
        match view {
            View::Name => Self::NameOnly,
            View::Schema => Self::SchemaView,
            View::Replication => Self::ReplicationView,
            View::Encryption => Self::EncryptionView,
            View::Full => Self::Full,
        }
    }
}

/// `claviger bigtable tables create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    one: One,
    /// Column families, as NAME[:RULE],...
    #[arg(long, value_name = "NAME:RULE", value_parser = gc::family, value_delimiter = ',')]
    column_families: Vec<gc::Family>,
    /// Row keys at which the table is split at first, parted by commas
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    splits: Vec<String>,
    /// Refuse to delete the table, its families or its instance
    #[arg(long)]
    deletion_protection: bool,
    /// Keep a stream of changes for this long
    #[arg(long, value_name = "DURATION", value_parser = flags::duration)]
    change_stream_retention_period: Option<prost_types::Duration>,
    #[command(flatten)]
    escapes: Escapes,
}

/// `claviger bigtable tables drop-rows`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["prefix", "all"]))]
pub(crate) struct DropRows {
    #[command(flatten)]
    one: One,
    /// Rows whose keys start with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// All rows
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    escapes: Escapes,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => create(session, &options).await,
        Command::List { at, limit } => list(session, &at, limit).await,
        Command::Describe { one, view } => {
            let table = get(session, &one.name(session)?, view.into()).await?;
            session.out.one(&table)
        }
        Command::Update(options) => tables_update::run(session, &options).await,
        Command::Encryption(one) => encryption(session, &one.name(session)?).await,
        Command::DropRows(options) => drop_rows(session, &options).await,
        Command::Delete(one) => {
            let name = one.name(session)?;
            confirm(session.quiet, &format!("Delete table [{name}] with all its rows?"))?;
            let _progress = Progress::spinner(session.quiet, format!("Deleting table [{}]", name.table()));
            session.tables().delete_table(DeleteTableRequest { name: name.to_string() }).await?;
            say(&format!("Deleted table [{name}]."));
            Ok(())
        }
    }
}

/// A table as a view shows it.
///
/// # Errors
/// What the server refuses.
pub(super) async fn get(session: &Session, name: &TableName, view: table::View) -> Result<Table, Failure> {
    let request = GetTableRequest { name: name.to_string(), view: view.into() };
    Ok(session.tables().get_table(request).await?.into_inner())
}

async fn create(session: &Session, options: &Create) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let mut splits = Vec::new();
    for split in &options.splits {
        splits.push(Split { key: options.escapes.bytes(split)? });
    }
    let change_stream_config = options
        .change_stream_retention_period
        .map(|period| ChangeStreamConfig { retention_period: Some(period) });
    let request = CreateTableRequest {
        parent: name.instance_name().to_string(),
        table_id: name.table().to_owned(),
        table: Some(Table {
            column_families: options.column_families.iter().cloned().collect(),
            deletion_protection: options.deletion_protection,
            change_stream_config,
            ..Default::default()
        }),
        initial_splits: splits,
    };
    let progress = Progress::spinner(session.quiet, format!("Creating table [{}]", name.table()));
    let table = session.tables().create_table(request).await?.into_inner();
    drop(progress);
    session.out.done(&table, &format!("Created table [{name}]."))
}

async fn list(session: &Session, at: &InInstance, limit: Option<usize>) -> Result<(), Failure> {
    let parent = at.parent(&session.project)?.to_string();
    let limit = limit.unwrap_or(usize::MAX);
    let mut found = Vec::new();
    let mut page_token = String::new();
    while found.len() < limit {
        let request = ListTablesRequest {
            parent: parent.clone(),
            view: table::View::NameOnly.into(),
            page_size: PAGE,
            page_token,
        };
        let page = session.tables().list_tables(request).await?.into_inner();
        found.extend(page.tables);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    found.truncate(limit);
    session.out.list(&found, &COLUMNS)
}

async fn encryption(session: &Session, name: &TableName) -> Result<(), Failure> {
    let table = get(session, name, table::View::EncryptionView).await?;
    if session.out.format == Format::Table {
        session.out.values(encryption_rows(&table), &ENCRYPTION)
    } else {
        session.out.one(&table)
    }
}

/// One row for each cluster and key version.
fn encryption_rows(table: &Table) -> Vec<Value> {
    let mut clusters: Vec<_> = table.cluster_states.iter().collect();
    clusters.sort_by_key(|(cluster, _)| cluster.as_str());
    let rows = clusters.into_iter().flat_map(|(cluster, state)| {
        state.encryption_info.iter().map(move |info| {
            let status = info.encryption_status.clone().unwrap_or_default();
            json!({
                "cluster": cluster,
                "type": info.encryption_type().as_str_name(),
                "keyVersion": info.kms_key_version,
                "status": code_name_of(status.code),
                "message": status.message,
            })
        })
    });
    rows.collect()
}

async fn drop_rows(session: &Session, options: &DropRows) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let (target, what) = match &options.prefix {
        Some(prefix) => {
            let bytes = options.escapes.bytes(prefix)?;
            if bytes.is_empty() {
                return Err(Failure::usage("an empty --prefix is every row: say --all"));
            }
            (Target::RowKeyPrefix(bytes), "the rows with this prefix")
        }
        None => (Target::DeleteAllDataFromTable(true), "all rows"),
    };
    confirm(session.quiet, &format!("Delete {what} of [{name}]?"))?;
    let progress = Progress::spinner(session.quiet, format!("Deleting {what} of [{}]", name.table()));
    let request = DropRowRangeRequest { name: name.to_string(), target: Some(target) };
    session.tables().drop_row_range(request).await?;
    drop(progress);
    say(&format!("Deleted {what} of [{name}]."));
    Ok(())
}

#[cfg(test)]
mod tests {
    use claviger_proto::google::bigtable::admin::v2::EncryptionInfo;
    use claviger_proto::google::bigtable::admin::v2::encryption_info::EncryptionType;
    use claviger_proto::google::bigtable::admin::v2::table::ClusterState;
    use claviger_proto::google::rpc::Status;

    use super::*;

    #[test]
    fn encryption_has_a_row_for_each_cluster_with_its_key_and_status() {
        let info = |kind: EncryptionType, version: &str, code: i32| EncryptionInfo {
            encryption_type: kind.into(),
            kms_key_version: version.into(),
            encryption_status: Some(Status { code, message: String::new(), details: Vec::new() }),
        };
        let state = |info| ClusterState { encryption_info: vec![info], ..Default::default() };
        let table = Table {
            cluster_states: [
                ("c2".to_owned(), state(info(EncryptionType::GoogleDefaultEncryption, "", 0))),
                ("c1".to_owned(), state(info(EncryptionType::CustomerManagedEncryption, "v/7", 9))),
            ]
            .into(),
            ..Default::default()
        };
        let rows = encryption_rows(&table);
        let cells = |index: usize| {
            ["cluster", "type", "keyVersion", "status"]
                .map(|key| rows[index][key].as_str().unwrap().to_owned())
        };
        assert_eq!(cells(0), ["c1", "CUSTOMER_MANAGED_ENCRYPTION", "v/7", "FAILED_PRECONDITION"]);
        assert_eq!(cells(1), ["c2", "GOOGLE_DEFAULT_ENCRYPTION", "", "OK"]);
    }
}
