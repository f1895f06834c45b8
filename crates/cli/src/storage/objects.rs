//! `claviger storage objects`.
//!
//! Invariant: a change of metadata leaves the bytes; a change of key writes them again, in the server.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::api::{Storage, number, object_path, text};
use super::copy::rewrite;
use super::find::{Finder, Versions};
use super::url::{self, CloudUrl};
use super::{list, remove};
use crate::failure::Failure;
use crate::flags;
use crate::names::KeyOptions;
use crate::output::{Cell, Column, say};

/// The most objects that a composition takes; Cloud Storage's limit.
const SOURCES: usize = 32;

const COLUMNS: [Column; 6] = [
    Column::new("NAME", Cell::Path("name")),
    Column::new("SIZE", Cell::Path("size")),
    Column::new("TYPE", Cell::Path("contentType")),
    Column::new("GENERATION", Cell::Path("generation")),
    Column::new("KMS_KEY", Cell::Path("kmsKeyName")),
    Column::new("UPDATED", Cell::Path("updated")),
];

const LIST_EXAMPLES: &str = "\
Examples:
  claviger storage objects list gs://flights
  claviger storage objects list 'gs://flights/2026-*/**.csv' --format json

Of a folder all is listed that is below it. In patterns, * stands for any characters
but a slash, ** for any characters, ? for one.";

const UPDATE_EXAMPLES: &str = "\
Examples:
  claviger storage objects update gs://flights/may.csv --content-type text/csv
  claviger storage objects update 'gs://flights/**' --kms-key KEY

With --kms-key the server writes the bytes again, under the other key.";

/// `claviger storage objects ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the objects of a bucket, of a folder, or those that fit a pattern
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// What to list: gs://BUCKET, gs://BUCKET/FOLDER or a pattern
        #[arg(value_name = "URL", required = true, value_parser = url::cloud)]
        urls: Vec<CloudUrl>,
        /// Old versions too
        #[arg(long, short)]
        all_versions: bool,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show an object's metadata
    Describe {
        /// The object: gs://BUCKET/OBJECT, with #GENERATION for an old version
        #[arg(value_name = "OBJECT", value_parser = url::object)]
        object: CloudUrl,
    },
    /// Change objects' metadata or their key
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(Update),
    /// Join objects of a bucket to one
    Compose {
        /// The objects to join, in this order: gs://BUCKET/OBJECT
        #[arg(value_name = "SOURCE", required = true, num_args = 1.., value_parser = url::object)]
        sources: Vec<CloudUrl>,
        /// The object that they make
        #[arg(value_name = "DESTINATION", required = true, value_parser = url::object)]
        destination: CloudUrl,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Delete objects
    Delete {
        /// The objects: gs://BUCKET/OBJECT, or patterns
        #[arg(value_name = "OBJECT", required = true, value_parser = url::object)]
        objects: Vec<CloudUrl>,
    },
}

/// What is told of an object beside its bytes.
#[derive(Debug, Default, Args)]
pub(crate) struct Metadata {
    /// The media type
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// How the bytes are encoded, such as gzip
    #[arg(long, value_name = "ENCODING")]
    content_encoding: Option<String>,
    /// How a browser shows it
    #[arg(long, value_name = "DISPOSITION")]
    content_disposition: Option<String>,
    /// The language of its text
    #[arg(long, value_name = "LANGUAGE")]
    content_language: Option<String>,
    /// How long it may be cached
    #[arg(long, value_name = "DIRECTIVES")]
    cache_control: Option<String>,
    /// The storage class
    #[arg(long, value_name = "CLASS")]
    storage_class: Option<String>,
}

impl Metadata {
    /// The fields of the API.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let class = self.storage_class.as_deref().map(flags::enum_name);
        [
            ("contentType", self.content_type.clone()),
            ("contentEncoding", self.content_encoding.clone()),
            ("contentDisposition", self.content_disposition.clone()),
            ("contentLanguage", self.content_language.clone()),
            ("cacheControl", self.cache_control.clone()),
            ("storageClass", class),
        ]
        .into_iter()
        .filter_map(|(field, value)| Some((field.to_owned(), value?.into())))
        .collect()
    }
}

/// `claviger storage objects update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The objects: gs://BUCKET/OBJECT, or patterns
    #[arg(value_name = "OBJECT", required = true, value_parser = url::object)]
    objects: Vec<CloudUrl>,
    #[command(flatten)]
    metadata: Metadata,
    /// Set custom metadata, as KEY=VALUE,...
    #[arg(long, value_name = "KEY=VALUE", value_parser = flags::pair, value_delimiter = ',')]
    update_custom_metadata: Vec<(String, String)>,
    /// Remove custom metadata by their keys, parted by commas
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    remove_custom_metadata: Vec<String>,
    /// Remove all custom metadata
    #[arg(long, conflicts_with_all = ["update_custom_metadata", "remove_custom_metadata"])]
    clear_custom_metadata: bool,
    #[command(flatten)]
    key: KeyOptions,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(super) async fn run(storage: &Storage, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { urls, all_versions, limit } => {
            let versions = if all_versions { Versions::All } else { Versions::Live };
            let limit = limit.unwrap_or(usize::MAX);
            let mut found = Vec::new();
            for url in urls {
                let mut finder = Finder::new(storage, &url, true, versions).await?;
                while found.len() < limit
                    && let Some(object) = finder.next_value().await?
                {
                    found.push(object);
                }
            }
            storage.out.values(found, &COLUMNS)
        }
        Command::Describe { object } => storage.out.one_value(&storage.object(&object).await?),
        Command::Update(options) => update(storage, &options).await,
        Command::Compose { sources, destination, key } => {
            compose(storage, &sources, &destination, &key).await
        }
        Command::Delete { objects } => remove::objects(storage, &objects).await,
    }
}

/// What an update of metadata changes.
fn changes(options: &Update) -> Map<String, Value> {
    let mut fields = options.metadata.fields();
    if options.clear_custom_metadata {
        fields.insert("metadata".into(), Value::Null);
    } else if !options.update_custom_metadata.is_empty() || !options.remove_custom_metadata.is_empty() {
        let removed = options.remove_custom_metadata.iter().map(|key| (key.clone(), Value::Null));
        let set = options.update_custom_metadata.iter();
        let set = set.map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        fields.insert("metadata".into(), Value::Object(removed.chain(set).collect()));
    }
    fields
}

async fn update(storage: &Storage, options: &Update) -> Result<(), Failure> {
    let changes = changes(options);
    let key = options.key.name(&storage.project)?;
    if changes.is_empty() && key.is_none() {
        return Err(Failure::usage(
            "nothing to update: name --content-type, --update-custom-metadata, --kms-key or another option",
        ));
    }
    for url in &options.objects {
        let mut finder = Finder::new(storage, url, false, Versions::Live).await?;
        while let Some(object) = finder.next_value().await? {
            let url = CloudUrl::new(&url.bucket, text(&object, "name"));
            let mut changed = object;
            if let Some(key) = &key {
                // Only over what was seen: nothing that another writes meanwhile is lost.
                let generation = number(&changed, "generation").unwrap_or_default();
                let source = CloudUrl { generation: Some(generation), ..url.clone() };
                let conditions = [("ifGenerationMatch", generation.to_string())];
                changed = rewrite(storage, &source, &url, Some(key), &conditions, None).await?;
            }
            if !changes.is_empty() {
                let body = Value::Object(changes.clone());
                let path = object_path(&url.bucket, &url.object);
                changed = storage.call(Method::PATCH, &path, &[], Some(&body)).await?;
            }
            storage.out.done_value(&changed, &format!("Updated [{url}]."))?;
        }
    }
    Ok(())
}

async fn compose(
    storage: &Storage,
    sources: &[CloudUrl],
    destination: &CloudUrl,
    key: &KeyOptions,
) -> Result<(), Failure> {
    if sources.len() > SOURCES {
        return Err(Failure::usage(format!("at most {SOURCES} objects can be joined at a time")));
    }
    if let Some(other) = sources.iter().find(|source| source.bucket != destination.bucket) {
        return Err(Failure::usage(format!("{other} is in another bucket than {destination}")));
    }
    let sources: Vec<Value> = sources
        .iter()
        .map(|source| match source.generation {
            Some(generation) => json!({"name": source.object, "generation": generation.to_string()}),
            None => json!({"name": source.object}),
        })
        .collect();
    let key = key.name(&storage.project)?;
    let query: Vec<_> = key.iter().map(|key| ("kmsKeyName", key.to_string())).collect();
    let path = format!("{}/compose", object_path(&destination.bucket, &destination.object));
    let body = json!({"sourceObjects": sources, "destination": {}});
    let made = storage.call(Method::POST, &path, &query, Some(&body)).await?;
    let size = list::size(number(&made, "size").unwrap_or(0));
    say(&format!("Composed [{destination}] of {} objects, {size}.", sources.len()));
    match storage.out.format {
        crate::output::Format::Table => Ok(()),
        _ => storage.out.one_value(&made),
    }
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

    fn changed(line: &str) -> Value {
        changes(&Line::try_parse_from(line.split_whitespace()).unwrap().update).into()
    }

    #[test]
    fn an_update_names_only_what_changes() {
        assert_eq!(
            changed(
                "update gs://b/o --content-type text/csv --update-custom-metadata a=b --remove-custom-metadata c"
            ),
            json!({"contentType": "text/csv", "metadata": {"a": "b", "c": null}})
        );
        assert_eq!(changed("update gs://b/o --clear-custom-metadata"), json!({"metadata": null}));
        assert_eq!(changed("update gs://b/o --storage-class nearline"), json!({"storageClass": "NEARLINE"}));
        assert_eq!(changed("update gs://b/o"), json!({}));
    }
}
