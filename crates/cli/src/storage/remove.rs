//! `claviger storage rm`: deletes objects, and buckets with all that is in them.
//!
//! Invariant: each deletion names the generation that was seen; what is written meanwhile stays.

use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::Code;

use super::api::Storage;
use super::buckets;
use super::find::{Finder, Versions};
use super::url::{self, CloudUrl};
use crate::failure::Failure;
use crate::output::{confirm, say};
use crate::progress::Progress;

/// Deletions under way at a time.
const PARALLEL: usize = 16;

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger storage rm gs://flights/may.csv 'gs://flights/*.tmp'
  claviger storage rm -r gs://flights/2026
  claviger storage rm -r gs://flights

With -r a bucket is emptied, old versions too, and deleted.";

/// `claviger storage rm`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to delete: gs://BUCKET/OBJECT, patterns, and with -r folders and buckets
    #[arg(value_name = "URL", required = true, value_parser = url::cloud)]
    urls: Vec<CloudUrl>,
    /// All that is below too
    #[arg(long, short, visible_short_alias = 'R')]
    recursive: bool,
    /// Old versions too
    #[arg(long, short)]
    all_versions: bool,
}

/// Deletes.
///
/// # Errors
/// What the server refuses, and a URL that nothing fits.
pub(super) async fn run(storage: &Storage, options: &Options) -> Result<(), Failure> {
    let whole: Vec<_> =
        options.urls.iter().filter(|url| url.object.is_empty()).map(ToString::to_string).collect();
    if !whole.is_empty() {
        if !options.recursive {
            return Err(Failure::usage(format!(
                "{} is a bucket: give --recursive to delete it with all that is in it",
                whole.join(", ")
            )));
        }
        confirm(storage.quiet, &format!("Delete {} with all that is in it?", whole.join(", ")))?;
    }
    let mut count = 0;
    for url in &options.urls {
        let versions = options.all_versions || url.object.is_empty();
        let versions = if versions { Versions::All } else { Versions::Live };
        count += below(storage, url, options.recursive, versions).await?;
        if url.object.is_empty() {
            buckets::delete(storage, &url.bucket).await?;
        }
    }
    told(count);
    Ok(())
}

/// Deletes single objects and those that fit patterns.
///
/// # Errors
/// What the server refuses, and a URL that nothing fits.
pub(super) async fn objects(storage: &Storage, urls: &[CloudUrl]) -> Result<(), Failure> {
    let mut count = 0;
    for url in urls {
        count += below(storage, url, false, Versions::Live).await?;
    }
    told(count);
    Ok(())
}

fn told(count: u64) {
    say(&format!("Deleted {count} {}.", if count == 1 { "object" } else { "objects" }));
}

async fn below(
    storage: &Storage,
    url: &CloudUrl,
    recursive: bool,
    versions: Versions,
) -> Result<u64, Failure> {
    let progress = Progress::spinner(storage.quiet, format!("Deleting {url}"));
    let finder = Finder::new(storage, url, recursive, versions).await?;
    let found = stream::try_unfold(finder, async |mut finder| {
        Ok::<_, Failure>(finder.next().await?.map(|found| (found, finder)))
    });
    let for_good = versions == Versions::All || url.generation.is_some();
    let deletions = found.map_ok(async |found| {
        let deleted = match for_good {
            true => storage.delete_version(&found.url).await,
            false => storage.delete_live(&found.url).await,
        };
        match deleted {
            // Somebody else was quicker.
            Err(failure) if failure.is(Code::NotFound) => Ok(0),
            deleted => deleted.map(|()| 1),
        }
    });
    let mut deletions = std::pin::pin!(deletions.try_buffer_unordered(PARALLEL));
    let mut count = 0;
    while let Some(deleted) = deletions.next().await {
        count += deleted?;
        progress.message(format!("Deleting {url}: {count} so far"));
    }
    Ok(count)
}
