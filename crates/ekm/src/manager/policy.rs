//! Who may use which key for which reason, as the operator wrote it in TOML.
//!
//! ```toml
//! callers = ["service-100000000001@gcp-sa-ekms.iam.gserviceaccount.com"]   # without: any with a good token
//! reasons = ["CUSTOMER_INITIATED_ACCESS"]                                  # without: any
//! cache = "10m"                                                            # without: the KMS decides
//!
//! [keys.k1]                                                                # what is said here wins for this key
//! reasons = []
//! ```
//!
//! Invariant: a word that is not known is refused when the policy is read.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger_core::{Error, Result};
use claviger_kms::external::AccessReason;
use serde::Deserialize;

/// See the file's text. The default lets everything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(flatten)]
    all: Rules,
    #[serde(default)]
    keys: BTreeMap<String, Rules>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Rules {
    callers: Option<Vec<String>>,
    reasons: Option<Vec<AccessReason>>,
    cache: Option<Span>,
}

/// A duration as `10m`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Span(Duration);

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        claviger_core::duration::parse(&text).map(Self).map_err(|e| e.message().to_owned())
    }
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// `InvalidArgument` that says what cannot be read.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::invalid(format!("the policy cannot be read: {e}")))
    }

    fn rule<T>(&self, key: &str, of: impl Fn(&Rules) -> Option<&T>) -> Option<&T> {
        self.keys.get(key).and_then(&of).or_else(|| of(&self.all))
    }

    /// Lets a caller use a key for a reason.
    ///
    /// # Errors
    /// `PermissionDenied` that names what is not let.
    pub(super) fn admit(&self, caller: &str, key: &str, reason: AccessReason) -> Result<()> {
        if self
            .rule(key, |rules| rules.callers.as_ref())
            .is_some_and(|all| !all.iter().any(|one| one == caller))
        {
            return Err(Error::permission_denied(format!("{caller} may not use the key {key}")));
        }
        if self.rule(key, |rules| rules.reasons.as_ref()).is_some_and(|all| !all.contains(&reason)) {
            let reason = reason.as_str();
            return Err(Error::permission_denied(format!("the key {key} may not be used for {reason}")));
        }
        Ok(())
    }

    /// How long what a key unwrapped may be kept.
    pub(super) fn cache(&self, key: &str) -> Option<Duration> {
        self.rule(key, |rules| rules.cache.as_ref()).map(|span| span.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_key_wins_over_what_is_said_of_all() {
        let policy = Policy::parse(
            "callers = ['a@b']\nreasons = ['CUSTOMER_INITIATED_ACCESS']\ncache = '10m'\n\
             [keys.closed]\nreasons = []\n[keys.open]\ncallers = ['c@d']\ncache = '0s'\n",
        )
        .unwrap();
        let may = |caller, key, reason| policy.admit(caller, key, reason).is_ok();
        let (access, system) =
            (AccessReason::CustomerInitiatedAccess, AccessReason::GoogleInitiatedSystemOperation);
        assert!(may("a@b", "k", access) && !may("a@b", "k", system) && !may("c@d", "k", access));
        assert!(!may("a@b", "closed", access));
        assert!(may("c@d", "open", access) && !may("a@b", "open", access) && !may("c@d", "open", system));
        assert_eq!(policy.cache("k"), Some(Duration::from_secs(600)));
        assert_eq!(policy.cache("open"), Some(Duration::ZERO));
    }

    #[test]
    fn no_policy_lets_all_and_a_wrong_one_is_refused() {
        assert!(Policy::parse("").unwrap().admit("x@y", "k", AccessReason::Unspecified).is_ok());
        for wrong in
            ["reasons = ['BECAUSE']", "cache = 'soon'", "calers = []", "[keys]\nk = 3", "callers = 'a'"]
        {
            assert!(Policy::parse(wrong).is_err(), "{wrong}");
        }
    }
}
