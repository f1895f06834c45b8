//! Room on the disk, so that writes are refused while the store can still do what frees some.
//!
//! Invariant: a check never fails because the disk cannot be asked; the write itself will say it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use claviger_core::{Error, ErrorKind, Result};
use rustix::fs::statvfs;

const MIB: u64 = 1024 * 1024;
/// What is kept free: a part of the disk, within limits that fit large and small ones.
const RESERVE_SHARE: u64 = 20;
const MIN_RESERVE: u64 = 16 * MIB;
const MAX_RESERVE: u64 = 256 * MIB;
const SMALL_DISK_SHARE: u64 = 4;
/// The machine is asked once in so many checks while there is plenty.
const ASK_EVERY: u64 = 32;
/// How many times the reserve is plenty.
const PLENTY: u64 = 4;

#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
    /// Checks that pass before the machine is asked again.
    passes: AtomicU64,
}

impl Room {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, passes: AtomicU64::new(0) }
    }

    pub(super) fn check(&self) -> Result<()> {
        let pass =
            self.passes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |passes| passes.checked_sub(1));
        if pass.is_ok() {
            return Ok(());
        }
        let Ok(disk) = statvfs(&self.dir) else { return Ok(()) };
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reserve = reserve(total);
        if free < reserve {
            let message = format!(
                "the server's disk is full: {} MiB are free, {} MiB are kept for its own work",
                free / MIB,
                reserve / MIB
            );
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        if free > reserve.saturating_mul(PLENTY) {
            self.passes.store(ASK_EVERY, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn reserve(total: u64) -> u64 {
    (total / RESERVE_SHARE).clamp(MIN_RESERVE.min(total / SMALL_DISK_SHARE), MAX_RESERVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_fits_large_and_small_disks() {
        assert_eq!(reserve(4_000_000 * MIB), 256 * MIB);
        assert_eq!(reserve(1000 * MIB), 50 * MIB);
        assert_eq!(reserve(100 * MIB), 16 * MIB);
        assert_eq!(reserve(32 * MIB), 8 * MIB);
        assert_eq!(reserve(0), 0);
    }

    #[test]
    fn a_disk_with_room_passes_and_one_that_cannot_be_asked_does_too() {
        Room::new(std::env::temp_dir()).check().unwrap();
        Room::new("/no/such/directory".into()).check().unwrap();
    }
}
