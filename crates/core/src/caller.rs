//! Who asks, and for what: travels with every use of a key into the audit log.

use std::collections::BTreeMap;

/// The identity behind a request, and the context that the audit log keeps with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// An IAM member such as `user:ada@example.com` or
    /// `serviceAccount:service-1@gcp-sa-bigtable.iam.gserviceaccount.com`.
    pub principal: String,
    /// Free labels for the audit entry: the resource that the key protects, a job's id.
    pub context: BTreeMap<String, String>,
}

impl Caller {
    /// The administrator of a server that listens on loopback only and has no other identities.
    pub const LOCAL_ADMIN: &str = "user:admin@claviger.local";

    /// A caller known by its IAM member name, without context.
    pub fn new(principal: impl Into<String>) -> Self {
        Self { principal: principal.into(), context: BTreeMap::new() }
    }

    /// The named local administrator (see [`Self::LOCAL_ADMIN`]).
    #[must_use]
    pub fn local_admin() -> Self {
        Self::new(Self::LOCAL_ADMIN)
    }

    /// Adds one label to the context.
    #[must_use]
    pub fn with(mut self, label: &str, value: impl Into<String>) -> Self {
        self.context.insert(label.to_owned(), value.into());
        self
    }
}
