//! What `cp` copies, and where each goes.
//!
//! ```text
//! destination     source        becomes
//! D is a place    F             D/NAME-OF-F
//! for many        folder F      D/NAME-OF-F/...
//! D is not        F             D
//!                 folder F      D/...
//! ```
//! A place for many is a bucket, what ends with a slash, a folder that is there, and any when there are several
//! sources.
//!
//! Invariant: what is copied never goes into what is being copied.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::storage::api::{Storage, objects_path};
use crate::storage::find::{Finder, Found, Versions};
use crate::storage::url::{CloudUrl, Place};
use crate::storage::walk::{Walk, path_below};

/// What is copied.
#[derive(Debug)]
pub(super) enum Source {
    File { path: PathBuf, size: u64 },
    Object(Found),
    Standard,
}

impl Source {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Object(found) => found.size,
            Self::Standard => 0,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(f),
            Self::Object(found) => found.url.fmt(f),
            Self::Standard => f.write_str("-"),
        }
    }
}

/// One copy to make.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) source: Source,
    /// None for what stands for a folder, which needs no copy.
    pub(super) to: Option<Place>,
}

/// Where copies go.
#[derive(Clone, Debug)]
pub(super) struct Target {
    place: Place,
    /// Sources go below it, under their own names.
    for_many: bool,
}

/// The copies of one source.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    target: Target,
    what: What<'a>,
}

#[derive(Debug)]
enum What<'a> {
    Objects(Finder<'a>),
    Folder { walk: Walk, base: String },
    One(Option<Source>),
}

/// Whether all below a source is meant.
fn is_folder(source: &Place) -> bool {
    match source {
        Place::Cloud(url) => !url.is_pattern(),
        Place::Local(path) => path.is_dir(),
        Place::Standard => false,
    }
}

impl Target {
    /// Finds out what a destination is.
    ///
    /// # Errors
    /// What the server refuses, and a destination that cannot take several sources.
    pub(super) async fn find(
        storage: &Storage,
        place: &Place,
        sources: &[Place],
        recursive: bool,
    ) -> Result<Self, Failure> {
        let many =
            sources.len() > 1 || sources.iter().any(|s| matches!(s, Place::Cloud(url) if url.is_pattern()));
        let for_many = match place {
            Place::Cloud(url) => {
                if url.is_pattern() || url.generation.is_some() {
                    return Err(Failure::usage(format!("{url} is no place to copy to")));
                }
                // Better told now than after all has been read.
                storage.bucket(&url.bucket).await?;
                let is_there = async || {
                    let query = vec![("prefix", format!("{}/", url.object))];
                    let first = storage.pages(objects_path(&url.bucket), query, Some(1)).next().await?;
                    Ok::<_, Failure>(first.is_some_and(|page| !page.items.is_empty()))
                };
                many || url.object.is_empty()
                    || url.object.ends_with('/')
                    || (recursive && sources.iter().any(is_folder) && is_there().await?)
            }
            Place::Local(path) => {
                let is_folder = path.is_dir() || path.as_os_str().to_string_lossy().ends_with('/');
                if many && !is_folder {
                    return Err(Failure::usage(format!(
                        "{} is no folder, and several sources need one: make it, or end its name with a slash",
                        path.display()
                    )));
                }
                is_folder
            }
            Place::Standard => false,
        };
        Ok(Self { place: place.clone(), for_many })
    }

    /// Where something goes that is called `base`, or is called `below` in a folder that is called `base`.
    fn of(&self, base: &str, below: &str) -> Result<Place, Failure> {
        let mut parts = Vec::new();
        if self.for_many && !base.is_empty() {
            parts.push(base);
        }
        if !below.is_empty() {
            parts.push(below);
        }
        let name = parts.join("/");
        Ok(match &self.place {
            place if name.is_empty() => place.clone(),
            Place::Cloud(url) => {
                let folder = url.object.trim_end_matches('/');
                let object = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                Place::Cloud(CloudUrl::new(&url.bucket, &object))
            }
            Place::Local(path) => Place::Local(path_below(path, &name)?),
            Place::Standard => Place::Standard,
        })
    }

    /// Refuses to copy a folder into itself: there would be no end.
    fn check_apart(&self, source: &CloudUrl) -> Result<(), Failure> {
        let Place::Cloud(to) = &self.place else { return Ok(()) };
        let folder = source.object.trim_end_matches('/');
        let inside = to.bucket == source.bucket
            && (folder.is_empty() || format!("{}/", to.object).starts_with(&format!("{folder}/")));
        if inside && !source.is_pattern() {
            return Err(Failure::usage(format!(
                "{to} is in {source}: a folder cannot be copied into itself"
            )));
        }
        Ok(())
    }
}

impl<'a> Plan<'a> {
    /// Plans the copies of one source.
    ///
    /// # Errors
    /// What the server refuses, a source that is not there, and a folder where none is meant.
    pub(super) async fn new(
        storage: &'a Storage,
        source: &Place,
        target: &Target,
        recursive: bool,
    ) -> Result<Plan<'a>, Failure> {
        let what = match source {
            Place::Standard => {
                if target.for_many {
                    return Err(Failure::usage(
                        "standard input has no name: name the object that it becomes",
                    ));
                }
                What::One(Some(Source::Standard))
            }
            Place::Cloud(url) => {
                if recursive {
                    target.check_apart(url)?;
                }
                What::Objects(Finder::new(storage, url, recursive, Versions::Live).await?)
            }
            Place::Local(path) => Self::local(path, recursive)?,
        };
        Ok(Plan { target: target.clone(), what })
    }

    fn local(path: &Path, recursive: bool) -> Result<What<'a>, Failure> {
        let found = fs::metadata(path);
        let found =
            found.map_err(|error| Failure::local(format!("cannot read {}: {error}", path.display())))?;
        if !found.is_dir() {
            return Ok(What::One(Some(Source::File { path: path.to_owned(), size: found.len() })));
        }
        if !recursive {
            return Err(Failure::usage(format!(
                "{} is a folder: give --recursive to mean all that is in it",
                path.display()
            )));
        }
        // `.` and `..` have no name of their own: what is in them goes as it is.
        let base = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(What::Folder { walk: Walk::new(path), base })
    }

    /// The next copy.
    ///
    /// # Errors
    /// What the server refuses; a folder that cannot be read; a name that leads elsewhere.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, Failure> {
        match &mut self.what {
            What::Objects(finder) => {
                let Some(found) = finder.next().await? else { return Ok(None) };
                let stays_here = !matches!(self.target.place, Place::Cloud(_));
                if found.url.object.ends_with('/') && (found.below.is_empty() || stays_here) {
                    return Ok(Some(Item { source: Source::Object(found), to: None }));
                }
                let to = self.target.of(&found.base, &found.below)?;
                let same = matches!(&to, Place::Cloud(to) if to.bucket == found.url.bucket && to.object == found.url.object);
                if same {
                    return Err(Failure::usage(format!("{to} cannot be copied to itself")));
                }
                Ok(Some(Item { source: Source::Object(found), to: Some(to) }))
            }
            What::Folder { walk, base } => {
                let Some(file) = walk.next()? else { return Ok(None) };
                let size = fs::metadata(&file.path).map_or(0, |found| found.len());
                let to = Some(self.target.of(base, &file.below)?);
                Ok(Some(Item { source: Source::File { path: file.path, size }, to }))
            }
            What::One(source) => {
                let Some(source) = source.take() else { return Ok(None) };
                let base = match &source {
                    Source::File { path, .. } => {
                        let name = path.file_name().and_then(|name| name.to_str());
                        name.ok_or_else(|| Failure::local(format!("the name of {source} is not UTF-8")))?
                            .to_owned()
                    }
                    Source::Object(_) | Source::Standard => String::new(),
                };
                let to = self.target.of(&base, "")?;
                Ok(Some(Item { source, to: Some(to) }))
            }
        }
    }

    /// The folders here that were walked, each before those in it.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        match &self.what {
            What::Folder { walk, .. } => walk.folders.clone(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::url;

    fn target(place: &str, for_many: bool) -> Target {
        Target { place: url::place(place).unwrap(), for_many }
    }

    #[test]
    fn sources_keep_their_names_in_a_place_for_many_and_take_its_name_otherwise() {
        for (place, for_many, base, below, expected) in [
            ("gs://b", true, "f", "", "gs://b/f"),
            ("gs://b/d/", true, "f", "", "gs://b/d/f"),
            ("gs://b/d", false, "f", "", "gs://b/d"),
            ("gs://b/d", true, "dir", "s/f", "gs://b/d/dir/s/f"),
            ("gs://b/d", false, "dir", "s/f", "gs://b/d/s/f"),
            ("gs://b", true, "", "s/f", "gs://b/s/f"),
            ("here", true, "f", "", "here/f"),
            ("here", false, "dir", "s/f", "here/s/f"),
            ("here", false, "f", "", "here"),
            ("-", false, "f", "", "-"),
        ] {
            let to = target(place, for_many).of(base, below).unwrap();
            assert_eq!(to.to_string(), expected, "{place} {for_many} {base} {below}");
        }
    }

    #[test]
    fn an_objects_name_leads_nowhere_else_here() {
        let here = target("here", false);
        assert!(here.of("dir", "../../etc/passwd").unwrap_err().text().contains("no path below here"));
        assert!(target("here", true).of("..", "").is_err());
    }

    #[test]
    fn a_folder_is_not_copied_into_itself() {
        let inside = |to: &str, from: &str| target(to, true).check_apart(&url::cloud(from).unwrap()).is_err();
        assert!(inside("gs://b/d/e", "gs://b/d"));
        assert!(inside("gs://b/d", "gs://b/d/"));
        assert!(inside("gs://b/e", "gs://b"));
        assert!(!inside("gs://b/de", "gs://b/d"));
        assert!(!inside("gs://c/d/e", "gs://b/d"));
    }
}
