//! Writes: aside, durable, moved into place, directory durable.
//!
//! Invariant: an error before the move leaves nothing behind. After the move a failed fsync of the
//! directory leaves it open whether the object is there: the caller must treat both as possible.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use object_store::{Error, PutMode, PutPayload, PutResult, Result, UpdateVersion};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use super::disk_error;
use super::files::{etag, modified_nanos};
use super::open::{Disk, STRIPES};

/// A file that is being written; removed when dropped before it was published.
#[derive(Debug)]
pub(super) struct TempFile {
    pub(super) file: File,
    path: PathBuf,
    published: bool,
}

impl TempFile {
    pub(super) fn create(disk: &Disk) -> io::Result<Self> {
        let path = disk.temp_path(disk.next_temp.fetch_add(1, Ordering::Relaxed));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, published: false })
    }

    /// The same file, to be written without the system's cache.
    pub(super) fn past_the_cache(&self) -> io::Result<File> {
        let flag = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        OpenOptions::new().write(true).custom_flags(flag).open(&self.path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            // What stays behind is removed when the directory is opened next.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Disk {
    pub(super) fn put(&self, location: &Path, payload: &PutPayload, mode: &PutMode) -> Result<PutResult> {
        let target = self.path(location)?;
        let mut temp = TempFile::create(self).map_err(disk_error(location))?;
        for bytes in payload {
            temp.file.write_all(bytes).map_err(disk_error(location))?;
        }
        temp.file.sync_data().map_err(disk_error(location))?;
        self.publish(temp, location, &target, mode)
    }

    pub(super) fn copy(&self, from: &Path, to: &Path, mode: &PutMode) -> Result<()> {
        let target = self.path(to)?;
        let mut source = self.open_file(from)?.file;
        let mut temp = TempFile::create(self).map_err(disk_error(to))?;
        io::copy(&mut source, &mut temp.file).map_err(disk_error(to))?;
        temp.file.sync_data().map_err(disk_error(to))?;
        self.publish(temp, to, &target, mode).map(drop)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path, replace: bool) -> Result<()> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        let _is_object = self.open_file(from)?;
        let source_dir = self.parent(&source).map_err(disk_error(from))?;
        let target_dir = self.parent(&target).map_err(disk_error(to))?;
        if from == to {
            return if replace { Ok(()) } else { Err(exists(to)) };
        }
        {
            let _guards = self.guards(from, to);
            let file = self.open_file(from)?.file;
            if replace {
                later_than_replaced(&file, &target).map_err(disk_error(to))?;
                fs::rename(&source, &target).map_err(disk_error(to))?;
            } else {
                rename_new(&source, &target).map_err(disk_error(to))?;
            }
            self.files.forget(from);
            self.files.forget(to);
        }
        target_dir.sync_all().map_err(disk_error(to))?;
        source_dir.sync_all().map_err(disk_error(from))
    }

    /// Moves a durable temporary file to its name.
    pub(super) fn publish(
        &self,
        mut temp: TempFile,
        location: &Path,
        target: &FsPath,
        mode: &PutMode,
    ) -> Result<PutResult> {
        let dir = self.parent(target).map_err(disk_error(location))?;
        let metadata = {
            let _guard = self.guard(location);
            match mode {
                PutMode::Create => rename_new(&temp.path, target).map_err(disk_error(location))?,
                PutMode::Overwrite => {
                    later_than_replaced(&temp.file, target).map_err(disk_error(location))?;
                    fs::rename(&temp.path, target).map_err(disk_error(location))?;
                }
                PutMode::Update(expected) => {
                    check_current(location, target, expected)?;
                    later_than_replaced(&temp.file, target).map_err(disk_error(location))?;
                    fs::rename(&temp.path, target).map_err(disk_error(location))?;
                }
            }
            temp.published = true;
            self.files.forget(location);
            temp.file.metadata().map_err(disk_error(location))?
        };
        dir.sync_all().map_err(disk_error(location))?;
        Ok(PutResult { e_tag: Some(etag(&metadata)), version: None, extensions: Default::default() })
    }

    /// Deletes a batch; each directory is made durable once. The results are in the batch's order.
    pub(super) fn delete(&self, batch: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let mut dirs: Vec<(PathBuf, io::Result<()>)> = Vec::new();
        let mut parents = Vec::with_capacity(batch.len());
        let mut results = Vec::with_capacity(batch.len());
        for location in batch {
            let removed = location.and_then(|location| {
                let path = self.path(&location)?;
                let _guard = self.guard(&location);
                let removed = fs::remove_file(&path);
                self.files.forget(&location);
                match removed {
                    Ok(()) => Ok((location, path)),
                    // As for a read: there is no object below an object, and a directory is none.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
                        ) =>
                    {
                        Err(Error::NotFound { path: location.to_string(), source: Box::new(error) })
                    }
                    Err(error) => Err(disk_error(&location)(error)),
                }
            });
            let parent = removed.as_ref().ok().and_then(|(_, path)| path.parent()).map(FsPath::to_owned);
            if let Some(parent) = &parent
                && !dirs.iter().any(|(dir, _)| dir == parent)
            {
                dirs.push((parent.clone(), Ok(())));
            }
            parents.push(parent);
            results.push(removed.map(|(location, _)| location));
        }
        for (dir, synced) in &mut dirs {
            *synced = self.dirs.handle(dir).and_then(|dir| dir.sync_all());
        }
        let settle = |(result, parent): (Result<Path>, Option<PathBuf>)| {
            let location = result?;
            match dirs.iter().find(|(dir, _)| Some(dir) == parent.as_ref()) {
                Some((_, Err(error))) => Err(disk_error(&location)(clone_io(error))),
                _ => Ok(location),
            }
        };
        results.into_iter().zip(parents).map(settle).collect()
    }

    fn parent(&self, target: &FsPath) -> io::Result<Arc<File>> {
        self.dirs.handle(target.parent().ok_or(io::ErrorKind::NotFound)?)
    }

    fn guard(&self, location: &Path) -> Option<MutexGuard<'_, ()>> {
        self.stripes.get(stripe(location)).map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The locks of two paths, always taken in the same order.
    fn guards(&self, a: &Path, b: &Path) -> [Option<MutexGuard<'_, ()>>; 2] {
        let (first, second) = if stripe(a) <= stripe(b) { (a, b) } else { (b, a) };
        let second_guard = (stripe(first) != stripe(second)).then_some(second);
        [self.guard(first), second_guard.and_then(|second| self.guard(second))]
    }
}

fn stripe(location: &Path) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(location.as_ref());
    usize::try_from(hash % STRIPES as u64).unwrap_or(0)
}

fn exists(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "it is there".into() }
}

fn clone_io(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error)
}

/// Renames unless the target is there. The path's lock is held, so a file system without that call
/// can be asked in two steps.
fn rename_new(from: &FsPath, to: &FsPath) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            match fs::symlink_metadata(to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn check_current(location: &Path, target: &FsPath, expected: &UpdateVersion) -> Result<()> {
    let conflict = |source: Box<dyn std::error::Error + Send + Sync>| Error::Precondition {
        path: location.to_string(),
        source,
    };
    let Some(expected) = &expected.e_tag else {
        return Err(conflict("an update needs the etag of what it replaces".into()));
    };
    let current = match fs::metadata(target) {
        Ok(metadata) => etag(&metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(conflict(error.into())),
        Err(error) => return Err(disk_error(location)(error)),
    };
    if current == *expected { Ok(()) } else { Err(conflict(format!("{current} is not {expected}").into())) }
}

/// Gives `file` a later modification time than what it will replace. The machine's file times are
/// coarse and a file's number is used again, so two writes could otherwise look the same.
fn later_than_replaced(file: &File, target: &FsPath) -> io::Result<()> {
    let replaced = match fs::metadata(target) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if modified_nanos(&file.metadata()?) > modified_nanos(&replaced) {
        return Ok(());
    }
    let later = replaced.modified()? + Duration::from_nanos(1);
    file.set_times(FileTimes::new().set_modified(later))?;
    file.sync_data()
}
