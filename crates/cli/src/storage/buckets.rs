//! `claviger storage buckets`.
//!
//! Invariant: a change names only what was asked for; all else of a bucket stays.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::api::{Storage, bucket_path, text};
use super::url;
use crate::failure::Failure;
use crate::flags;
use crate::kms::LabelChanges;
use crate::names::KeyPlace;
use crate::output::{Cell, Column, Format, confirm, say};

const COLUMNS: [Column; 6] = [
    Column::new("NAME", Cell::Path("name")),
    Column::new("LOCATION", Cell::Path("location")),
    Column::new("STORAGE_CLASS", Cell::Path("storageClass")),
    Column::new("DEFAULT_KMS_KEY", Cell::Path("encryption.defaultKmsKeyName")),
    Column::new("LABELS", Cell::Path("labels")),
    Column::new("CREATED", Cell::Path("timeCreated")),
];

const CREATE_EXAMPLES: &str = "\
Examples:
  claviger storage buckets create gs://flights --location us-east1
  claviger storage buckets create gs://flights --location us-east1 \\
      --default-kms-key projects/p/locations/us-east1/keyRings/ring/cryptoKeys/k

The key must be in the bucket's location, and Cloud Storage's service agent must be
allowed to use it:
  claviger kms keys authorize KEY --service storage";

const UPDATE_EXAMPLES: &str = "\
Examples:
  claviger storage buckets update gs://flights --clear-default-kms-key
  claviger storage buckets update gs://flights --versioning --update-labels team=air

The default key is that of new objects. Objects that are there keep theirs:
  claviger storage objects update 'gs://flights/**' --kms-key KEY";

/// `claviger storage buckets ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create buckets
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List the buckets of a project
    List {
        /// Only buckets whose names begin so
        #[arg(long, value_name = "TEXT")]
        prefix: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a bucket
    Describe {
        /// The bucket: gs://BUCKET
        #[arg(value_name = "BUCKET", value_parser = url::bucket)]
        bucket: String,
    },
    /// Change a bucket: its default key, its labels, its versions
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(Update),
    /// Delete empty buckets
    Delete {
        /// The buckets: gs://BUCKET
        #[arg(value_name = "BUCKET", required = true, value_parser = url::bucket)]
        buckets: Vec<String>,
    },
}

/// Whether old versions of objects stay.
#[derive(Debug, Default, Args)]
pub(crate) struct Versioning {
    /// Keep the old versions of objects that are overwritten or deleted
    #[arg(long)]
    versioning: bool,
    /// Keep no old versions
    #[arg(long, conflicts_with = "versioning")]
    no_versioning: bool,
}

impl Versioning {
    fn write(&self, fields: &mut Map<String, Value>) {
        if self.versioning || self.no_versioning {
            fields.insert("versioning".into(), json!({"enabled": self.versioning}));
        }
    }
}

/// `claviger storage buckets create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The buckets: gs://BUCKET
    #[arg(value_name = "BUCKET", required = true, value_parser = url::bucket)]
    buckets: Vec<String>,
    /// Where the data are: a region such as us-east1, or US, EU, ASIA [default: US]
    #[arg(long, short, value_name = "LOCATION")]
    location: Option<String>,
    /// The key of objects that name none: its full name, or an id with the three options below
    #[arg(long = "default-kms-key", visible_alias = "default-encryption-key", value_name = "KEY")]
    kms_key: Option<String>,
    #[command(flatten)]
    place: KeyPlace,
    /// The storage class of objects that name none [default: STANDARD]
    #[arg(long, value_name = "CLASS")]
    default_storage_class: Option<String>,
    /// Labels, as KEY=VALUE,...
    #[arg(long, value_name = "KEY=VALUE", value_parser = flags::pair, value_delimiter = ',')]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    versioning: Versioning,
}

/// `claviger storage buckets update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The buckets: gs://BUCKET
    #[arg(value_name = "BUCKET", required = true, value_parser = url::bucket)]
    buckets: Vec<String>,
    /// The key of new objects that name none: its full name, or an id with the three options below
    #[arg(long = "default-kms-key", visible_alias = "default-encryption-key", value_name = "KEY")]
    kms_key: Option<String>,
    #[command(flatten)]
    place: KeyPlace,
    /// No default key: new objects are protected by a key that Claviger manages
    #[arg(
        long = "clear-default-kms-key",
        visible_alias = "clear-default-encryption-key",
        conflicts_with = "kms_key"
    )]
    clear_kms_key: bool,
    /// The storage class of new objects that name none
    #[arg(long, value_name = "CLASS")]
    default_storage_class: Option<String>,
    #[command(flatten)]
    labels: LabelChanges,
    #[command(flatten)]
    versioning: Versioning,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(super) async fn run(storage: &Storage, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => create(storage, &options).await,
        Command::List { prefix, limit } => {
            storage.out.values(list(storage, prefix.as_deref(), limit).await?, &COLUMNS)
        }
        Command::Describe { bucket } => storage.out.one_value(&storage.bucket(&bucket).await?),
        Command::Update(options) => update(storage, &options).await,
        Command::Delete { buckets } => {
            let names: Vec<_> = buckets.iter().map(|bucket| format!("gs://{bucket}")).collect();
            confirm(storage.quiet, &format!("Delete {}?", names.join(", ")))?;
            for bucket in buckets {
                delete(storage, &bucket).await?;
            }
            Ok(())
        }
    }
}

/// The buckets of the project.
///
/// # Errors
/// What the server refuses.
pub(super) async fn list(
    storage: &Storage,
    prefix: Option<&str>,
    limit: Option<usize>,
) -> Result<Vec<Value>, Failure> {
    let mut query = vec![("project", storage.project.clone())];
    query.extend(prefix.map(|prefix| ("prefix", prefix.to_owned())));
    storage.pages("/storage/v1/b".to_owned(), query, limit).all().await
}

/// Deletes an empty bucket.
///
/// # Errors
/// What the server refuses.
pub(super) async fn delete(storage: &Storage, bucket: &str) -> Result<(), Failure> {
    storage.call(Method::DELETE, &bucket_path(bucket), &[], None).await?;
    say(&format!("Deleted bucket [gs://{bucket}]."));
    Ok(())
}

async fn create(storage: &Storage, options: &Create) -> Result<(), Failure> {
    let mut fields = Map::new();
    if let Some(location) = &options.location {
        fields.insert("location".into(), location.as_str().into());
    }
    if let Some(key) = &options.kms_key {
        let key = options.place.name(&storage.project, key)?;
        fields.insert("encryption".into(), json!({"defaultKmsKeyName": key.as_str()}));
    }
    if let Some(class) = &options.default_storage_class {
        fields.insert("storageClass".into(), flags::enum_name(class).into());
    }
    if !options.labels.is_empty() {
        let labels: Map<_, Value> =
            options.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        fields.insert("labels".into(), labels.into());
    }
    options.versioning.write(&mut fields);
    for bucket in &options.buckets {
        fields.insert("name".into(), bucket.as_str().into());
        let query = [("project", storage.project.clone())];
        let body = Value::Object(fields.clone());
        let made = storage.call(Method::POST, "/storage/v1/b", &query, Some(&body)).await?;
        let place = text(&made, "location");
        storage.out.done_value(&made, &format!("Created bucket [gs://{bucket}] in {place}."))?;
    }
    Ok(())
}

/// What an update changes.
fn changes(options: &Update, project: &str) -> Result<Value, Failure> {
    let mut fields = Map::new();
    if let Some(key) = &options.kms_key {
        let key = options.place.name(project, key)?;
        fields.insert("encryption".into(), json!({"defaultKmsKeyName": key.as_str()}));
    } else if options.clear_kms_key {
        fields.insert("encryption".into(), Value::Null);
    }
    if let Some(class) = &options.default_storage_class {
        fields.insert("storageClass".into(), flags::enum_name(class).into());
    }
    if options.labels.any() {
        fields.insert("labels".into(), options.labels.patch());
    }
    options.versioning.write(&mut fields);
    if fields.is_empty() {
        return Err(Failure::usage(
            "nothing to update: name --default-kms-key, --clear-default-kms-key, --update-labels, --versioning or another option",
        ));
    }
    Ok(fields.into())
}

async fn update(storage: &Storage, options: &Update) -> Result<(), Failure> {
    let changes = changes(options, &storage.project)?;
    for bucket in &options.buckets {
        let changed = storage.call(Method::PATCH, &bucket_path(bucket), &[], Some(&changes)).await?;
        storage.out.done_value(&changed, &format!("Updated bucket [gs://{bucket}]."))?;
        if storage.out.format == Format::Table && (options.kms_key.is_some() || options.clear_kms_key) {
            say("Objects that are in it keep their keys; 'claviger storage objects update' changes them.");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn changed(line: &str) -> Result<Value, Failure> {
        let line = Line::try_parse_from(line.split_whitespace()).unwrap();
        changes(&line.update, "p")
    }

    #[test]
    fn an_update_names_only_what_changes() {
        assert_eq!(changed("update gs://b --clear-default-kms-key").unwrap(), json!({"encryption": null}));
        assert_eq!(
            changed("update gs://b --no-versioning --update-labels a=b --remove-labels c").unwrap(),
            json!({"versioning": {"enabled": false}, "labels": {"a": "b", "c": null}})
        );
        let key = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";
        assert_eq!(
            changed("update gs://b --default-kms-key k --kms-keyring r --kms-location us-east1").unwrap(),
            json!({"encryption": {"defaultKmsKeyName": key}})
        );
        assert!(changed("update gs://b").unwrap_err().text().contains("nothing to update"));
    }
}
