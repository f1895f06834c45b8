//! `claviger storage ls`.
//!
//! Invariant: lines come as pages are read; only JSON and YAML are collected first.

use clap::Args;
use serde_json::{Value, json};

use super::api::{Storage, number, objects_path, text};
use super::buckets;
use super::url::{self, CloudUrl};
use crate::failure::Failure;
use crate::output::{Format, write_text};

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger storage ls
  claviger storage ls gs://flights
  claviger storage ls -l 'gs://flights/2026-*/**'

Without a URL the buckets of the project are listed.";

/// `claviger storage ls`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to list: gs://BUCKET, gs://BUCKET/FOLDER or a pattern
    #[arg(value_name = "URL", value_parser = url::cloud)]
    urls: Vec<CloudUrl>,
    /// All that is below, not only the first level
    #[arg(long, short, visible_short_alias = 'R')]
    recursive: bool,
    /// Sizes and times too
    #[arg(long, short)]
    long: bool,
    /// Old versions too
    #[arg(long, short)]
    all_versions: bool,
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// What was listed so far.
#[derive(Debug, Default)]
struct Lines {
    /// For JSON and YAML.
    values: Vec<Value>,
    objects: u64,
    bytes: u64,
}

/// Lists.
///
/// # Errors
/// What the server refuses, a URL that nothing fits, and when standard output cannot be written.
pub(super) async fn run(storage: &Storage, options: &Options) -> Result<(), Failure> {
    if options.urls.is_empty() {
        let found = buckets::list(storage, None, None).await?;
        return match storage.out.format {
            Format::Table => {
                let lines = found.iter().map(|bucket| format!("gs://{}/\n", text(bucket, "name")));
                write_text(&lines.collect::<String>())
            }
            _ => storage.out.values(found, &[]),
        };
    }
    let mut lines = Lines::default();
    for url in &options.urls {
        let before = (lines.objects, lines.values.len());
        let mut found = one(storage, options, url, &mut lines).await?;
        // A name without a slash may be an object's and a folder's.
        if !found && !url.is_pattern() && !url.object.is_empty() && !url.object.ends_with('/') {
            let folder = CloudUrl::new(&url.bucket, &format!("{}/", url.object));
            found = one(storage, options, &folder, &mut lines).await?;
        }
        // An empty bucket is there all the same.
        if !found && before == (lines.objects, lines.values.len()) && !url.object.is_empty() {
            return Err(Failure::local(format!("nothing matches {url}")));
        }
    }
    if storage.out.format != Format::Table {
        return storage.out.values(lines.values, &[]);
    }
    if options.long {
        let (objects, bytes) = (lines.objects, lines.bytes);
        return write_text(&format!("TOTAL: {objects} objects, {bytes} bytes ({})\n", size(bytes)));
    }
    Ok(())
}

/// Lists what one URL means; says whether there was anything.
async fn one(
    storage: &Storage,
    options: &Options,
    url: &CloudUrl,
    lines: &mut Lines,
) -> Result<bool, Failure> {
    let mut query = Vec::new();
    let is_folder = url.object.is_empty() || url.object.ends_with('/');
    if url.is_pattern() {
        query.push(("prefix", url.literal().to_owned()));
        query.push(("matchGlob", url.object.clone()));
    } else {
        query.push(("prefix", url.object.clone()));
        if !(options.recursive && is_folder) {
            query.push(("delimiter", "/".to_owned()));
        }
    }
    if options.all_versions || url.generation.is_some() {
        query.push(("versions", "true".to_owned()));
    }
    let is_meant = |object: &Value| {
        (url.is_pattern() || is_folder || text(object, "name") == url.object)
            && url.generation.is_none_or(|generation| number(object, "generation") == Some(generation))
    };
    let mut any = false;
    let mut pages = storage.pages(objects_path(&url.bucket), query, None);
    while let Some(page) = pages.next().await? {
        let objects: Vec<Value> = page.items.into_iter().filter(is_meant).collect();
        let prefixes: Vec<_> = page.prefixes.iter().filter(|_| is_folder).collect();
        any |= !objects.is_empty() || !prefixes.is_empty();
        lines.objects += objects.len() as u64;
        lines.bytes += objects.iter().filter_map(|object| number(object, "size")).sum::<u64>();
        let shown = |object: &Value| {
            let generation = number(object, "generation").filter(|_| options.all_versions);
            CloudUrl { generation, ..CloudUrl::new(&url.bucket, text(object, "name")) }.to_string()
        };
        if storage.out.format == Format::Table {
            let mut written = String::new();
            for object in &objects {
                written.push_str(&line(object, &shown(object), options.long));
            }
            for prefix in prefixes {
                let indent = if options.long { " ".repeat(LONG_INDENT) } else { String::new() };
                written.push_str(&format!(
                    "{indent}{}\n",
                    printable(&CloudUrl::new(&url.bucket, prefix).to_string())
                ));
            }
            write_text(&written)?;
        } else {
            lines.values.extend(
                objects
                    .into_iter()
                    .map(|object| json!({"url": shown(&object), "type": "cloud_object", "metadata": object})),
            );
            lines.values.extend(prefixes.into_iter().map(
                |prefix| json!({"url": CloudUrl::new(&url.bucket, prefix).to_string(), "type": "prefix"}),
            ));
        }
    }
    Ok(any)
}

/// The width of size and time in a long line, with the blanks behind them.
const LONG_INDENT: usize = 12 + 2 + 24 + 2;

fn line(object: &Value, url: &str, long: bool) -> String {
    let url = printable(url);
    if !long {
        return format!("{url}\n");
    }
    let bytes = number(object, "size").unwrap_or(0);
    format!("{bytes:>12}  {:<24}  {url}\n", text(object, "timeCreated"))
}

/// A name on its line, whatever it holds.
fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_default().to_string() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_has_size_time_and_name_in_columns() {
        let object = json!({"size": "42", "timeCreated": "2026-11-23T04:05:06.000Z"});
        let long = line(&object, "gs://b/o", true);
        assert_eq!(long, "          42  2026-11-23T04:05:06.000Z  gs://b/o\n");
        assert_eq!(long.find("gs://"), Some(LONG_INDENT));
        assert_eq!(line(&object, "gs://b/a\nb", false), "gs://b/a\\nb\n");
    }
}
