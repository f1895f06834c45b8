//! Copying the log of a server to a folder.
//!
//! Invariant: the copy's checkpoint is written last, and only when all of the copy agrees with it and with the one
//! that was there before. So a copy that was interrupted, or that the log does not agree with any more, still says what
//! it was.

use async_trait::async_trait;
use bytes::Bytes;
use claviger_audit::tlog::{
    CHECKPOINT_PATH, Report, SignedCheckpoint, Source, Task, Tile, VerifierKey, verify, verify_hashes,
};

use super::folder::Folder;
use super::server::Server;
use crate::failure::Failure;

/// A copy that has all files of a checkpoint, and not yet the checkpoint.
struct Coming<'a> {
    folder: &'a Folder,
    checkpoint: Bytes,
}

#[async_trait]
impl Source for Coming<'_> {
    async fn get(&self, path: &str) -> claviger_core::Result<Option<Bytes>> {
        if path == CHECKPOINT_PATH { Ok(Some(self.checkpoint.clone())) } else { self.folder.get(path).await }
    }
}

/// Copies what the folder lacks of the newest checkpoint, and checks the whole copy.
///
/// # Errors
/// What the server refuses; a folder that cannot be written. What the check finds is in the report.
pub(super) async fn run(server: &Server, key: &VerifierKey, folder: &Folder) -> Result<Report, Failure> {
    let checkpoint = server.file(CHECKPOINT_PATH).await?;
    let newest = SignedCheckpoint::open(&checkpoint, key)?;
    let mut held = Vec::new();
    if let Some(note) = folder.get(CHECKPOINT_PATH).await? {
        held.push(SignedCheckpoint::open(&note, key)?);
    }
    let task = Task { log: key, held: &held, witnesses: &[], earlier: None };
    if !verify_hashes(server, &task).await?.findings.is_empty() {
        // The log is not what it was: the copy tells since which entry, and stays as it is.
        return Ok(verify(server, &Task { earlier: Some(folder), ..task }).await?);
    }
    let size = newest.checkpoint.size;
    for path in Tile::all(size).map(Tile::path) {
        // A tile of a width never changes; what is wrong with one that is there, the check finds.
        if !folder.has(&path) {
            folder.put(&path, &server.file(&path).await?)?;
        }
    }
    let report = verify(&Coming { folder, checkpoint: checkpoint.clone() }, &task).await?;
    if report.findings.is_empty() {
        folder.put(CHECKPOINT_PATH, &checkpoint)?;
        let before = held.first().map_or(0, |before| before.checkpoint.size);
        let is_past = |tile: &Tile| Tile::at(tile.contents, tile.index, size) != Some(*tile);
        for tile in Tile::all(before).filter(|tile| !tile.is_full()).filter(is_past) {
            folder.remove(&tile.path())?;
        }
    }
    Ok(report)
}
