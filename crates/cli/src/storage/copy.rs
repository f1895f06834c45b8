//! `claviger storage cp` and `mv`: between files, objects, and standard input and output.
//!
//! Invariant: what `mv` deletes was copied before, with its checksum, in the generation that was copied. A file is
//! written beside its place and put there when it is whole.

mod plan;

use std::path::{Path, PathBuf};

use clap::Args;
use claviger_core::names::CryptoKeyName;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use serde_json::{Map, Value, json};
use tokio::fs;
use tokio::io::AsyncWriteExt;

use self::plan::{Item, Plan, Source, Target};
use super::api::{Query, Storage, encoded, number, object_path, text};
use super::download::{Range, Reading};
use super::find::Found;
use super::objects::Metadata;
use super::upload::{self, EXISTS, NewObject};
use super::url::{self, CloudUrl, Place};
use super::{cat, list};
use crate::failure::Failure;
use crate::flags;
use crate::names::KeyOptions;
use crate::output::{Format, say};
use crate::progress::Progress;

/// What a file is called until it is whole.
const UNFINISHED: &str = ".unfinished";

pub(super) const CP_EXAMPLES: &str = "\
Examples:
  claviger storage cp may.csv june.csv gs://flights/2026/
  claviger storage cp -r gs://flights/2026 here
  claviger storage cp gs://flights/may.csv gs://archive/may.csv --kms-key KEY
  zcat may.csv.gz | claviger storage cp - gs://flights/may.csv

A destination that ends with a slash, a bucket and a folder that is there get the
sources under their own names. In patterns, * stands for any characters but a
slash, ** for any characters, ? for one.";

pub(super) const MV_EXAMPLES: &str = "\
Examples:
  claviger storage mv gs://flights/may.csv gs://flights/2026/may.csv
  claviger storage mv -r 2026 gs://flights/";

/// `claviger storage cp` and `mv`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to copy: gs://BUCKET/OBJECT, patterns, files, folders; '-' is standard input
    #[arg(value_name = "SOURCE", required = true, num_args = 1.., value_parser = url::place)]
    sources: Vec<Place>,
    /// Where it goes: gs://BUCKET/..., a file or folder; '-' is standard output
    #[arg(value_name = "DESTINATION", required = true, value_parser = url::place)]
    destination: Place,
    /// Folders, with all that is below
    #[arg(long, short, visible_short_alias = 'R')]
    recursive: bool,
    /// Leave alone what is there already
    #[arg(long, short)]
    no_clobber: bool,
    #[command(flatten)]
    metadata: Metadata,
    /// Custom metadata of the new objects, as KEY=VALUE,...
    #[arg(long, value_name = "KEY=VALUE", value_parser = flags::pair, value_delimiter = ',')]
    custom_metadata: Vec<(String, String)>,
    #[command(flatten)]
    key: KeyOptions,
    /// Copies under way at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: u32,
}

/// How copies are made.
struct Copier<'a> {
    storage: &'a Storage,
    options: &'a Options,
    key: Option<CryptoKeyName>,
    fields: Map<String, Value>,
    moves: bool,
    progress: Progress,
}

/// What came of one item.
enum Outcome {
    Copied {
        from: String,
        to: String,
        bytes: u64,
    },
    /// It was there already.
    Left(String),
    /// There was nothing to copy.
    Nothing,
}

/// Copies, and deletes what was copied if it is to move.
///
/// # Errors
/// What the server refuses; files that cannot be read or written; sources that nothing fits.
pub(super) async fn run(storage: &Storage, options: &Options, moves: bool) -> Result<(), Failure> {
    let mut fields = options.metadata.fields();
    if !options.custom_metadata.is_empty() {
        let pairs = options.custom_metadata.iter();
        let pairs: Map<_, _> = pairs.map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        fields.insert("metadata".into(), pairs.into());
    }
    if moves && (options.destination == Place::Standard || options.sources.contains(&Place::Standard)) {
        return Err(Failure::usage("standard input and output cannot be moved: use cp"));
    }
    let target = Target::find(storage, &options.destination, &options.sources, options.recursive).await?;
    let doing = if moves { "Moving" } else { "Copying" };
    let copier = Copier {
        storage,
        options,
        key: options.key.name(&storage.project)?,
        fields,
        moves,
        progress: Progress::growing(storage.quiet || options.destination == Place::Standard, doing),
    };
    let (mut copied, mut bytes, mut values) = (0_u64, 0_u64, Vec::new());
    for source in &options.sources {
        let plan = Plan::new(storage, source, &target, options.recursive).await?;
        let folders = copier.all(plan, |outcome| match outcome {
            Outcome::Copied { from, to, bytes: size } => {
                copied += 1;
                bytes += size;
                if storage.out.format != Format::Table {
                    values.push(json!({"source": from, "destination": to, "bytes": size.to_string()}));
                }
            }
            Outcome::Left(name) => {
                copier.progress.aside(|| say(&format!("Left {name} alone: it is there already.")));
            }
            Outcome::Nothing => {}
        });
        let folders = folders.await?;
        if moves {
            // Those that are empty now; others stay.
            for folder in folders.iter().rev() {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
    drop(copier);
    if options.destination == Place::Standard {
        return Ok(());
    }
    let did = if moves { "Moved" } else { "Copied" };
    let noun = if copied == 1 { "file" } else { "files" };
    say(&format!("{did} {copied} {noun}, {}.", list::size(bytes)));
    if storage.out.format == Format::Table { Ok(()) } else { storage.out.values(values, &[]) }
}

impl Copier<'_> {
    /// Copies what a plan has; gives the folders that were walked.
    async fn all(&self, plan: Plan<'_>, mut told: impl FnMut(Outcome)) -> Result<Vec<PathBuf>, Failure> {
        // Standard output takes one after the other.
        let parallel = if self.options.destination == Place::Standard { 1 } else { self.options.parallel };
        let folders = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let seen = folders.clone();
        let items = stream::try_unfold(plan, move |mut plan| {
            let seen = seen.clone();
            async move {
                let item = plan.next().await?;
                if item.is_none() {
                    *seen.borrow_mut() = plan.folders();
                }
                Ok::<_, Failure>(item.map(|item| (item, plan)))
            }
        });
        let copies = items.map_ok(|item| self.one(item));
        let copies = copies.try_buffer_unordered(usize::try_from(parallel).unwrap_or(1));
        let mut copies = std::pin::pin!(copies);
        while let Some(outcome) = copies.next().await {
            told(outcome?);
        }
        Ok(folders.take())
    }

    async fn one(&self, item: Item) -> Result<Outcome, Failure> {
        self.progress.expect(item.source.size());
        let copied = match (&item.source, &item.to) {
            (Source::Object(found), None) => {
                // A folder's own, empty object.
                self.done_with(&item.source).await?;
                self.progress.advance(found.size);
                return Ok(Outcome::Nothing);
            }
            (source, Some(Place::Cloud(to))) => self.copy_to_bucket(source, to).await?,
            (Source::Object(found), Some(Place::Local(path))) => self.copy_to_file(found, path).await?,
            (Source::Object(found), Some(Place::Standard)) => {
                cat::one(self.storage, found, Range::From(0)).await?;
                Some(found.size)
            }
            (Source::File { .. } | Source::Standard, _) => {
                return Err(Failure::usage(format!(
                    "'{}' goes to no bucket: copies from file to file are not for this command",
                    item.source
                )));
            }
        };
        let to = item.to.map(|to| to.to_string()).unwrap_or_default();
        let Some(bytes) = copied else { return Ok(Outcome::Left(to)) };
        self.done_with(&item.source).await?;
        Ok(Outcome::Copied { from: item.source.to_string(), to, bytes })
    }

    /// Deletes what was copied, if it is to move.
    async fn done_with(&self, source: &Source) -> Result<(), Failure> {
        match source {
            _ if !self.moves => Ok(()),
            Source::Object(found) => self.storage.delete_live(&found.url).await,
            Source::File { path, .. } => {
                let removed = fs::remove_file(path).await;
                removed.map_err(|error| Failure::local(format!("cannot delete {}: {error}", path.display())))
            }
            Source::Standard => Ok(()),
        }
    }

    /// Makes an object; none if there is one that is to stay.
    async fn copy_to_bucket(&self, source: &Source, to: &CloudUrl) -> Result<Option<u64>, Failure> {
        let made = match source {
            Source::Object(found) => {
                let conditions =
                    if self.options.no_clobber { &[("ifGenerationMatch", "0".to_owned())][..] } else { &[] };
                let mut body = None;
                if !self.fields.is_empty() {
                    let source = self.storage.object(&found.url).await?;
                    body = Some(told_of(&source, &self.fields));
                }
                let made =
                    rewrite(self.storage, &found.url, to, self.key.as_ref(), conditions, body.as_ref()).await;
                if made.is_ok() {
                    self.progress.advance(found.size);
                }
                made
            }
            Source::File { path, .. } => {
                let file = fs::File::open(path).await;
                let file =
                    file.map_err(|error| Failure::local(format!("cannot read {}: {error}", path.display())))?;
                self.upload(file, to, &path.to_string_lossy()).await
            }
            Source::Standard => self.upload(tokio::io::stdin(), to, &to.object).await,
        };
        match made {
            Ok(object) => Ok(Some(number(&object, "size").unwrap_or(0))),
            Err(failure) if self.options.no_clobber && failure.because_of(EXISTS) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn upload(
        &self,
        source: impl tokio::io::AsyncRead + Unpin,
        to: &CloudUrl,
        name: &str,
    ) -> Result<Value, Failure> {
        let mut fields = self.fields.clone();
        if !fields.contains_key("contentType") {
            fields.insert("contentType".into(), upload::type_of(name).into());
        }
        let new = NewObject { url: to, fields, key: self.key.as_ref(), no_clobber: self.options.no_clobber };
        upload::upload(self.storage, &new, source, &self.progress).await
    }

    /// Writes a file; none if there is one that is to stay.
    async fn copy_to_file(&self, found: &Found, path: &Path) -> Result<Option<u64>, Failure> {
        let there = fs::metadata(path).await.ok();
        if there.is_some() && self.options.no_clobber {
            return Ok(None);
        }
        if there.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(Failure::local(format!(
                "{} is a folder, and {} would take its place",
                path.display(),
                found.url
            )));
        }
        if let Some(folder) = path.parent() {
            let made = fs::create_dir_all(folder).await;
            made.map_err(|error| Failure::local(format!("cannot make {}: {error}", folder.display())))?;
        }
        // Pipes and devices have no place beside them.
        if there.is_some_and(|there| !there.is_file()) {
            return self.write(found, path).await.map(Some);
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(UNFINISHED);
        let unfinished = path.with_file_name(name);
        let written = match self.write(found, &unfinished).await {
            Ok(size) => {
                fs::rename(&unfinished, path).await.map(|()| size).map_err(|error| cannot_write(path, &error))
            }
            Err(failure) => Err(failure),
        };
        if written.is_err() {
            let _ = fs::remove_file(&unfinished).await;
        }
        written.map(Some)
    }

    async fn write(&self, found: &Found, path: &Path) -> Result<u64, Failure> {
        let failed = |error: std::io::Error| cannot_write(path, &error);
        let mut file = fs::File::create(path).await.map_err(failed)?;
        let mut reading = Reading::new(self.storage, found, Range::From(0));
        while let Some(bytes) = reading.next().await? {
            file.write_all(&bytes).await.map_err(failed)?;
            self.progress.advance(bytes.len() as u64);
        }
        file.flush().await.map_err(failed)?;
        Ok(found.size)
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::local(format!("cannot write {}: {error}", path.display()))
}

/// What is told of a copy: what is told of its source, but for what is set anew.
fn told_of(source: &Value, set: &Map<String, Value>) -> Value {
    const KEPT: [&str; 7] = [
        "contentType",
        "contentEncoding",
        "contentDisposition",
        "contentLanguage",
        "cacheControl",
        "customTime",
        "metadata",
    ];
    let kept = KEPT.iter().filter_map(|field| Some(((*field).to_owned(), source.get(*field)?.clone())));
    let mut told: Map<_, _> = kept.collect();
    for (field, value) in set {
        match (told.get_mut(field).and_then(Value::as_object_mut), value.as_object()) {
            (Some(old), Some(new)) => old.extend(new.clone()),
            _ => drop(told.insert(field.clone(), value.clone())),
        }
    }
    told.into()
}

/// Copies an object in the server, with what is told of it unless `body` says other.
///
/// # Errors
/// What the server refuses.
pub(super) async fn rewrite(
    storage: &Storage,
    source: &CloudUrl,
    to: &CloudUrl,
    key: Option<&CryptoKeyName>,
    conditions: &Query<'_>,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let from = object_path(&source.bucket, &source.object);
    let path = format!("{from}/rewriteTo/b/{}/o/{}", encoded(&to.bucket), encoded(&to.object));
    let mut query: Vec<_> = conditions.to_vec();
    query.extend(source.generation.map(|generation| ("sourceGeneration", generation.to_string())));
    query.extend(key.map(|key| ("destinationKmsKeyName", key.to_string())));
    let mut token: Option<String> = None;
    loop {
        let mut query = query.clone();
        query.extend(token.map(|token| ("rewriteToken", token)));
        let mut answer = storage.call(Method::POST, &path, &query, body).await?;
        if answer.get("done").and_then(Value::as_bool) == Some(true) {
            return Ok(answer.get_mut("resource").map(Value::take).unwrap_or_default());
        }
        token = Some(text(&answer, "rewriteToken").to_owned()).filter(|token| !token.is_empty());
        if token.is_none() {
            return Err(Failure::local(format!("the server stopped copying {source} half-way")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_is_not_set_anew() {
        let source =
            json!({"size": "1", "contentType": "a/b", "cacheControl": "c", "metadata": {"x": "1", "y": "2"}});
        let set = json!({"contentType": "t/t", "metadata": {"y": "3"}});
        assert_eq!(
            told_of(&source, set.as_object().unwrap()),
            json!({"contentType": "t/t", "cacheControl": "c", "metadata": {"x": "1", "y": "3"}})
        );
    }
}
