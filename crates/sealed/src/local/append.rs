//! Files that grow, one `fdatasync` for each append.
//!
//! A file that an append makes longer costs the file system a commit of its journal, milliseconds on some
//! disks. So room is reserved ahead, which reads as zeroes, and an append within it writes nothing but its own
//! bytes. Where the file system cannot reserve, appends work as well, only slower.
//!
//! Invariant: a file appears under its name with its front durable. Beyond what was appended it holds
//! zeroes only. An owner whose claim was taken over writes nothing more.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use object_store::path::Path;
use object_store::{PutMode, Result};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::open::Disk;
use super::write::TempFile;
use super::{LocalStore, disk_error};
use crate::append::{AppendDir, AppendFile, AppendStore, TakenOver};
use crate::error::permanent;

/// Room made with a file, and the most that is made at a time; in between it doubles.
const FIRST_ROOM: u64 = 64 * 1024;
const MAX_ROOM: u64 = 8 * 1024 * 1024;

/// Who owns which directory.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<Path, Weak<Gate>>>);

/// Held while something is written; closed when another one claims the directory.
#[derive(Debug)]
struct Gate(Mutex<bool>);

impl Gate {
    fn pass(&self) -> Result<MutexGuard<'_, bool>> {
        let open = self.lock();
        if *open { Ok(open) } else { Err(permanent("local", TakenOver)) }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppendStore for LocalStore {
    fn claim(&self, dir: &Path) -> Result<Arc<dyn AppendDir>> {
        self.disk.path(dir)?;
        let gate = Arc::new(Gate(Mutex::new(true)));
        let before = {
            let mut claims = self.disk.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
            claims.retain(|_, gate| gate.strong_count() > 0);
            claims.insert(dir.clone(), Arc::downgrade(&gate))
        };
        if let Some(before) = before.and_then(|gate| gate.upgrade()) {
            *before.lock() = false;
        }
        // Readers may have seen its files while they grew.
        self.disk.files.forget_below(dir);
        Ok(Arc::new(Dir { disk: self.disk.clone(), dir: dir.clone(), gate }))
    }
}

#[derive(Debug)]
struct Dir {
    disk: Arc<Disk>,
    dir: Path,
    gate: Arc<Gate>,
}

impl AppendDir for Dir {
    fn create(&self, name: &str, front: &[u8]) -> Result<Box<dyn AppendFile>> {
        let _open = self.gate.pass()?;
        let path = self.dir.clone().join(name);
        let target = self.disk.path(&path)?;
        let temp = TempFile::create(&self.disk).map_err(disk_error(&path))?;
        temp.file.write_all_at(front, 0).map_err(disk_error(&path))?;
        let end = front.len() as u64;
        let file = temp.file.try_clone().map_err(disk_error(&path))?;
        let (disk, gate) = (self.disk.clone(), self.gate.clone());
        let mut growing =
            Growing { disk, path: path.clone(), file, end, room: end, step: FIRST_ROOM, dirty: false, gate };
        growing.make_room(end);
        temp.file.sync_data().map_err(disk_error(&path))?;
        self.disk.publish(temp, &path, &target, &PutMode::Create)?;
        Ok(Box::new(growing))
    }

    fn cut(&self, name: &str, len: u64) -> Result<()> {
        let _open = self.gate.pass()?;
        let path = self.dir.clone().join(name);
        let file = OpenOptions::new().write(true).open(self.disk.path(&path)?);
        let file = file.map_err(disk_error(&path))?;
        cut(&file, len).map_err(disk_error(&path))?;
        // A reader may have it open with the length that it had.
        self.disk.files.forget(&path);
        Ok(())
    }
}

fn cut(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() > len {
        file.set_len(len)?;
        file.sync_all()?;
    }
    Ok(())
}

struct Growing {
    disk: Arc<Disk>,
    path: Path,
    file: File,
    /// Where the next append goes, and up to where there is room.
    end: u64,
    room: u64,
    step: u64,
    /// Whether something was written that is not durable.
    dirty: bool,
    gate: Arc<Gate>,
}

impl fmt::Debug for Growing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Growing({}, {} bytes)", self.path, self.end)
    }
}

impl Growing {
    /// Reserves what an append up to `end` takes, and more. A disk without room for that may still have some for
    /// the append.
    fn make_room(&mut self, end: u64) {
        let until = (end + self.step).next_multiple_of(FIRST_ROOM);
        self.step = (self.step * 2).min(MAX_ROOM);
        let reserved = fallocate(&self.file, FallocateFlags::empty(), self.end, until - self.end);
        self.room = if reserved.is_ok() { until } else { end };
    }

    fn put(&mut self, bytes: &[u8], durable: bool) -> io::Result<()> {
        let end = self.end + bytes.len() as u64;
        if end > self.room {
            self.make_room(end);
        }
        if durable && !self.dirty {
            write_through(&self.file, bytes, self.end)?;
        } else {
            self.file.write_all_at(bytes, self.end)?;
            if durable {
                self.file.sync_data()?;
            }
        }
        self.dirty = !durable;
        self.end = end;
        Ok(())
    }

    fn pass(&mut self, bytes: &[u8], durable: bool) -> Result<()> {
        let gate = self.gate.clone();
        let _open = gate.pass()?;
        let written = self.put(bytes, durable);
        written.map_err(disk_error(&self.path))
    }
}

impl AppendFile for Growing {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.pass(bytes, false)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.pass(bytes, true)
    }

    fn finish(&mut self) -> Result<()> {
        let _open = self.gate.pass()?;
        cut(&self.file, self.end).map_err(disk_error(&self.path))?;
        self.disk.files.forget(&self.path);
        self.room = self.end;
        Ok(())
    }
}

/// Writes and makes durable in one call, where the machine has that.
fn write_through(file: &File, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match pwritev2(file, &[IoSlice::new(bytes)], position, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                position += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                file.write_all_at(bytes, position)?;
                return file.sync_data();
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    async fn store() -> (tempfile::TempDir, LocalStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).await.unwrap();
        (dir, store)
    }

    fn is_taken_over(error: object_store::Error) -> bool {
        crate::error::is_taken_over(&error)
    }

    #[tokio::test]
    async fn appends_lie_one_after_the_other_with_zeroes_behind_until_the_file_is_finished() {
        let (dir, store) = store().await;
        let log = store.claim(&Path::from("a/log")).unwrap();
        let mut file = log.create("1", b"front").unwrap();
        let long = vec![7; 300_003];
        let mut expected = b"front".to_vec();
        for bytes in [&b"one"[..], &[2; 70_000], &long, b"two", &long, &[3; 5]] {
            file.write(&bytes[..bytes.len() / 2]).unwrap();
            file.append(&bytes[bytes.len() / 2..]).unwrap();
            file.append(b"short").unwrap();
            expected.extend_from_slice(bytes);
            expected.extend_from_slice(b"short");
            let found = fs::read(dir.path().join("a/log/1")).unwrap();
            let (written, rest) = found.split_at(expected.len());
            assert!(written == expected && rest.iter().all(|byte| *byte == 0));
            assert!(rest.len() as u64 <= MAX_ROOM + FIRST_ROOM);
        }
        file.finish().unwrap();
        assert!(fs::read(dir.path().join("a/log/1")).unwrap() == expected);
        log.cut("1", 8).unwrap();
        assert_eq!(fs::read(dir.path().join("a/log/1")).unwrap(), b"frontone");
    }

    #[tokio::test]
    async fn an_earlier_owner_writes_nothing_after_a_claim_and_others_are_not_touched() {
        let (dir, store) = store().await;
        let first = store.claim(&Path::from("a")).unwrap();
        let other = store.claim(&Path::from("b")).unwrap();
        let mut file = first.create("1", b"x").unwrap();
        let second = store.claim(&Path::from("a")).unwrap();
        let before = fs::read(dir.path().join("a/1")).unwrap();
        assert!(is_taken_over(file.append(b"late").unwrap_err()));
        assert!(is_taken_over(file.finish().unwrap_err()));
        assert!(is_taken_over(first.create("2", b"x").unwrap_err()));
        assert!(is_taken_over(first.cut("1", 0).unwrap_err()));
        assert_eq!(fs::read(dir.path().join("a/1")).unwrap(), before);
        second.create("2", b"x").unwrap();
        other.create("1", b"x").unwrap();
    }

    #[tokio::test]
    async fn appends_go_on_without_room_made_ahead() {
        let (dir, store) = store().await;
        let disk = store.disk.clone();
        let file = File::create(dir.path().join("f")).unwrap();
        let gate = Arc::new(Gate(Mutex::new(true)));
        // A file that is open for reading only cannot be given room.
        let read_only = File::open(dir.path().join("f")).unwrap();
        let path = Path::from("f");
        let mut growing =
            Growing { disk, path, file: read_only, end: 0, room: 0, step: FIRST_ROOM, dirty: false, gate };
        growing.make_room(10);
        assert_eq!(growing.room, 10);
        growing.file = file;
        growing.append(b"0123456789").unwrap();
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"0123456789");
    }

    #[tokio::test]
    async fn a_file_that_was_read_while_it_grew_is_read_whole_after_a_claim_or_its_end() {
        use object_store::ObjectStoreExt;
        let (_dir, store) = store().await;
        let (log, path) = (store.claim(&Path::from("a")).unwrap(), Path::from("a/1"));
        let mut file = log.create("1", b"x").unwrap();
        let room = store.get(&path).await.unwrap().bytes().await.unwrap().len();
        file.append(&vec![1; 2 * room]).unwrap();
        let log = store.claim(&Path::from("a")).unwrap();
        assert!(store.head(&path).await.unwrap().size > 2 * room as u64);
        let mut file = log.create("2", b"x").unwrap();
        assert_eq!(store.head(&Path::from("a/2")).await.unwrap().size, room as u64);
        file.finish().unwrap();
        assert_eq!(store.get(&Path::from("a/2")).await.unwrap().bytes().await.unwrap(), "x");
    }

    #[tokio::test]
    async fn a_file_that_is_there_is_not_created_again() {
        let (_dir, store) = store().await;
        let log = store.claim(&Path::from("a")).unwrap();
        log.create("1", b"x").unwrap();
        let error = log.create("1", b"y").unwrap_err();
        assert!(matches!(error, object_store::Error::AlreadyExists { .. }), "{error:?}");
        assert!(store.claim(&Path::from("")).is_err());
    }
}
