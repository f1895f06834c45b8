//! `claviger bigtable rows set` and `rows delete`.
//!
//! Invariant: a command is one MutateRow: all of it is done or nothing.

use bytes::Bytes;
use clap::Args;
use claviger_proto::google::bigtable::v2::mutation::{
    DeleteFromColumn, DeleteFromFamily, DeleteFromRow, Mutation as Kind, SetCell,
};
use claviger_proto::google::bigtable::v2::{MutateRowRequest, Mutation};

use crate::bigtable::columns::{self, CellText, ColumnName, Escapes, shown};
use crate::bigtable::tables;
use crate::client::Session;
use crate::failure::Failure;
use crate::output::say;

/// The time that the server gives.
const SERVER_TIME: i64 = -1;

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger bigtable rows set sightings wren f:song=long f:eggs=6 --instance aviary
  claviger bigtable rows set sightings wren f:song=long@1700000000000000 --instance aviary";

/// `claviger bigtable rows set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    one: tables::One,
    /// The row's key
    #[arg(value_name = "KEY")]
    key: String,
    /// Cells, as FAMILY:QUALIFIER=VALUE, or with @MICROS behind for a time of their own
    #[arg(value_name = "FAMILY:QUALIFIER=VALUE", required = true, value_parser = columns::cell)]
    cells: Vec<CellText>,
    #[command(flatten)]
    escapes: Escapes,
}

/// `claviger bigtable rows delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    one: tables::One,
    /// The row's key
    #[arg(value_name = "KEY")]
    key: String,
    /// Only these column families, parted by commas
    #[arg(long, value_name = "FAMILY", value_delimiter = ',')]
    family: Vec<String>,
    /// Only these columns, as FAMILY:QUALIFIER,...
    #[arg(long, value_name = "FAMILY:QUALIFIER", value_parser = columns::column, value_delimiter = ',')]
    column: Vec<ColumnName>,
    #[command(flatten)]
    escapes: Escapes,
}

/// Writes cells.
///
/// # Errors
/// What the server refuses.
pub(super) async fn set(session: &Session, options: &Set) -> Result<(), Failure> {
    let mut mutations = Vec::new();
    for cell in &options.cells {
        mutations.push(Kind::SetCell(SetCell {
            family_name: cell.column.family.clone(),
            column_qualifier: options.escapes.bytes(&cell.column.qualifier)?,
            timestamp_micros: cell.timestamp_micros.unwrap_or(SERVER_TIME),
            value: options.escapes.bytes(&cell.value)?,
        }));
    }
    let key = options.escapes.bytes(&options.key)?;
    let count = mutations.len();
    mutate(session, &options.one, key.clone(), mutations).await?;
    say(&format!("Wrote {count} cell(s) of row [{}].", shown(&key)));
    Ok(())
}

/// Deletes a row or a part of it.
///
/// # Errors
/// What the server refuses.
pub(super) async fn delete(session: &Session, options: &Delete) -> Result<(), Failure> {
    let mutations = deletions(options)?;
    let key = options.escapes.bytes(&options.key)?;
    let what = if options.family.is_empty() && options.column.is_empty() { "row" } else { "a part of row" };
    mutate(session, &options.one, key.clone(), mutations).await?;
    say(&format!("Deleted {what} [{}].", shown(&key)));
    Ok(())
}

fn deletions(options: &Delete) -> Result<Vec<Kind>, Failure> {
    let mut mutations: Vec<_> = options
        .family
        .iter()
        .map(|family| Kind::DeleteFromFamily(DeleteFromFamily { family_name: family.clone() }))
        .collect();
    for column in &options.column {
        mutations.push(Kind::DeleteFromColumn(DeleteFromColumn {
            family_name: column.family.clone(),
            column_qualifier: options.escapes.bytes(&column.qualifier)?,
            time_range: None,
        }));
    }
    if mutations.is_empty() {
        mutations.push(Kind::DeleteFromRow(DeleteFromRow {}));
    }
    Ok(mutations)
}

async fn mutate(
    session: &Session,
    table: &tables::One,
    row_key: Bytes,
    mutations: Vec<Kind>,
) -> Result<(), Failure> {
    let mutations =
        mutations.into_iter().map(|kind| Mutation { mutation: Some(kind), ..Default::default() }).collect();
    let table_name = table.name(session)?.to_string();
    let request = MutateRowRequest { table_name, row_key, mutations, ..Default::default() };
    session.rows().mutate_row(request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        delete: Delete,
    }

    fn told(line: &str) -> Vec<&'static str> {
        let options = Line::try_parse_from(line.split(' ')).unwrap().delete;
        let name = |kind: &Kind| match kind {
            Kind::DeleteFromRow(_) => "row",
            Kind::DeleteFromFamily(_) => "family",
            Kind::DeleteFromColumn(_) => "column",
            _ => "other",
        };
        deletions(&options).unwrap().iter().map(name).collect()
    }

    #[test]
    fn a_whole_row_goes_only_when_no_part_is_named() {
        assert_eq!(told("delete t k"), ["row"]);
        assert_eq!(told("delete t k --family f,g --column f:q"), ["family", "family", "column"]);
    }
}
