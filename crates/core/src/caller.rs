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
    /// Whether no policy binds them. Not told by the name: only [`Self::local_admin`] and whoever checked an identity
    /// say so.
    administrator: bool,
}

impl Caller {
    /// The administrator of a server that listens on loopback only and has no other identities.
    pub const LOCAL_ADMIN: &str = "user:admin@claviger.local";

    /// A caller known by its IAM member name, without context.
    pub fn new(principal: impl Into<String>) -> Self {
        Self { principal: principal.into(), context: BTreeMap::new(), administrator: false }
    }

    /// An administrator known by its IAM member name: no policy binds them.
    pub fn administrator(principal: impl Into<String>) -> Self {
        Self { administrator: true, ..Self::new(principal) }
    }

    /// The named local administrator (see [`Self::LOCAL_ADMIN`]).
    #[must_use]
    pub fn local_admin() -> Self {
        Self::administrator(Self::LOCAL_ADMIN)
    }

    /// Whether no policy binds them.
    #[must_use]
    pub fn is_administrator(&self) -> bool {
        self.administrator
    }

    /// The same caller with all of a context.
    #[must_use]
    pub fn within(self, context: BTreeMap<String, String>) -> Self {
        Self { context, ..self }
    }

    /// Adds one label to the context.
    #[must_use]
    pub fn with(mut self, label: &str, value: impl Into<String>) -> Self {
        self.context.insert(label.to_owned(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_makes_no_one_an_administrator() {
        assert!(!Caller::new(Caller::LOCAL_ADMIN).is_administrator());
        assert!(Caller::local_admin().with("job", "7").is_administrator());
        assert!(Caller::administrator("user:ada@example.com").within(BTreeMap::new()).is_administrator());
    }
}
