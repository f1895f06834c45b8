//! `claviger bigtable tables update`: column families in one request, protections in another.
//!
//! Invariant: families are changed first; when that is refused nothing else is.

use clap::Args;
use claviger_proto::google::bigtable::admin::v2::modify_column_families_request::Modification;
use claviger_proto::google::bigtable::admin::v2::modify_column_families_request::modification::Mod;
use claviger_proto::google::bigtable::admin::v2::{
    ChangeStreamConfig, ModifyColumnFamiliesRequest, Table, UpdateTableRequest, table,
};
use prost_types::FieldMask;

use super::{gc, tables};
use crate::client::Session;
use crate::failure::Failure;
use crate::flags;
use crate::output::{Format, confirm, say};

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger bigtable tables update sightings --instance aviary \\
      --add-families h:maxage=30d --drop-families g
  claviger bigtable tables update sightings --instance aviary --update-families f:maxversions=2
  claviger bigtable tables update sightings --instance aviary --no-deletion-protection";

/// `claviger bigtable tables update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    one: tables::One,
    /// Column families to add, as NAME[:RULE],...
    #[arg(long, value_name = "NAME:RULE", value_parser = gc::family, value_delimiter = ',')]
    add_families: Vec<gc::Family>,
    /// Column families that get another rule, as NAME:RULE,...
    #[arg(long, value_name = "NAME:RULE", value_parser = gc::family, value_delimiter = ',')]
    update_families: Vec<gc::Family>,
    /// Column families to delete with all their cells, parted by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    drop_families: Vec<String>,
    /// Refuse to delete the table, its families or its instance
    #[arg(long)]
    deletion_protection: bool,
    /// Allow it again
    #[arg(long, conflicts_with = "deletion_protection")]
    no_deletion_protection: bool,
    /// Keep a stream of changes for this long
    #[arg(long, value_name = "DURATION", value_parser = flags::duration)]
    change_stream_retention_period: Option<prost_types::Duration>,
    /// Keep no stream of changes
    #[arg(long, conflicts_with = "change_stream_retention_period")]
    clear_change_stream_retention_period: bool,
    /// Do not wait until it is done
    #[arg(long)]
    r#async: bool,
}

/// Runs the command.
///
/// # Errors
/// What the server refuses.
pub(super) async fn run(session: &Session, options: &Update) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let modifications = modifications(options);
    let (table, paths) = protections(options, name.as_str());
    if modifications.is_empty() && paths.is_empty() {
        return Err(Failure::usage(
            "nothing to update: name column families, deletion protection or change streams",
        ));
    }
    let nothing_more = paths.is_empty();
    if !modifications.is_empty() {
        if !options.drop_families.is_empty() {
            let families = options.drop_families.join(", ");
            confirm(
                session.quiet,
                &format!("Delete column families {families} of [{name}] with all their cells?"),
            )?;
        }
        let request =
            ModifyColumnFamiliesRequest { name: name.to_string(), modifications, ignore_warnings: true };
        let table = session.tables().modify_column_families(request).await?.into_inner();
        say(&format!("Updated the column families of [{name}]: {}.", families(&table)));
        if nothing_more {
            return if session.out.format == Format::Table { Ok(()) } else { session.out.one(&table) };
        }
    }
    let request = UpdateTableRequest {
        table: Some(table),
        update_mask: Some(FieldMask { paths }),
        ..Default::default()
    };
    let operation = session.tables().update_table(request).await?.into_inner();
    let doing = format!("Updating table [{}]", name.table());
    session.finish::<Table>(operation, options.r#async, &doing, &format!("Updated table [{name}].")).await?;
    if session.out.format == Format::Table && !options.r#async {
        let table = tables::get(session, &name, table::View::SchemaView).await?;
        let on = if table.deletion_protection { "on" } else { "off" };
        say(&format!("Deletion protection is {on}."));
    }
    Ok(())
}

/// The changes of column families: first those that go, so that a name can come back in one request.
fn modifications(options: &Update) -> Vec<Modification> {
    let change =
        |id: &str, change| Modification { id: id.to_owned(), r#mod: Some(change), ..Default::default() };
    let dropped = options.drop_families.iter().map(|id| change(id, Mod::Drop(true)));
    let updated = options.update_families.iter().map(|(id, family)| change(id, Mod::Update(family.clone())));
    let added = options.add_families.iter().map(|(id, family)| change(id, Mod::Create(family.clone())));
    dropped.chain(updated).chain(added).collect()
}

/// The other changes, and their paths.
fn protections(options: &Update, name: &str) -> (Table, Vec<String>) {
    let mut table = Table { name: name.to_owned(), ..Default::default() };
    let mut paths = Vec::new();
    if options.deletion_protection || options.no_deletion_protection {
        table.deletion_protection = options.deletion_protection;
        paths.push("deletion_protection".to_owned());
    }
    if let Some(period) = options.change_stream_retention_period {
        table.change_stream_config = Some(ChangeStreamConfig { retention_period: Some(period) });
        paths.push("change_stream_config.retention_period".to_owned());
    }
    if options.clear_change_stream_retention_period {
        paths.push("change_stream_config".to_owned());
    }
    (table, paths)
}

/// The families of a table with their rules.
fn families(table: &Table) -> String {
    let mut families: Vec<_> = table
        .column_families
        .iter()
        .map(|(name, family)| format!("{name}:{}", gc::text(family.gc_rule.as_ref())))
        .collect();
    families.sort();
    if families.is_empty() { "none".to_owned() } else { families.join(", ") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn update(line: &str) -> Update {
        Line::try_parse_from(line.split(' ')).unwrap().update
    }

    #[test]
    fn families_are_dropped_before_others_are_made() {
        let options =
            update("update t --add-families g,h:maxversions=1 --drop-families g --update-families f:never");
        let told: Vec<_> = modifications(&options)
            .into_iter()
            .map(|modification| match modification.r#mod {
                Some(Mod::Drop(_)) => format!("-{}", modification.id),
                Some(Mod::Create(family)) => {
                    format!("+{}:{}", modification.id, gc::text(family.gc_rule.as_ref()))
                }
                Some(Mod::Update(family)) => {
                    format!("={}:{}", modification.id, gc::text(family.gc_rule.as_ref()))
                }
                None => String::new(),
            })
            .collect();
        assert_eq!(told, ["-g", "=f:never", "+g:never", "+h:maxversions=1"]);
    }

    #[test]
    fn protections_are_masked_by_what_was_said() {
        let (table, paths) = protections(&update("update t --no-deletion-protection"), "n");
        assert_eq!((table.deletion_protection, paths), (false, vec!["deletion_protection".to_owned()]));
        assert!(protections(&update("update t"), "n").1.is_empty());
        let (table, paths) = protections(&update("update t --change-stream-retention-period 1d"), "n");
        assert_eq!(table.change_stream_config.unwrap().retention_period.unwrap().seconds, 86_400);
        assert_eq!(paths, ["change_stream_config.retention_period"]);
    }
}
