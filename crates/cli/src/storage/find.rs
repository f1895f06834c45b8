//! The objects that a URL means: one, those that fit a pattern, or all below a name.
//!
//! Invariant: objects come as pages are read; a list is never held whole.

use std::collections::VecDeque;

use serde_json::Value;
use tonic::Code;

use super::api::{Pages, Storage, checksum, number, objects_path, text};
use super::url::CloudUrl;
use crate::failure::Failure;

/// An object that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// It, with its generation.
    pub(super) url: CloudUrl,
    pub(super) size: u64,
    pub(super) checksum: Option<u32>,
    /// What it is called below the place that it is copied to, without [`Found::below`]: its own name, or that of
    /// the folder that was asked for.
    pub(super) base: String,
    /// Its name below that folder; empty when it was asked for itself.
    pub(super) below: String,
}

/// Which of an object's versions are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    Live,
    All,
}

/// Finds objects.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    pages: Option<Pages<'a>>,
    /// Found and not yet given.
    ready: VecDeque<Value>,
    bucket: String,
    /// What the names of folders' contents begin with; none for objects that stand for themselves.
    folder: Option<Folder>,
}

/// A folder that was asked for.
#[derive(Debug)]
struct Folder {
    prefix: String,
    base: String,
}

fn nothing(url: &CloudUrl) -> Failure {
    Failure::local(format!("no objects match {url}"))
}

/// The last part of a name.
fn last_part(name: &str) -> &str {
    let name = name.trim_end_matches('/');
    name.rsplit('/').next().unwrap_or(name)
}

impl<'a> Finder<'a> {
    /// Looks for what a URL means. A name that is no object's is a folder, if there is anything below it and
    /// folders are wanted.
    ///
    /// # Errors
    /// What the server refuses; a URL that means nothing, or a folder where none is wanted.
    pub(super) async fn new(
        storage: &'a Storage,
        url: &CloudUrl,
        recursive: bool,
        versions: Versions,
    ) -> Result<Finder<'a>, Failure> {
        let mut finder =
            Finder { pages: None, ready: VecDeque::new(), bucket: url.bucket.clone(), folder: None };
        let list = |prefix: &str| {
            let mut query = vec![("prefix", prefix.to_owned())];
            if versions == Versions::All {
                query.push(("versions", "true".to_owned()));
            }
            query
        };
        if url.is_pattern() {
            let mut query = list(url.literal());
            query.push(("matchGlob", url.object.clone()));
            finder.pages = Some(storage.pages(objects_path(&url.bucket), query, None));
            return finder.found_some(url).await;
        }
        let is_folder = url.object.is_empty() || url.object.ends_with('/');
        let mut missing = None;
        if !is_folder && versions == Versions::All && url.generation.is_none() {
            let mut pages = storage.pages(objects_path(&url.bucket), list(&url.object), None);
            // Names that begin alike come with it, those that are longer behind it.
            while let Some(page) = pages.next().await? {
                let count = page.items.len();
                let same = page.items.into_iter().filter(|item| text(item, "name") == url.object);
                let before = finder.ready.len();
                finder.ready.extend(same);
                if finder.ready.len() - before < count {
                    break;
                }
            }
        } else if !is_folder {
            match storage.object(url).await {
                Ok(object) => finder.ready.push_back(object),
                Err(failure) if failure.is(Code::NotFound) && url.generation.is_none() => {
                    missing = Some(failure);
                }
                Err(failure) => return Err(failure),
            }
        }
        if !recursive {
            if !finder.ready.is_empty() {
                return Ok(finder);
            }
            if is_folder || finder.has_below(storage, url).await? {
                return Err(Failure::usage(format!(
                    "{url} is a folder: give --recursive to mean all that is in it"
                )));
            }
            return Err(missing.unwrap_or_else(|| nothing(url)));
        }
        let prefix = if is_folder { url.object.clone() } else { format!("{}/", url.object) };
        let base = if url.object.is_empty() { &url.bucket } else { last_part(&url.object) };
        finder.folder = Some(Folder { prefix: prefix.clone(), base: base.to_owned() });
        finder.pages = Some(storage.pages(objects_path(&url.bucket), list(&prefix), None));
        if url.object.is_empty() { Ok(finder) } else { finder.found_some(url).await }
    }

    async fn has_below(&self, storage: &Storage, url: &CloudUrl) -> Result<bool, Failure> {
        let query = vec![("prefix", format!("{}/", url.object))];
        let first = storage.pages(objects_path(&url.bucket), query, Some(1)).next().await?;
        Ok(first.is_some_and(|page| !page.items.is_empty()))
    }

    /// Reads on until there is something.
    async fn found_some(mut self, url: &CloudUrl) -> Result<Self, Failure> {
        self.fill().await?;
        if self.ready.is_empty() {
            return Err(nothing(url));
        }
        Ok(self)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        while let Some(pages) = self.pages.as_mut().filter(|_| self.ready.is_empty()) {
            match pages.next().await? {
                Some(page) => self.ready.extend(page.items),
                None => self.pages = None,
            }
        }
        Ok(())
    }

    /// The next object as the server shows it.
    ///
    /// # Errors
    /// What the server refuses.
    pub(super) async fn next_value(&mut self) -> Result<Option<Value>, Failure> {
        self.fill().await?;
        Ok(self.ready.pop_front())
    }

    /// The next object.
    ///
    /// # Errors
    /// What the server refuses.
    pub(super) async fn next(&mut self) -> Result<Option<Found>, Failure> {
        Ok(self.next_value().await?.map(|object| self.found(&object)))
    }

    fn found(&self, object: &Value) -> Found {
        let name = text(object, "name");
        let below = self.folder.as_ref().and_then(|folder| {
            name.strip_prefix(&folder.prefix).map(|below| (folder.base.clone(), below.to_owned()))
        });
        let (base, below) = below.unwrap_or_else(|| (last_part(name).to_owned(), String::new()));
        let generation = number(object, "generation");
        Found {
            url: CloudUrl { generation, ..CloudUrl::new(&self.bucket, name) },
            size: number(object, "size").unwrap_or(0),
            checksum: checksum(object),
            base,
            below,
        }
    }
}
