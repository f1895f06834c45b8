//! The root seals of the open KMS: who may see and change them, and the audit entries of it.
//!
//! Invariant: the audit entry of a change is durable before the change is made. Only an administrator changes
//! seals. No entry holds a secret.

use super::*;
use crate::seal::{AddedSeal, NewSeal, SealInfo};

/// The service of these entries in the audit log.
const SEAL_SERVICE: &str = "seal.claviger.local";
/// The label of entries with the seal's kind.
const KIND: &str = "seal_kind";

impl Kms {
    /// The seals, any one of which opens this KMS.
    pub async fn seals(&self) -> Vec<SealInfo> {
        self.inner.seals.list().await
    }

    /// Makes a seal, in the place of another one or beside all. No key changes.
    ///
    /// # Errors
    /// - `PermissionDenied`: the caller is no administrator.
    /// - `NotFound`: there is no seal to replace.
    /// - `InvalidArgument`: a key file that holds no key, numbers of shares that cannot be.
    /// - `AlreadyExists`: `root.key` is a seal already. `ResourceExhausted`: there are too many seals.
    /// - What a key elsewhere answers, and what the store does.
    pub async fn add_seal(&self, caller: &Caller, new: NewSeal, replace: Option<u32>) -> Result<AddedSeal> {
        admit(caller)?;
        let (inner, caller) = (self.inner.clone(), caller.clone());
        detached(async move {
            let turn = inner.seals.turn().await;
            let change = turn.add(&new, replace, inner.clock.now()).await?;
            inner.audit_seal(&caller, "AddSeal", &change.seal).await?;
            turn.commit(change).await
        })
        .await
    }

    /// Removes a seal. What it opened before, it does not open any more; copies of the directory from before it does.
    ///
    /// # Errors
    /// `PermissionDenied` as for [`Kms::add_seal`]; `NotFound` when there is no such seal; `FailedPrecondition` when it
    /// is the last one.
    pub async fn remove_seal(&self, caller: &Caller, id: u32) -> Result<()> {
        admit(caller)?;
        let (inner, caller) = (self.inner.clone(), caller.clone());
        detached(async move {
            let turn = inner.seals.turn().await;
            let change = turn.remove(id)?;
            inner.audit_seal(&caller, "RemoveSeal", &change.seal).await?;
            turn.commit(change).await
        })
        .await
    }

    /// Notes that a caller unsealed the KMS, which could not be noted before it was open.
    ///
    /// # Errors
    /// What the audit log's store answers.
    pub async fn note_unseal(&self, caller: &Caller, seal: &SealInfo) -> Result<()> {
        self.inner.audit_seal(caller, "Unseal", seal).await
    }
}

impl Inner {
    async fn audit_seal(&self, caller: &Caller, method: &str, seal: &SealInfo) -> Result<()> {
        let resource = format!("projects/{MANAGED_PROJECT}/seals/{}", seal.id);
        let caller = caller.clone().with(KIND, seal.kind.as_str());
        self.audit.append(Entry::new(SEAL_SERVICE, method, resource, &caller)).await.map(drop)
    }
}

fn admit(caller: &Caller) -> Result<()> {
    if caller.is_administrator() {
        return Ok(());
    }
    Err(Error::permission_denied("Only an administrator changes the seals of the KMS."))
}
