//! Listings, in the order of the paths.
//!
//! Invariant: what is not an object (the lock, writes under way, empty directories) never shows.

use std::fs::{DirEntry, Metadata};
use std::io;
use std::path::Path as FsPath;

use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, Result};

use super::disk_error;
use super::files::{etag, modified};
use super::open::Disk;

impl Disk {
    /// All objects below a prefix, from the one after `offset`.
    pub(super) fn list(&self, prefix: &Path, offset: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        self.walk(&self.dir(prefix)?, prefix, &mut |location, metadata| {
            if offset.is_none_or(|offset| location > *offset) {
                found.push(object(location, &metadata));
            }
            true
        })
        .map_err(disk_error(prefix))?;
        found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// The objects right below a prefix, and the prefixes of the deeper ones.
    pub(super) fn list_level(&self, prefix: &Path) -> Result<ListResult> {
        let dir = self.dir(prefix)?;
        let (mut objects, mut common_prefixes) = (Vec::new(), Vec::new());
        for (entry, location) in self.entries(&dir, prefix).map_err(disk_error(prefix))? {
            let Some(metadata) = seen(entry.metadata()).map_err(disk_error(&location))? else { continue };
            if metadata.is_file() {
                objects.push(object(location, &metadata));
            } else if metadata.is_dir() {
                let mut empty = true;
                self.walk(&entry.path(), &location, &mut |_, _| {
                    empty = false;
                    false
                })
                .map_err(disk_error(&location))?;
                if !empty {
                    common_prefixes.push(location);
                }
            }
        }
        objects.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        common_prefixes.sort_unstable();
        Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
    }

    /// Shows `visit` each object below `dir`, until it answers `false`.
    fn walk(
        &self,
        dir: &FsPath,
        location: &Path,
        visit: &mut impl FnMut(Path, Metadata) -> bool,
    ) -> io::Result<bool> {
        for (entry, location) in self.entries(dir, location)? {
            let Some(kind) = seen(entry.file_type())? else { continue };
            let more = if kind.is_dir() {
                self.walk(&entry.path(), &location, visit)?
            } else if let Some(metadata) = seen(entry.metadata())?
                && metadata.is_file()
            {
                visit(location, metadata)
            } else {
                true
            };
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entries(&self, dir: &FsPath, location: &Path) -> io::Result<Vec<(DirEntry, Path)>> {
        let entries = match std::fs::read_dir(dir) {
            // There is nothing below what is not there or is an object.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if self.is_reserved(dir, &name) {
                continue;
            }
            let prefix = location.as_ref();
            let child = name.to_str().map(|name| match prefix {
                "" => name.to_owned(),
                prefix => format!("{prefix}/{name}"),
            });
            // A name that no object can have was not made by this store.
            if let Some(Ok(child)) = child.map(Path::parse) {
                found.push((entry, child));
            }
        }
        Ok(found)
    }
}

/// What is gone by now is not there.
fn seen<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn object(location: Path, metadata: &Metadata) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: modified(metadata),
        size: metadata.len(),
        e_tag: Some(etag(metadata)),
        version: None,
    }
}
