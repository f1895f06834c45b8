//! Key rings.
//!
//! Invariant: a key ring is never changed, but for its policy, and never deleted.

use super::*;
use crate::iam::Policy;
use crate::lists::paginate;
use crate::model::{KeyRing, Page, PageRequest};
use crate::validate;

impl Kms {
    /// Makes a key ring.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument`, `PermissionDenied`.
    pub async fn create_key_ring(&self, caller: &Caller, parent: &LocationName, id: &str) -> Result<KeyRing> {
        validate::id("key_ring_id", id)?;
        let name = KeyRingName::new(parent.project(), parent.location(), id)?;
        let (caller, parent) = (caller.clone(), parent.clone());
        self.change(Call::new(&caller, "CreateKeyRing", &name), move |index, now| {
            authorise(index, &caller, "cloudkms.keyRings.create", On::Location(&parent))?;
            new_ring(index, name, now)
        })
        .await
    }

    /// A key ring.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub fn get_key_ring(&self, caller: &Caller, name: &KeyRingName) -> Result<KeyRing> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.keyRings.get", On::Ring(name))?;
        Ok(index.ring(name)?.ring.clone())
    }

    /// The key rings of a location, in the order of their names.
    ///
    /// # Errors
    /// `InvalidArgument` for a page that was not asked for in this way, `PermissionDenied`.
    pub fn list_key_rings(
        &self,
        caller: &Caller,
        parent: &LocationName,
        page: &PageRequest,
    ) -> Result<Page<KeyRing>> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.keyRings.list", On::Location(parent))?;
        let prefix = format!("{parent}/keyRings/");
        paginate(
            page,
            &prefix,
            Index::children(&index.rings, &prefix).map(|(id, entry)| (id, &entry.ring)),
            Clone::clone,
        )
    }
}

/// Plans a key ring.
pub(super) fn new_ring(index: &Index, name: KeyRingName, now: Timestamp) -> Result<Plan<KeyRing>> {
    if index.rings.contains_key(name.as_str()) {
        return Err(texts::exists("KeyRing", name.as_str()));
    }
    let ring = KeyRing { name, create_time: now };
    Ok(Plan::ring(RingEntry { ring: ring.clone(), policy: Policy::default() }, ring))
}
