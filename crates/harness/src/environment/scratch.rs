//! The directories of running workers. Staged files lie there in clear while their worker runs, so they
//! are in the machine's memory and not on a disk, unless the operator says otherwise.
//!
//! Invariant: a worker's directory is its user's alone, it goes with its worker, and what a process that
//! died left behind goes at the next start. (Memory may be swapped: an operator who has swap encrypts it.)

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use claviger_core::{Error, Result};

/// A file system in memory that Linux offers to all.
const MEMORY: &str = "/dev/shm";
/// What file systems in memory call themselves: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// How often a directory is tried to be made.
const TRIES: usize = 10;

/// Where the directories of a server's workers are.
pub(crate) struct Scratch {
    root: PathBuf,
    must_be_memory: bool,
}

/// A worker's directory; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Dir(PathBuf);

impl Scratch {
    /// In the named directory, or in memory. `owner` tells one server's from another's.
    pub(crate) fn new(named: Option<PathBuf>, owner: &str) -> Self {
        let must_be_memory = named.is_none();
        let parent = named.unwrap_or_else(|| MEMORY.into());
        Self { root: parent.join(format!("claviger-workers-{:016x}", fnv(owner.as_bytes()))), must_be_memory }
    }

    /// Removes what earlier workers left behind.
    pub(crate) fn clear(&self) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            remove(&entry.path());
        }
        let _ = fs::remove_dir(&self.root);
    }

    /// Makes the directory of a worker.
    ///
    /// # Errors
    /// `FailedPrecondition` where it would not be in memory, or not ours.
    pub(crate) fn dir(&self, worker: &str) -> Result<Dir> {
        let shown = self.root.display();
        if self.must_be_memory {
            let parent = self.root.parent().unwrap_or(Path::new(MEMORY));
            let in_memory = rustix::fs::statfs(parent).is_ok_and(|fs| {
                // The type's own type differs between machines.
                u64::try_from(fs.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind))
            });
            if !in_memory {
                return Err(Error::precondition(format!(
                    "the files of a worker process must not reach a disk, and {} is not in memory; name a directory for them at the server's start if it is safe",
                    parent.display()
                )));
            }
        }
        // The last worker that ends takes the root with it, maybe in the middle of this.
        for _ in 0..TRIES {
            if let Some(dir) = self.make(worker)? {
                return Ok(dir);
            }
        }
        Err(Error::precondition(format!("{shown} goes away again and again")))
    }

    /// Makes the directory of a worker, unless the root goes meanwhile.
    fn make(&self, worker: &str) -> Result<Option<Dir>> {
        let shown = self.root.display();
        let failed = |error: std::io::Error| {
            Error::precondition(format!("no directory for a worker's files can be made in {shown}"))
                .because(error)
        };
        if let Err(error) = private(&self.root)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(failed(error));
        }
        // Someone else may have put it there.
        let found = match fs::symlink_metadata(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(failed)?,
        };
        let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
        if !ours || found.mode() & 0o077 != 0 {
            return Err(Error::precondition(format!("{shown} is not a directory of this server alone")));
        }
        let path = self.root.join(worker);
        match private(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            made => made.map_err(failed)?,
        }
        let dir = Dir(path);
        private(&dir.0.join("tmp")).map_err(failed)?;
        Ok(Some(dir))
    }
}

impl Dir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it to another worker, with all that is in it.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is gone.
    pub(crate) fn rename(&mut self, worker: &str) -> Result<()> {
        let path = self.0.with_file_name(worker);
        fs::rename(&self.0, &path)
            .map_err(|error| Error::precondition("a worker's files cannot be moved").because(error))?;
        self.0 = path;
        Ok(())
    }

    /// Writes a file into it.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is no room.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, text)
            .map_err(|error| Error::precondition("a worker's files cannot be written").because(error))?;
        Ok(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        remove(&self.0);
        // Empty, if this was the last one.
        if let Some(root) = self.0.parent() {
            let _ = fs::remove_dir(root);
        }
    }
}

fn private(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the files of a worker could not be removed");
    }
}

/// FNV-1a, which is the same in every version of this program.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_directory_is_private_and_goes_with_it() {
        let parent = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::new(Some(parent.path().into()), "mine");
        let dir = scratch.dir("w1").expect("a directory");
        let path = dir.path().to_owned();
        fs::write(path.join("staged"), "secret").expect("written");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o700);
        let second = scratch.dir("w2").expect("a directory");
        drop(dir);
        assert!(!path.exists() && second.path().exists());
        drop(second);
        assert_eq!(fs::read_dir(parent.path()).expect("there").count(), 0, "the root goes with the last one");
    }

    #[test]
    fn what_a_dead_server_left_goes_at_the_start_and_anothers_stays() {
        let parent = tempfile::tempdir().expect("a directory");
        let (mine, other) = (
            Scratch::new(Some(parent.path().into()), "mine"),
            Scratch::new(Some(parent.path().into()), "other"),
        );
        let left = mine.dir("w1").expect("a directory");
        let kept = other.dir("w1").expect("a directory");
        Scratch::new(Some(parent.path().into()), "mine").clear();
        assert!(!left.path().exists() && kept.path().exists());
    }

    #[test]
    fn a_directory_that_others_can_read_is_refused() {
        let parent = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::new(Some(parent.path().into()), "mine");
        DirBuilder::new().mode(0o755).create(&scratch.root).expect("made");
        assert!(scratch.dir("w1").is_err());
        fs::remove_dir(&scratch.root).expect("removed");
        std::os::unix::fs::symlink(parent.path(), &scratch.root).expect("linked");
        assert!(scratch.dir("w1").is_err());
    }

    #[test]
    fn a_disk_is_refused_unless_it_was_named() {
        let on_disk = Scratch { root: PathBuf::from("/proc/claviger-none"), must_be_memory: true };
        let error = on_disk.dir("w1").expect_err("refused");
        assert!(error.message().contains("not in memory"), "{error}");
    }
}
