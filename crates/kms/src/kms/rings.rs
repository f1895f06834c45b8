//! Key rings, and the pages of lists.
//!
//! Invariant: a key ring is never changed, but for its policy, and never deleted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::iam::Policy;
use crate::model::{KeyRing, Page, PageRequest};
use crate::validate;

/// Items of a page when the request does not say.
const DEFAULT_PAGE: usize = 100;
/// Items of a page, at most.
const MAX_PAGE: usize = 1000;

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

/// Cuts a page out of items in order, each with the id that orders it.
pub(super) fn paginate<'a, T: 'a, V>(
    request: &PageRequest,
    items: impl Iterator<Item = (impl AsRef<str> + 'a, &'a T)>,
    view: impl Fn(&T) -> V,
) -> Result<Page<V>> {
    if !request.filter.trim().is_empty() {
        return Err(Error::unimplemented("Filters of lists are not built: ask without a filter."));
    }
    if !matches!(request.order_by.trim(), "" | "name" | "name asc") {
        return Err(Error::unimplemented("Lists are ordered by name; other orders are not built."));
    }
    let size = match usize::try_from(request.size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(Error::invalid_field("page_size", "must not be negative")),
    };
    let items: Vec<_> = items.collect();
    let start = if request.token.is_empty() {
        0
    } else {
        let wrong = || Error::invalid_field("page_token", "is not one that this list gave");
        let last = URL_SAFE_NO_PAD.decode(&request.token).ok().and_then(|id| String::from_utf8(id).ok());
        let last = last.ok_or_else(wrong)?;
        // Nothing is ever deleted, so the item that the page before ended with is still there.
        items.iter().position(|(id, _)| id.as_ref() == last).ok_or_else(wrong)? + 1
    };
    let rest = items.get(start..).unwrap_or_default();
    let shown = rest.get(..size).unwrap_or(rest);
    let next_token = match shown.last() {
        Some((id, _)) if shown.len() < rest.len() => URL_SAFE_NO_PAD.encode(id.as_ref()),
        _ => String::new(),
    };
    Ok(Page { items: shown.iter().map(|(_, item)| view(item)).collect(), next_token, total: items.len() })
}
