//! The log as evidence: its checkpoints, the tiles of its tree, its entries as they were hashed, and what witnesses
//! say of it.
//!
//! Records: `c/` and the size in 20 digits hold checkpoints with cosignatures; `cosigned` holds the largest such size.
//!
//! Invariant: a checkpoint is of durable entries only. A cosignature is kept when it is right, of a checkpoint that
//! this log signed and that is still the beginning of it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_core::{Error, Result};
use claviger_sealed::RecordBatch;

use super::{AuditLog, damaged, tree};
use crate::tlog::{
    CHECKPOINT_PATH, Contents, Hash, SignedCheckpoint, Source, Tile, VerifierKey, encode_bundle, root_at,
};

/// What the keys of cosigned checkpoints begin with.
const COSIGNED: &str = "c/";
/// The record of the largest size that was cosigned.
const LAST_COSIGNED: &str = "cosigned";
/// Cosignatures of a checkpoint, at most.
const MAX_WITNESSES: usize = 16;
/// How far a witness's clock may be ahead of ours.
const AHEAD: Duration = Duration::from_secs(5 * 60);

impl AuditLog {
    /// What checks the log's signatures.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        self.key.verifier()
    }

    /// The checkpoint of all entries that are durable now.
    ///
    /// # Errors
    /// `DataLoss` when records are not what was written.
    pub async fn checkpoint(&self) -> Result<SignedCheckpoint> {
        let edge = self.tree.edge();
        let signed = self.key.sign(edge.size(), edge.root());
        Ok(self
            .cosigned(edge.size())
            .await?
            .filter(|kept| kept.checkpoint == signed.checkpoint)
            .unwrap_or(signed))
    }

    /// The newest checkpoint that a witness has cosigned.
    ///
    /// # Errors
    /// As [`Self::checkpoint`].
    pub async fn cosigned_checkpoint(&self) -> Result<Option<SignedCheckpoint>> {
        match self.database.records().await.get::<u64>(LAST_COSIGNED).await? {
            Some(size) => self.cosigned(size).await,
            None => Ok(None),
        }
    }

    /// Keeps the cosignature that `note` has of a witness, and gives the checkpoint with all that are kept.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no checkpoint of this log or has no cosignature of the witness;
    /// `FailedPrecondition` when the log is shorter; `DataLoss` when a signature is wrong, or the checkpoint is not the
    /// beginning of the log; `ResourceExhausted` when there are too many.
    pub async fn cosign(&self, note: &[u8], witness: &VerifierKey) -> Result<SignedCheckpoint> {
        let signed = SignedCheckpoint::open(note, self.verifier())?;
        let name = witness.name();
        let (line, time) = signed.cosigned(witness)?.ok_or_else(|| {
            Error::invalid(format!("the checkpoint has no cosignature of {name} by this key"))
        })?;
        let latest = self.clock.now().micros() / 1_000_000 + i64::try_from(AHEAD.as_secs()).unwrap_or(0);
        if i64::try_from(time).is_ok_and(|time| time > latest) || i64::try_from(time).is_err() {
            return Err(Error::invalid(format!("the cosignature of {name} is of a time to come")));
        }
        let (size, edge) = (signed.checkpoint.size, self.tree.edge());
        if size > edge.size() {
            return Err(Error::precondition(format!(
                "the checkpoint has {size} entries and the log {}: entries were lost, or it was rolled back",
                edge.size()
            )));
        }
        if root_at(self, size, edge.size()).await? != signed.checkpoint.root {
            tracing::error!(size, "a checkpoint that this log signed is not the beginning of it");
            return Err(damaged("the checkpoint is not the beginning of this log: one of them was changed"));
        }
        let _turn = self.cosigning.lock().await;
        let kept = self.cosigned(size).await?;
        let mut kept = kept.unwrap_or_else(|| self.key.sign(size, signed.checkpoint.root));
        let others = kept.cosigned(witness)?.map(|(old, _)| old.clone());
        kept.note.signatures.retain(|old| Some(old) != others.as_ref());
        if kept.note.signatures.len() > MAX_WITNESSES {
            return Err(Error::new(
                claviger_core::ErrorKind::ResourceExhausted,
                format!("the checkpoint has {MAX_WITNESSES} cosignatures, and takes no more"),
            ));
        }
        kept.note.signatures.push(line.clone());
        let records = self.database.records().await;
        let last = records.get::<u64>(LAST_COSIGNED).await?.unwrap_or(0).max(size);
        let changes = RecordBatch::new().put(&cosigned_key(size), &kept.note.to_string())?;
        records.write(changes.put(LAST_COSIGNED, &last)?).await?;
        Ok(kept)
    }

    async fn cosigned(&self, size: u64) -> Result<Option<SignedCheckpoint>> {
        let note = self.database.records().await.get::<String>(&cosigned_key(size)).await?;
        note.map(|note| SignedCheckpoint::open(note.as_bytes(), self.verifier())).transpose()
    }

    async fn read_tile(&self, tile: Tile) -> Result<Option<Bytes>> {
        let edge = self.tree.edge();
        let there = Tile::at(tile.contents, tile.index, edge.size());
        if there.is_none_or(|there| there.width < tile.width) {
            return Ok(None);
        }
        let records = self.database.records().await;
        let width = usize::from(tile.width);
        match tile.contents {
            Contents::Entries => {
                let entries = tree::stored_after(&records, tile.start(), width).await?;
                if entries.len() != width {
                    return Err(damaged("the audit log ends before its last entry"));
                }
                encode_bundle(entries.iter().map(|entry| entry.get().as_bytes()))
                    .map(|bundle| Some(bundle.into()))
            }
            Contents::Hashes(level) if there.is_some_and(Tile::is_full) => {
                let hashes = tree::full_tile(&records, level, tile.index).await?;
                let hashes = hashes.ok_or_else(|| damaged("a tile of the audit log is missing"))?;
                Ok(hashes.get(..width).map(|hashes| Hash::join(hashes).into()))
            }
            Contents::Hashes(level) => {
                Ok(edge.partial(level).get(..width).map(|hashes| Hash::join(hashes).into()))
            }
        }
    }
}

#[async_trait]
impl Source for AuditLog {
    async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        if path == CHECKPOINT_PATH {
            return Ok(Some(self.checkpoint().await?.note.to_string().into()));
        }
        match Tile::parse(path) {
            Some(tile) => self.read_tile(tile).await,
            None => Ok(None),
        }
    }
}

fn cosigned_key(size: u64) -> String {
    format!("{COSIGNED}{size:020}")
}

#[cfg(test)]
mod tests;
