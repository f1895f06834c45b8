//! Who calls.
//!
//! Invariant: a server without authentication listens on loopback only (the configuration refuses anything
//! else), so whoever reaches it is the local administrator. No header changes that.

use claviger_core::{Caller, Result};
use tonic::metadata::MetadataMap;

/// The identity behind a request's metadata.
///
/// # Errors
/// None while all callers are local.
pub(crate) fn caller(_metadata: &MetadataMap) -> Result<Caller> {
    Ok(Caller::local_admin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_makes_no_one_another() {
        let mut metadata = MetadataMap::new();
        for header in ["authorization", "x-goog-user-project", "x-goog-authenticated-user-email"] {
            metadata.insert(header, "Bearer user:ada@example.com".parse().unwrap());
        }
        assert_eq!(caller(&metadata).unwrap().principal, Caller::LOCAL_ADMIN);
    }
}
