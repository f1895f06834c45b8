//! Buckets: make, change, remove; and the keys that protect them.
//!
//! Invariant: every check comes before the first change, and a refused request changed nothing.

use std::collections::HashSet;
use std::sync::Arc;

use claviger_cmek::{KeyState, ScopeSpec};
use claviger_core::names::{CryptoKeyName, ProjectName};
use claviger_core::{Error, ErrorKind, Result};
use claviger_sealed::engine::from_slatedb;
use claviger_sealed::scope::ScopeId;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::WriteBatch;

use crate::model::{
    Bucket, BucketConfig, Conditions, DEFAULT_CLASS, MAX_LABELS, Policy, VaultRecord, check_class,
};
use crate::names::{Location, check_bucket};
use crate::vault::OpenVault;
use crate::{Buckets, VAULTS, errors, index, lifecycle, lock};

/// Bytes that one batch aims at while an index moves.
const BATCH_BYTES: usize = 1024 * 1024;

/// What a new bucket is to be.
#[derive(Clone, Debug)]
pub struct BucketSpec {
    /// The project that owns it.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// What its users set.
    pub config: BucketConfig,
}

impl Buckets {
    /// Makes a bucket, with the vault of its default key.
    ///
    /// # Errors
    /// `InvalidArgument` for the name, the configuration or a key of another place, `AlreadyExists`,
    /// `PermissionDenied` when the service agent may not use the key, `FailedPrecondition` when a policy of the
    /// project refuses the key, or that there is none.
    pub async fn create_bucket(&self, spec: BucketSpec) -> Result<Arc<Bucket>> {
        check_bucket(&spec.name)?;
        ProjectName::new(&spec.project)?;
        let mut config = spec.config;
        if config.storage_class.is_empty() {
            DEFAULT_CLASS.clone_into(&mut config.storage_class);
        }
        check_config(&config)?;
        let project_number = self.directory.project_number(&spec.project).await?;
        let right = self.shared.catalog.change().await;
        if self.bucket(&spec.name).is_ok() {
            return Err(Error::already_exists(
                "Your previous request to create the named bucket succeeded and you already own it.",
            ));
        }
        let now = self.shared.clock.now();
        let mut bucket = Bucket {
            name: spec.name,
            project: spec.project,
            project_number,
            location: spec.location,
            config,
            policy: Policy { version: 1, ..Policy::default() },
            created: now,
            updated: now,
            metageneration: 1,
            vaults: Default::default(),
            index: String::new(),
        };
        self.directory
            .admit(&bucket.project, bucket.config.kms_key.as_ref(), "storage.buckets.create")
            .await?;
        if let Some(key) = &bucket.config.kms_key {
            self.check_key(&bucket, key).await?;
        }
        let kms_key = bucket.config.kms_key.clone();
        bucket.index = self.create_vault(&mut bucket, kms_key).await?;
        self.shared.catalog.put(&right, bucket).await
    }

    /// Changes what users set on a bucket. A new default key protects new objects, and the index of all;
    /// objects that are there stay under their keys.
    ///
    /// # Errors
    /// `NotFound`, a condition that does not hold, what [`Self::create_bucket`] refuses; the lock of the
    /// former key, because the index has to be read.
    pub async fn update_bucket(
        &self,
        name: &str,
        conditions: &Conditions,
        change: impl FnOnce(&mut BucketConfig) -> Result<()> + Send,
    ) -> Result<Arc<Bucket>> {
        self.bucket(name)?;
        let _gate = self.gate(name).write_owned().await;
        let bucket = self.bucket(name)?;
        conditions.check(Some((bucket.created.micros(), bucket.metageneration)))?;
        let mut config = bucket.config.clone();
        change(&mut config)?;
        check_config(&config)?;
        check_retention(&bucket, &config)?;
        let index = if config.kms_key == bucket.config.kms_key {
            bucket.index.clone()
        } else {
            self.directory.admit(&bucket.project, config.kms_key.as_ref(), "storage.buckets.update").await?;
            if let Some(key) = &config.kms_key {
                self.check_key(&bucket, key).await?;
            }
            let to = self.ensure_vault(name, config.kms_key.as_ref()).await?;
            self.copy_index(name, &to).await?;
            to
        };
        let right = self.shared.catalog.change().await;
        let mut changed = Bucket::clone(&*self.bucket(name)?);
        let left = std::mem::replace(&mut changed.index, index);
        changed.config = config;
        self.touch(&mut changed);
        let changed = self.shared.catalog.put(&right, changed).await?;
        drop(right);
        if left != changed.index {
            let old = self.open_vault(&changed, &left).await;
            let cleared = async { clear_index(&*old?).await }.await;
            if let Err(error) = cleared {
                // It is sealed under the former key, and removed before the index moves back.
                tracing::warn!(scope = left, %error, "a moved index was not removed");
            }
        }
        Ok(changed)
    }

    /// Sets who may do what.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when the policy was changed since the caller read it.
    pub async fn set_policy(
        &self,
        name: &str,
        bindings: Vec<serde_json::Value>,
        version: u32,
        expected_revision: Option<u64>,
    ) -> Result<Arc<Bucket>> {
        self.bucket(name)?;
        let _gate = self.gate(name).write_owned().await;
        let right = self.shared.catalog.change().await;
        let mut bucket = Bucket::clone(&*self.bucket(name)?);
        if expected_revision.is_some_and(|expected| expected != bucket.policy.revision) {
            return Err(errors::condition_not_met());
        }
        let revision = bucket.policy.revision + 1;
        bucket.policy = Policy { bindings, revision, version: version.max(1) };
        self.touch(&mut bucket);
        self.shared.catalog.put(&right, bucket).await
    }

    /// Makes the retention policy of a bucket final.
    ///
    /// # Errors
    /// `NotFound`, a condition that does not hold, `InvalidArgument` when there is no such policy.
    pub async fn lock_retention(&self, name: &str, conditions: &Conditions) -> Result<Arc<Bucket>> {
        self.update_bucket(name, conditions, |config| match &mut config.retention {
            Some(retention) => {
                retention.locked = true;
                Ok(())
            }
            None => Err(Error::invalid("Bucket does not have a retention policy to lock.")),
        })
        .await
    }

    /// Removes an empty bucket and shreds its keys. A bucket whose index is under a destroyed key is
    /// empty: nobody can read what was in it.
    ///
    /// # Errors
    /// `NotFound`, a condition that does not hold, `FailedPrecondition` with the violation
    /// [`errors::NOT_EMPTY`], or the lock of the default key.
    pub async fn delete_bucket(&self, name: &str, conditions: &Conditions) -> Result<()> {
        self.bucket(name)?;
        let gate = self.gate(name).write_owned().await;
        let bucket = self.bucket(name)?;
        conditions.check(Some((bucket.created.micros(), bucket.metageneration)))?;
        let scope = self.shared.keys.scope(&ScopeId::new(&bucket.index)).await?;
        if !matches!(scope.state(), KeyState::Destroyed { .. }) {
            let home = self.open_vault(&bucket, &bucket.index).await?;
            if index::any(&home, index::LIVE).await? || index::any(&home, index::ARCHIVED).await? {
                return Err(errors::not_empty());
            }
        }
        let right = self.shared.catalog.change().await;
        self.shared.catalog.remove(&right, name).await?;
        drop(right);
        lock(&self.gates).remove(name);
        drop(gate);
        for id in bucket.vaults.keys() {
            self.shred(id).await?;
        }
        Ok(())
    }

    fn touch(&self, bucket: &mut Bucket) {
        bucket.metageneration += 1;
        bucket.updated = self.shared.clock.now();
    }

    /// The vault of a key, made now if need be: the key is checked first.
    pub(crate) async fn ensure_vault(&self, name: &str, key: Option<&CryptoKeyName>) -> Result<String> {
        let bucket = self.bucket(name)?;
        if let Some(id) = bucket.vault_of(key) {
            return Ok(id.to_owned());
        }
        if let Some(key) = key {
            self.check_key(&bucket, key).await?;
        }
        let right = self.shared.catalog.change().await;
        let mut bucket = Bucket::clone(&*self.bucket(name)?);
        if let Some(id) = bucket.vault_of(key) {
            return Ok(id.to_owned());
        }
        let id = self.create_vault(&mut bucket, key.cloned()).await?;
        self.shared.catalog.put(&right, bucket).await?;
        Ok(id)
    }

    /// A new scope for what is under a key in a bucket; the caller stores the bucket.
    async fn create_vault(&self, bucket: &mut Bucket, kms_key: Option<CryptoKeyName>) -> Result<String> {
        let id = format!("{VAULTS}/{}", uuid::Uuid::new_v4().simple());
        let (key, caller) = match &kms_key {
            Some(key) => (key.clone(), self.directory.agent(&bucket.project).await?),
            None => self.directory.managed_key(&bucket.location.key_location()).await?,
        };
        let spec = ScopeSpec {
            id: ScopeId::new(&id),
            key,
            customer_managed: kms_key.is_some(),
            caller,
            resource: bucket.resource(),
        };
        self.shared.keys.create_scope(spec).await?;
        bucket.vaults.insert(id.clone(), VaultRecord { kms_key, opened: false });
        Ok(id)
    }

    /// Checks that a key may protect something in a bucket.
    async fn check_key(&self, bucket: &Bucket, key: &CryptoKeyName) -> Result<()> {
        let wanted = bucket.location.key_location();
        if key.location() != wanted {
            return Err(errors::key_location(key, &bucket.name, bucket.location.as_str(), &wanted));
        }
        let agent = self.directory.agent(&bucket.project).await?;
        self.directory.try_key(&agent, key).await.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => errors::key_denied(key, &agent.principal, error),
            ErrorKind::NotFound => errors::key_not_found(key, error),
            ErrorKind::FailedPrecondition => errors::key_disabled(key, error),
            _ => error,
        })
    }

    /// Copies the index of a bucket to another of its vaults. The caller holds the gate alone.
    async fn copy_index(&self, name: &str, to: &str) -> Result<()> {
        let bucket = self.bucket(name)?;
        let from = self.open_vault(&bucket, &bucket.index).await?;
        let to = self.open_vault(&bucket, to).await?;
        // A copy that was cut short may have left a part.
        clear_index(&to).await?;
        for prefix in index::MOVING {
            let end = index::after(prefix);
            let rows = from.engine.scan_range(prefix, Some(&end), false).await;
            let mut rows = rows.map_err(|e| from.explain(e))?;
            let mut batch = WriteBatch::new();
            let mut bytes = 0;
            loop {
                let row = rows.next().await.map_err(|e| from.explain(from_slatedb(e)))?;
                from.guard()?;
                let done = row.is_none();
                if let Some(row) = row {
                    bytes += row.key.len() + row.value.len();
                    batch.put_bytes(row.key, row.value);
                }
                if !batch.is_empty() && (done || bytes >= BATCH_BYTES) {
                    bytes = 0;
                    to.engine.commit(std::mem::take(&mut batch)).await.map_err(|e| to.explain(e))?;
                }
                if done {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Forgets the key of a vault and removes its files. The key goes first: once this returned, or was
    /// cut short after it, the bytes on disk open to nobody.
    async fn shred(&self, id: &str) -> Result<()> {
        let vault = self.vaults.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
        self.forget_key(id).await?;
        if let Some(vault) = vault {
            vault.resident().discard().await;
        }
        self.remove_files(id).await;
        Ok(())
    }

    async fn forget_key(&self, id: &str) -> Result<()> {
        match self.shared.keys.delete_scope(&ScopeId::new(id)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Removes a vault's files. What is left after an error or a crash goes at the next start.
    async fn remove_files(&self, id: &str) {
        let files = self.shared.files.clone();
        let listed = files.list(Some(&Path::from(id))).map_ok(|meta| meta.location).boxed();
        let removed = files.delete_stream(listed).try_for_each(|_| std::future::ready(Ok(()))).await;
        if let Err(error) = removed {
            tracing::warn!(scope = id, %error, "files of a removed bucket are left for the next start");
        }
    }

    /// Removes vaults that no bucket has: a crash came between the record and the files.
    pub(crate) async fn remove_orphans(&self) -> Result<()> {
        let buckets = self.shared.catalog.buckets();
        let known: HashSet<&str> =
            buckets.iter().flat_map(|bucket| bucket.vaults.keys().map(String::as_str)).collect();
        let listed = self.shared.files.list_with_delimiter(Some(&Path::from(VAULTS))).await;
        let listed = listed.map_err(claviger_sealed::from_store)?;
        for directory in listed.common_prefixes {
            if !known.contains(directory.as_ref()) {
                tracing::info!(scope = directory.as_ref(), "removing what is left of a deleted bucket");
                self.forget_key(directory.as_ref()).await?;
                self.remove_files(directory.as_ref()).await;
            }
        }
        Ok(())
    }
}

/// Removes the index from a vault that is not the home any more.
pub(crate) async fn clear_index(vault: &OpenVault) -> Result<()> {
    for prefix in index::MOVING {
        let end = index::after(prefix);
        let rows = vault.engine.scan_range(prefix, Some(&end), false).await;
        let mut rows = rows.map_err(|e| vault.explain(e))?;
        let mut batch = WriteBatch::new();
        let mut bytes = 0;
        loop {
            let row = rows.next().await.map_err(|e| vault.explain(from_slatedb(e)))?;
            let done = row.is_none();
            if let Some(row) = row {
                bytes += row.key.len();
                batch.delete(&row.key);
            }
            if !batch.is_empty() && (done || bytes >= BATCH_BYTES) {
                bytes = 0;
                vault.engine.commit(std::mem::take(&mut batch)).await.map_err(|e| vault.explain(e))?;
            }
            if done {
                break;
            }
        }
    }
    Ok(())
}

fn check_config(config: &BucketConfig) -> Result<()> {
    check_class(&config.storage_class)?;
    if config.labels.len() > MAX_LABELS {
        return Err(Error::invalid(format!("A bucket has at most {MAX_LABELS} labels.")));
    }
    for (key, value) in &config.labels {
        let fits = |text: &str| {
            text.chars().count() <= 63
                && text
                    .chars()
                    .all(|c| c.is_lowercase() || c.is_numeric() || matches!(c, '_' | '-') || !c.is_ascii())
        };
        if key.is_empty()
            || !key.starts_with(|c: char| c.is_lowercase() || !c.is_ascii())
            || !fits(key)
            || !fits(value)
        {
            return Err(Error::invalid(format!("Invalid label: '{key}'")));
        }
    }
    if let Some(rules) = &config.lifecycle {
        lifecycle::parse(rules)?;
    }
    Ok(())
}

/// A locked policy may only grow.
fn check_retention(bucket: &Bucket, config: &BucketConfig) -> Result<()> {
    let Some(locked) = bucket.config.retention.as_ref().filter(|retention| retention.locked) else {
        return Ok(());
    };
    let kept = config
        .retention
        .as_ref()
        .is_some_and(|new| new.locked && new.period_seconds >= locked.period_seconds);
    if kept {
        Ok(())
    } else {
        Err(Error::permission_denied(format!(
            "Cannot reduce retention duration of a locked Retention Policy for bucket '{}'.",
            bucket.name
        )))
    }
}
