//! Administration: what makes, changes and removes instances, clusters, tables and app profiles.
//!
//! Invariant: every check comes before the first change, and a refused request changed nothing.

pub(crate) mod clusters;
mod ids;
pub(crate) mod instances;
pub(crate) mod profiles;
pub(crate) mod tables;

use claviger_core::names::{CryptoKeyName, InstanceName};
use claviger_core::{Error, ErrorKind, Result};
use claviger_sealed::scope::ScopeId;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use crate::Bigtable;
use crate::catalog::Table;

/// The directory of all tablets, and the first part of their scopes' names.
const TABLETS: &str = "bigtable";

impl Bigtable {
    /// Forgets the keys of tablets and removes their files. The keys go first: once this returned, or
    /// was cut short after them, the bytes on disk open to nobody.
    async fn shred(&self, scopes: Vec<ScopeId>) -> Result<()> {
        for id in scopes {
            let tablet = {
                let mut tablets = self.tablets();
                tablets.by_table.retain(|_, tablet| tablet.id() != &id);
                tablets.by_scope.remove(id.as_str())
            };
            self.forget_key(&id).await?;
            if let Some(tablet) = tablet {
                tablet.resident().discard().await;
            }
            self.remove_files(&id).await;
        }
        Ok(())
    }

    /// Forgets a scope's key, if it is not forgotten yet.
    async fn forget_key(&self, id: &ScopeId) -> Result<()> {
        match self.shared.keys.delete_scope(id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Removes a tablet's files. What is left after an error or a crash goes at the next start.
    async fn remove_files(&self, id: &ScopeId) {
        let files = self.shared.files.clone();
        let listed = files.list(Some(&Path::from(id.as_str()))).map_ok(|meta| meta.location).boxed();
        let removed = files.delete_stream(listed).try_for_each(|_| std::future::ready(Ok(()))).await;
        if let Err(error) = removed {
            tracing::warn!(scope = %id, %error, "files of a removed table are left for the next start");
        }
    }

    /// Removes tablets that no table has: a crash came between the record and the files.
    pub(crate) async fn remove_orphans(&self) -> Result<()> {
        let known: std::collections::HashSet<String> = self
            .catalog
            .all_tables()
            .iter()
            .flat_map(|t| scopes(t))
            .map(|id| id.as_str().to_owned())
            .collect();
        let listed = self
            .shared
            .files
            .list_with_delimiter(Some(&Path::from(TABLETS)))
            .await
            .map_err(|e| Error::new(ErrorKind::Unavailable, "the storage does not answer").because(e))?;
        for directory in listed.common_prefixes {
            if !known.contains(directory.as_ref()) {
                let id = ScopeId::new(directory.as_ref());
                tracing::info!(scope = %id, "removing what is left of a deleted table");
                self.forget_key(&id).await?;
                self.remove_files(&id).await;
            }
        }
        Ok(())
    }

    /// Checks that a key may protect something of `project` in `region`; `what` says what.
    async fn check_key(&self, project: &str, key: &CryptoKeyName, region: &str, zone: &str) -> Result<()> {
        if key.location() != region {
            return Err(Error::precondition(format!(
                "CMEK key {key} cannot be used to protect a cluster in zone {zone}: the key is in {}, the zone is in {region}.",
                key.location()
            ))
            .violating("CMEK_REGION", key.as_str(), "the key must be in the region of the cluster"));
        }
        let agent = self.directory.agent(project).await?;
        self.directory.try_key(&agent, key).await.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                let member = &agent.principal;
                Error::precondition(format!(
                    "The Bigtable service agent {member} cannot use the CMEK key {key}: grant it roles/cloudkms.cryptoKeyEncrypterDecrypter on the key, which must exist."
                ))
                .violating("CMEK_PERMISSION_DENIED", key.as_str(), error.message())
                .because(error)
            }
            ErrorKind::NotFound => Error::not_found(format!("CMEK key {key} does not exist.")).because(error),
            _ => error,
        })
    }

    /// Refuses while a tablet of the instance is locked (B7).
    async fn refuse_while_locked(&self, instance: &InstanceName) -> Result<()> {
        for table in self.catalog.tables(instance) {
            for id in scopes(&table) {
                self.shared.keys.scope(&id).await?.guard()?;
            }
        }
        Ok(())
    }
}

/// The scopes of a table's tablets.
fn scopes(table: &Table) -> Vec<ScopeId> {
    table.tablets.values().map(|tablet| ScopeId::new(&tablet.scope)).collect()
}
