//! Whose key protects what: scopes, the generations of a scope's key, and how a store asks for them.
//!
//! Invariant: a store holds no key of its own. It asks [`ScopeKeys`] on every operation, so that a
//! lock is felt by the next one.

use std::fmt::{self, Debug};
use std::sync::Arc;

use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::SecretKey;
use serde::{Deserialize, Serialize};

/// Names what a key protects, as `bigtable/<uuid>`, `platform` or `kms`. Bound into every file's
/// context, so that a file of one scope does not open in another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScopeId(String);

impl ScopeId {
    /// The scope of that name; any text is one.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which generation of a scope's key: never reused within the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub u32);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One generation of a scope's intermediate key.
pub struct ScopeKey {
    /// Which generation.
    pub id: KeyId,
    secret: SecretKey,
}

impl ScopeKey {
    /// The generation `id`, with its key.
    #[must_use]
    pub fn new(id: KeyId, secret: SecretKey) -> Self {
        Self { id, secret }
    }

    /// The key itself.
    #[must_use]
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }
}

impl Debug for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeKey({})", self.id)
    }
}

/// The keys of one scope, as a sealed store sees them.
pub trait ScopeKeys: Send + Sync + Debug {
    /// Which scope.
    fn scope(&self) -> &ScopeId;

    /// The key for new files. Asked on every operation of a store: it must be cheap.
    ///
    /// # Errors
    /// `FailedPrecondition` that names the customer's key while the scope is locked.
    fn current(&self) -> Result<Arc<ScopeKey>>;

    /// The key that a file names.
    ///
    /// # Errors
    /// `FailedPrecondition` while the scope is locked, `DataLoss` when it never had such a key.
    fn by_id(&self, id: KeyId) -> Result<Arc<ScopeKey>>;
}

/// One key that never locks: for the KMS's own records under the root key, and for tests.
#[derive(Debug)]
pub struct FixedKey {
    scope: ScopeId,
    key: Arc<ScopeKey>,
}

impl FixedKey {
    /// The only key of `scope`, as generation 1.
    #[must_use]
    pub fn new(scope: ScopeId, secret: SecretKey) -> Self {
        Self { scope, key: Arc::new(ScopeKey::new(KeyId(1), secret)) }
    }
}

impl ScopeKeys for FixedKey {
    fn scope(&self) -> &ScopeId {
        &self.scope
    }

    fn current(&self) -> Result<Arc<ScopeKey>> {
        Ok(self.key.clone())
    }

    fn by_id(&self, id: KeyId) -> Result<Arc<ScopeKey>> {
        if id == self.key.id {
            return Ok(self.key.clone());
        }
        Err(Error::new(ErrorKind::DataLoss, format!("{} has no key of generation {id}", self.scope)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_key_answers_for_its_own_generation_only() {
        let keys = FixedKey::new(ScopeId::new("kms"), SecretKey::random().unwrap());
        assert_eq!(keys.by_id(KeyId(1)).unwrap().id, keys.current().unwrap().id);
        let unknown = keys.by_id(KeyId(2)).unwrap_err();
        assert_eq!(
            (unknown.kind(), unknown.message()),
            (ErrorKind::DataLoss, "kms has no key of generation 2")
        );
    }
}
