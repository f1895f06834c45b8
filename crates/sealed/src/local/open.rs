//! Taking a directory into use.
//!
//! Invariant: the lock is held before anything is looked at or changed, and until the store is dropped.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use claviger_core::{Error, ErrorKind};
use object_store::Result;
use object_store::path::Path;

use super::append::Claims;
use super::dirs::{self, Dirs};
use super::files::FileCache;
use super::room::Room;

const LOCK: &str = "claviger.lock";
const FORMAT: &str = "format";
const TEMP: &str = ".tmp";
const FORMAT_TEXT: &str = "claviger objects 1\n";
/// Names at the top of the directory that are not objects.
const RESERVED: [&str; 3] = [LOCK, FORMAT, TEMP];

/// Locks that order the writes of a path; two paths may share one.
pub(super) const STRIPES: usize = 64;
/// Open directories that are kept.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// The share of the process's file descriptors that open objects may take, and their number's limits.
const DESCRIPTOR_SHARE: u64 = 4;
const MIN_OPEN_FILES: u64 = 16;
const MAX_OPEN_FILES: u64 = 4096;
const USUAL_DESCRIPTORS: u64 = 1024;

/// The directory, and what the process keeps of it.
pub(super) struct Disk {
    root: PathBuf,
    temp: PathBuf,
    pub(super) dirs: Dirs,
    pub(super) files: FileCache,
    pub(super) stripes: Vec<Mutex<()>>,
    pub(super) next_temp: AtomicU64,
    pub(super) room: Room,
    pub(super) claims: Claims,
    /// Locked as long as it is open.
    _lock: File,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    pub(super) fn open(root: PathBuf) -> claviger_core::Result<Self> {
        let refused = |error: io::Error| {
            let message = "the data directory cannot be used";
            let kind = if error.kind() == io::ErrorKind::StorageFull {
                ErrorKind::ResourceExhausted
            } else {
                ErrorKind::Internal
            };
            Error::new(kind, message).because(error)
        };
        fs::create_dir_all(&root).map_err(refused)?;
        let lock = take_lock(&root)?;
        check_format(&root)?;
        let temp = root.join(TEMP);
        empty(&temp).map_err(refused)?;
        remove_empty_dirs(&root, true).map_err(refused)?;
        dirs::create(&temp).map_err(refused)?;
        let room = Room::new(root.clone());
        let dirs = Dirs::new(root.clone(), OPEN_DIRS).map_err(refused)?;
        Ok(Self {
            root,
            temp,
            dirs,
            files: FileCache::new(open_files()),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            next_temp: AtomicU64::new(0),
            room,
            claims: Claims::default(),
            _lock: lock,
        })
    }

    /// Where an object lies.
    pub(super) fn path(&self, location: &Path) -> Result<PathBuf> {
        let invalid = |what: &str| object_store::Error::NotSupported {
            source: format!("{location} cannot be an object here: {what}").into(),
        };
        let name = location.as_ref();
        let first = name.split('/').next().unwrap_or_default();
        if name.is_empty() {
            return Err(invalid("it has no name"));
        }
        if RESERVED.contains(&first) {
            return Err(invalid("the name is reserved"));
        }
        // `Path` has no empty, `.` or `..` segments; this is the last line before the disk.
        if name.split('/').any(|part| matches!(part, "" | "." | "..") || part.contains('\0')) {
            return Err(invalid("a part of it means something else to a file system"));
        }
        Ok(self.root.join(name))
    }

    /// The directory of a prefix.
    pub(super) fn dir(&self, prefix: &Path) -> Result<PathBuf> {
        if prefix.as_ref().is_empty() { Ok(self.root.clone()) } else { self.path(prefix) }
    }

    pub(super) fn temp_path(&self, number: u64) -> PathBuf {
        self.temp.join(number.to_string())
    }

    /// Whether an entry of `dir` is not an object or a directory of objects.
    pub(super) fn is_reserved(&self, dir: &FsPath, name: &OsStr) -> bool {
        dir == self.root && RESERVED.iter().any(|reserved| name == *reserved)
    }
}

fn take_lock(root: &FsPath) -> claviger_core::Result<File> {
    let failed = |error: io::Error| Error::internal("the data directory cannot be locked").because(error);
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(root.join(LOCK));
    let lock = lock.map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(Error::precondition("the data directory is in use by another server").violating(
                "DATA_DIRECTORY_IN_USE",
                "data directory",
                "stop the other server first, or give this one a directory of its own",
            ))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn check_format(root: &FsPath) -> claviger_core::Result<()> {
    let failed = |error: io::Error| Error::internal("the data directory cannot be read").because(error);
    match fs::read(root.join(FORMAT)) {
        Ok(text) if text == FORMAT_TEXT.as_bytes() => return Ok(()),
        Ok(_) => {
            return Err(Error::precondition(
                "the data directory has a format that this version does not know; use the version that wrote it",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !RESERVED.iter().any(|reserved| name == *reserved) {
            return Err(Error::precondition(
                "the data directory holds files of something else; name an empty or a new directory",
            ));
        }
    }
    write_format(root).map_err(failed)
}

fn write_format(root: &FsPath) -> io::Result<()> {
    let temp = root.join(TEMP);
    dirs::create(&temp)?;
    let new = temp.join(FORMAT);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(FORMAT_TEXT.as_bytes())?;
    file.sync_data()?;
    fs::rename(new, root.join(FORMAT))?;
    File::open(root)?.sync_all()
}

/// Removes what a directory holds.
fn empty(dir: &FsPath) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Removes directories that deletes left empty. Not done while serving: a write may be about to use one.
fn remove_empty_dirs(dir: &FsPath, top: bool) -> io::Result<bool> {
    let mut is_empty = true;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let removed = entry.file_type()?.is_dir() && remove_empty_dirs(&entry.path(), false)?;
        is_empty &= removed;
    }
    if is_empty && !top {
        fs::remove_dir(dir)?;
        return Ok(true);
    }
    Ok(false)
}

fn open_files() -> NonZeroUsize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.unwrap_or(USUAL_DESCRIPTORS) / DESCRIPTOR_SHARE;
    let files = share.clamp(MIN_OPEN_FILES, MAX_OPEN_FILES);
    usize::try_from(files).ok().and_then(NonZeroUsize::new).unwrap_or(OPEN_DIRS)
}
