//! Policies on key rings and keys, the roles that they grant, and who a member is.
//!
//! Invariant: access is granted by a binding that is there and by nothing else. What cannot be
//! evaluated (conditions, groups, unknown roles) is refused when it is set, not ignored when asked.
//! The administrator's roles do not include the use of keys, as in Cloud KMS.

use claviger_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Encrypt.
pub(crate) const USE_TO_ENCRYPT: &str = "cloudkms.cryptoKeyVersions.useToEncrypt";
/// Decrypt.
pub(crate) const USE_TO_DECRYPT: &str = "cloudkms.cryptoKeyVersions.useToDecrypt";

/// ImportCryptoKeyVersion, on the import job.
pub(crate) const USE_TO_IMPORT: &str = "cloudkms.importJobs.useToImport";

/// Making a key whose material is behind a connection.
pub(crate) const USE_CONNECTION: &str = "cloudkms.ekmConnections.use";

/// Bindings of one policy, at most.
const MAX_BINDINGS: usize = 1500;
/// Members of all bindings of one policy, at most.
const MAX_MEMBERS: usize = 1500;
/// Bytes of a member's name after its kind, at most: an issuer and a subject, or an address.
const MAX_MEMBER_NAME: usize = 512;
/// The etag of a policy that was never set, as Google's.
const EMPTY_ETAG: [u8; 3] = [0x00, 0x20, 0x01];

/// What one role on a resource gives to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// As `roles/cloudkms.cryptoKeyEncrypterDecrypter`.
    pub role: String,
    /// As `user:ada@example.com`.
    pub members: Vec<String>,
    /// Whether the binding has a condition; it is refused then.
    #[serde(skip)]
    pub conditional: bool,
}

/// The policy of a key ring or key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// 0, 1 or 3; all mean the same without conditions.
    pub version: i32,
    /// Who has which role.
    pub bindings: Vec<Binding>,
    /// Differs after each change. Empty in a request: set whatever is there.
    pub etag: Vec<u8>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { version: 1, bindings: Vec::new(), etag: EMPTY_ETAG.to_vec() }
    }
}

impl Policy {
    /// A policy to set whatever is there, with one binding.
    #[must_use]
    pub fn granting(role: &str, member: &str) -> Self {
        let members = vec![member.to_owned()];
        let binding = Binding { role: role.to_owned(), members, conditional: false };
        Self { version: 1, bindings: vec![binding], etag: Vec::new() }
    }

    /// This policy in place of `old`, with an etag of its own.
    ///
    /// # Errors
    /// `Aborted` when `old` is not the policy that this one was made from; `InvalidArgument` or
    /// `Unimplemented` for bindings that cannot be evaluated.
    pub(crate) fn replacing(mut self, old: &Self) -> Result<Self> {
        if !self.etag.is_empty() && self.etag != old.etag {
            return Err(Error::new(
                ErrorKind::Aborted,
                "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff.",
            ));
        }
        self.check()?;
        self.bindings.retain(|binding| !binding.members.is_empty());
        if self.version == 0 {
            self.version = 1;
        }
        self.etag = Uuid::new_v4().as_bytes()[..8].to_vec();
        Ok(self)
    }

    fn check(&self) -> Result<()> {
        if !matches!(self.version, 0 | 1 | 3) {
            return Err(Error::invalid_field("policy.version", "must be 0, 1 or 3"));
        }
        let members: usize = self.bindings.iter().map(|b| b.members.len()).sum();
        if self.bindings.len() > MAX_BINDINGS || members > MAX_MEMBERS {
            return Err(Error::invalid_field(
                "policy.bindings",
                format!("at most {MAX_MEMBERS} members are allowed"),
            ));
        }
        for binding in &self.bindings {
            if binding.conditional {
                return Err(Error::unimplemented("Conditions in policies are not built."));
            }
            if role_has(&binding.role, USE_TO_ENCRYPT).is_none() {
                return Err(Error::invalid_field(
                    "policy.bindings.role",
                    format!("Role {} is not supported for this resource.", binding.role),
                ));
            }
            binding.members.iter().try_for_each(|member| check_member(member))?;
        }
        Ok(())
    }

    /// Whether a binding gives `permission` to `principal`.
    pub(crate) fn grants(&self, principal: &str, permission: &str) -> bool {
        self.bindings.iter().any(|binding| {
            binding.members.iter().any(|member| is_member(member, principal))
                && role_has(&binding.role, permission).unwrap_or(false)
        })
    }
}

fn check_member(member: &str) -> Result<()> {
    let wrong = || Error::invalid_field("policy.bindings.members", format!("Invalid member '{member}'."));
    if matches!(member, "allUsers" | "allAuthenticatedUsers") {
        return Ok(());
    }
    let (kind, name) = member.split_once(':').ok_or_else(wrong)?;
    let name_fits = !name.is_empty() && name.len() <= MAX_MEMBER_NAME && !name.contains(char::is_whitespace);
    match kind {
        _ if !name_fits => Err(wrong()),
        "user" | "serviceAccount" if name.contains('@') => Ok(()),
        "domain" => Ok(()),
        "principal" if name.starts_with("//") && name.contains("/subject/") => Ok(()),
        "group" | "principal" | "principalSet" | "deleted" | "projectOwner" | "projectEditor"
        | "projectViewer" => {
            Err(Error::unimplemented(format!("Members of the kind '{kind}' are not built.")))
        }
        _ => Err(wrong()),
    }
}

fn is_member(member: &str, principal: &str) -> bool {
    match member.split_once(':') {
        None => matches!(member, "allUsers" | "allAuthenticatedUsers"),
        Some(("domain", domain)) => {
            let user = principal.strip_prefix("user:").and_then(|user| user.rsplit_once('@'));
            user.is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain))
        }
        // What a subject is called is its issuer's to say.
        Some(("principal", _)) => member == principal,
        Some(_) => member.eq_ignore_ascii_case(principal),
    }
}

/// Every permission on key rings, keys, versions and import jobs that is ever asked for.
pub(crate) const ALL: &[&str] = &[
    "cloudkms.cryptoKeyVersions.create",
    "cloudkms.cryptoKeyVersions.destroy",
    "cloudkms.cryptoKeyVersions.get",
    "cloudkms.cryptoKeyVersions.list",
    "cloudkms.cryptoKeyVersions.restore",
    "cloudkms.cryptoKeyVersions.update",
    USE_TO_DECRYPT,
    USE_TO_ENCRYPT,
    "cloudkms.cryptoKeys.create",
    "cloudkms.cryptoKeys.get",
    "cloudkms.cryptoKeys.getIamPolicy",
    "cloudkms.cryptoKeys.list",
    "cloudkms.cryptoKeys.setIamPolicy",
    "cloudkms.cryptoKeys.update",
    "cloudkms.ekmConfigs.get",
    "cloudkms.ekmConfigs.update",
    "cloudkms.ekmConnections.create",
    "cloudkms.ekmConnections.get",
    "cloudkms.ekmConnections.getIamPolicy",
    "cloudkms.ekmConnections.list",
    "cloudkms.ekmConnections.setIamPolicy",
    "cloudkms.ekmConnections.update",
    USE_CONNECTION,
    "cloudkms.ekmConnections.verifyConnectivity",
    "cloudkms.importJobs.create",
    "cloudkms.importJobs.get",
    "cloudkms.importJobs.getIamPolicy",
    "cloudkms.importJobs.list",
    "cloudkms.importJobs.setIamPolicy",
    USE_TO_IMPORT,
    "cloudkms.keyRings.create",
    "cloudkms.keyRings.get",
    "cloudkms.keyRings.getIamPolicy",
    "cloudkms.keyRings.list",
    "cloudkms.keyRings.setIamPolicy",
];

const CONNECTIONS_ADMIN: &[&str] = &[
    "cloudkms.ekmConfigs.get",
    "cloudkms.ekmConfigs.update",
    "cloudkms.ekmConnections.create",
    "cloudkms.ekmConnections.get",
    "cloudkms.ekmConnections.list",
    "cloudkms.ekmConnections.update",
    USE_CONNECTION,
];

const VIEWER: &[&str] = &[
    "cloudkms.cryptoKeyVersions.get",
    "cloudkms.cryptoKeyVersions.list",
    "cloudkms.cryptoKeys.get",
    "cloudkms.cryptoKeys.list",
    "cloudkms.ekmConfigs.get",
    "cloudkms.ekmConnections.get",
    "cloudkms.ekmConnections.list",
    "cloudkms.importJobs.get",
    "cloudkms.importJobs.list",
    "cloudkms.keyRings.get",
    "cloudkms.keyRings.list",
];

const IMPORTER: &[&str] =
    &["cloudkms.importJobs.create", "cloudkms.importJobs.get", "cloudkms.importJobs.list", USE_TO_IMPORT];

/// Whether a role has a permission; nothing when the role cannot be granted here.
fn role_has(role: &str, permission: &str) -> Option<bool> {
    let uses_keys = matches!(permission, USE_TO_ENCRYPT | USE_TO_DECRYPT);
    Some(match role {
        "roles/owner" => true,
        "roles/editor" => !uses_keys && !permission.ends_with(".setIamPolicy"),
        "roles/viewer" | "roles/cloudkms.viewer" => VIEWER.contains(&permission),
        "roles/cloudkms.admin" => !uses_keys,
        "roles/cloudkms.ekmConnectionsAdmin" => CONNECTIONS_ADMIN.contains(&permission),
        "roles/cloudkms.importer" => IMPORTER.contains(&permission),
        "roles/cloudkms.cryptoKeyEncrypter" => permission == USE_TO_ENCRYPT,
        "roles/cloudkms.cryptoKeyDecrypter" => permission == USE_TO_DECRYPT,
        "roles/cloudkms.cryptoKeyEncrypterDecrypter" => uses_keys,
        _ => return None,
    })
}

/// Checks the permissions that TestIamPermissions was asked about.
///
/// # Errors
/// `InvalidArgument` for a wildcard or a permission that this resource does not know.
pub(crate) fn check_tested(permissions: &[String]) -> Result<()> {
    match permissions.iter().find(|p| !ALL.contains(&p.as_str())) {
        Some(unknown) => Err(Error::invalid_field(
            "permissions",
            format!("Permission {unknown} is not valid for this resource."),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "roles/cloudkms.cryptoKeyEncrypterDecrypter";

    #[test]
    fn roles_have_no_permission_that_is_never_asked_for() {
        assert!(
            [VIEWER, IMPORTER, CONNECTIONS_ADMIN].concat().iter().all(|permission| ALL.contains(permission))
        );
    }

    #[test]
    fn the_use_of_keys_is_apart_from_their_administration() {
        let can = |role: &str, permission| role_has(role, permission).unwrap();
        for (role, encrypt, decrypt, set_policy, get) in [
            ("roles/cloudkms.admin", false, false, true, true),
            ("roles/cloudkms.viewer", false, false, false, true),
            ("roles/cloudkms.cryptoKeyEncrypter", true, false, false, false),
            ("roles/cloudkms.cryptoKeyDecrypter", false, true, false, false),
            (BOTH, true, true, false, false),
            ("roles/owner", true, true, true, true),
            ("roles/editor", false, false, false, true),
            ("roles/viewer", false, false, false, true),
            ("roles/cloudkms.importer", false, false, false, false),
        ] {
            assert_eq!(can(role, USE_TO_ENCRYPT), encrypt, "{role}");
            assert_eq!(can(role, USE_TO_DECRYPT), decrypt, "{role}");
            assert_eq!(can(role, "cloudkms.cryptoKeys.setIamPolicy"), set_policy, "{role}");
            assert_eq!(can(role, "cloudkms.cryptoKeys.get"), get, "{role}");
        }
    }

    #[test]
    fn members_match_themselves_their_domain_and_everyone() {
        for (member, principal, matches) in [
            ("user:ada@example.com", "user:ada@example.com", true),
            ("user:ada@example.com", "user:Ada@Example.com", true),
            ("user:ada@example.com", "serviceAccount:ada@example.com", false),
            ("user:ada@example.com", "user:ada@example.com.evil", false),
            ("domain:example.com", "user:ada@example.com", true),
            ("domain:example.com", "user:ada@other.com", false),
            ("domain:example.com", "user:ada@notexample.com", false),
            ("principal://idp/subject/a", "principal://idp/subject/a", true),
            ("principal://idp/subject/a", "principal://idp/subject/A", false),
            ("domain:example.com", "principal://idp/subject/ada@example.com", false),
            ("allUsers", "user:x@y", true),
            ("allAuthenticatedUsers", "serviceAccount:x@y", true),
        ] {
            assert_eq!(is_member(member, principal), matches, "{member} {principal}");
        }
    }

    #[test]
    fn a_policy_that_cannot_be_evaluated_is_refused() {
        let old = Policy::default();
        let kind = |policy: Policy| policy.replacing(&old).unwrap_err().kind();
        assert_eq!(kind(Policy::granting("roles/unheard.of", "user:a@b")), ErrorKind::InvalidArgument);
        let bare = "principal:a@b";
        assert_eq!(kind(Policy::granting(BOTH, bare)), ErrorKind::Unimplemented);
        assert!(Policy::granting(BOTH, "principal://idp/subject/repo:a/b").replacing(&old).is_ok());
        for member in ["ada", "user:", "user:ada", "robot:a@b", "user:a b@c"] {
            assert_eq!(kind(Policy::granting(BOTH, member)), ErrorKind::InvalidArgument, "{member}");
        }
        assert_eq!(kind(Policy::granting(BOTH, "group:a@b")), ErrorKind::Unimplemented);
        let mut conditional = Policy::granting(BOTH, "user:a@b");
        conditional.bindings[0].conditional = true;
        assert_eq!(kind(conditional), ErrorKind::Unimplemented);
    }

    #[test]
    fn a_policy_made_from_an_older_one_is_refused() {
        let first = Policy::granting(BOTH, "user:a@b").replacing(&Policy::default()).unwrap();
        let second = Policy { etag: first.etag.clone(), ..Policy::granting(BOTH, "user:c@d") };
        let second = second.replacing(&first).unwrap();
        assert_ne!(first.etag, second.etag);
        let stale = Policy { etag: first.etag.clone(), ..Policy::default() };
        assert_eq!(stale.replacing(&second).unwrap_err().kind(), ErrorKind::Aborted);
        let from_never_set = Policy::default().replacing(&Policy::default());
        assert!(from_never_set.is_ok());
    }
}
