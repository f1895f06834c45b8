//! What runs beside requests: bytes that no object has are removed, uploads expire, lifecycle rules are
//! applied, and idle vaults are closed.
//!
//! Invariant: bytes are removed only when their record under `x/` is there and nothing in this process
//! writes them. The record goes after the bytes are gone for good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use claviger_core::{ErrorKind, Result};
use claviger_sealed::engine::from_slatedb;
use slatedb::WriteBatch;

use crate::index::{self, LOOSE, Loose, UPLOAD};
use crate::lifecycle::{self, Action};
use crate::model::Object;
use crate::objects::list::batch_of_versions;
use crate::uploads::Session;
use crate::vault::OpenVault;
use crate::{Buckets, Entered, content, lock};

/// How long a vault stays open after its last use.
const IDLE: Duration = Duration::from_secs(60);
/// How often idle vaults are looked for, and failed sweeps tried again.
const IDLE_CHECK: Duration = Duration::from_secs(15);
/// How often all buckets are looked through.
const TOUR: Duration = Duration::from_secs(6 * 60 * 60);
/// Contents that one round of a sweep removes.
const ROUND: usize = 256;
/// Objects that are read at once for lifecycle rules.
const BATCH: usize = 1000;

impl Buckets {
    /// Does the work beside requests, for as long as the process runs.
    pub async fn run(self: Arc<Self>) {
        let mut tour = self.shared.clock.elapsed() + TOUR;
        loop {
            tokio::select! {
                () = self.to_sweep.notified() => {}
                () = self.shared.clock.sleep(IDLE_CHECK) => {
                    for vault in self.known_vaults() {
                        vault.resident().close_if_idle(IDLE).await;
                    }
                }
            }
            if self.shared.clock.elapsed() >= tour {
                tour = self.shared.clock.elapsed() + TOUR;
                self.tour().await;
            }
            self.sweep_dirty().await;
        }
    }

    /// Removes what is loose in all buckets that may have something. A bucket whose key is locked is tried
    /// again later.
    pub async fn sweep_dirty(&self) {
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        for bucket in dirty {
            match self.sweep(&bucket).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::debug!(%error, "a sweep is tried again later");
                    lock(&self.dirty).insert(bucket);
                }
            }
        }
    }

    /// Applies the lifecycle of all buckets, and has them all swept.
    pub async fn tour(&self) {
        for bucket in self.shared.catalog.buckets() {
            lock(&self.dirty).insert(bucket.name.clone());
            if bucket.config.lifecycle.is_some()
                && let Err(error) = self.apply_lifecycle(&bucket.name).await
            {
                tracing::debug!(%error, "a lifecycle is applied later");
            }
        }
        self.sweep_dirty().await;
    }

    async fn sweep(&self, name: &str) -> Result<()> {
        let entered = self.enter(name).await?;
        let home = &entered.home;
        self.expire_uploads(home).await?;
        let mut after = LOOSE.to_vec();
        loop {
            let mut found = Vec::new();
            let end = index::after(LOOSE);
            let rows = home.engine.scan_range(&after, Some(&end), false).await;
            let mut rows = rows.map_err(|e| home.explain(e))?;
            while found.len() < ROUND {
                let Some(row) = rows.next().await.map_err(|e| home.explain(from_slatedb(e)))? else { break };
                after = [row.key.as_ref(), &[0]].concat();
                let id = row.key.get(LOOSE.len()..).and_then(|id| std::str::from_utf8(id).ok());
                found.extend(id.map(str::to_owned));
            }
            drop(rows);
            if found.is_empty() {
                return Ok(());
            }
            self.remove_loose(&entered, found).await?;
        }
    }

    async fn remove_loose(&self, entered: &Entered, ids: Vec<String>) -> Result<()> {
        let home = &entered.home;
        let mut by_vault: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in ids {
            // First this: who is not active now has written its record, or never will.
            if lock(&self.active).contains(&id) {
                continue;
            }
            let Some(loose) = index::get::<Loose>(home, &index::loose_key(&id)).await? else { continue };
            if let Some(upload) = &loose.upload {
                let session: Option<Session> = index::get(home, &index::upload_key(upload)).await?;
                if session.is_some_and(|session| session.finished.is_none()) {
                    continue;
                }
            }
            by_vault.entry(loose.vault).or_default().push(id);
        }
        let mut failed = None;
        for (vault, ids) in by_vault {
            let removed = async {
                let vault = self.open_vault(&entered.bucket, &vault).await?;
                remove_contents(&vault, &ids).await?;
                let mut batch = WriteBatch::new();
                for id in &ids {
                    batch.delete(index::loose_key(id));
                }
                home.engine.commit(batch).await.map_err(|e| home.explain(e))
            };
            if let Err(error) = removed.await {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn expire_uploads(&self, home: &OpenVault) -> Result<()> {
        let now = self.shared.clock.now();
        let end = index::after(UPLOAD);
        let rows = home.engine.scan_range(UPLOAD, Some(&end), false).await;
        let mut rows = rows.map_err(|e| home.explain(e))?;
        let mut batch = WriteBatch::new();
        while let Some(row) = rows.next().await.map_err(|e| home.explain(from_slatedb(e)))? {
            let session: Session = index::decode(&row.value)?;
            if session.is_expired(now) && !lock(&self.active).contains(&session.content.id) {
                self.uploads.forget(&session.id);
                batch.delete(&row.key);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        home.engine.commit(batch).await.map_err(|e| home.explain(e))
    }

    async fn apply_lifecycle(&self, name: &str) -> Result<()> {
        let Some(rules) = self.bucket(name)?.config.lifecycle.clone() else { return Ok(()) };
        let rules = lifecycle::parse(&rules)?;
        let mut after: Option<(String, i64)> = None;
        // Versions of a name that came before, oldest first; those that follow are newer.
        let mut group: Vec<Object> = Vec::new();
        loop {
            let entered = self.enter(name).await?;
            let last = after.as_ref().map(|(name, generation)| (name.as_str(), *generation));
            let batch = batch_of_versions(&entered.home, last, BATCH).await?;
            drop(entered);
            let ended = batch.len() < BATCH;
            for object in batch {
                after = Some((object.name.clone(), object.generation));
                if group.first().is_some_and(|first| first.name != object.name) {
                    self.apply_rules(name, &rules, std::mem::take(&mut group)).await?;
                }
                group.push(object);
            }
            if ended {
                return self.apply_rules(name, &rules, group).await;
            }
        }
    }

    /// Applies rules to all versions of one object.
    async fn apply_rules(
        &self,
        bucket: &str,
        rules: &[lifecycle::Rule],
        versions: Vec<Object>,
    ) -> Result<()> {
        let now = self.shared.clock.now();
        let count = versions.len();
        for (at, object) in versions.into_iter().enumerate() {
            let action = lifecycle::decide(rules, &object, count - at - 1, now);
            let Some(action) = action else { continue };
            let entered = self.enter(bucket).await?;
            let _turn = self.own_name(bucket, &object.name).await?;
            let found = index::version(&entered.home, &object.name, Some(object.generation)).await?;
            let Some(mut found) = found.filter(|found| found.metageneration == object.metageneration) else {
                continue;
            };
            match action {
                Action::Delete => match self.remove(&entered, found, true).await {
                    // What must be kept is kept.
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                    result => result?,
                },
                Action::SetStorageClass(class) => {
                    found.metadata.storage_class = Some(class);
                    found.metageneration += 1;
                    found.updated = now;
                    let key = match found.deleted {
                        None => index::live_key(&found.name),
                        Some(_) => index::archived_key(&found.name, found.generation),
                    };
                    let mut batch = WriteBatch::new();
                    batch.put(key, index::encode(&found)?);
                    let home = &entered.home;
                    home.engine.commit(batch).await.map_err(|e| home.explain(e))?;
                }
            }
        }
        Ok(())
    }
}

/// Removes contents from their vault, for good.
async fn remove_contents(vault: &OpenVault, ids: &[String]) -> Result<()> {
    let mut batch = WriteBatch::new();
    for id in ids {
        content::remove_files(vault, id).await?;
        batch.delete(index::content_key(id));
    }
    vault.engine.commit(batch).await.map_err(|e| vault.explain(e))?;
    vault.store.flush().await.map_err(|e| vault.explain(e))
}
