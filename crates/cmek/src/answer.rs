//! What an error of the KMS means for a scope, and what users of a locked scope are told.
//!
//! Invariant: a refusal is a decision about the key, told by the kinds of its violations and not by
//! the status code alone. Whatever says nothing about the key is silence. Users never see the name of a
//! key that Claviger manages.

use std::time::{Duration, UNIX_EPOCH};

use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_core::{Error, ErrorKind, Timestamp};

use crate::lifecycle::{KeyState, Reason, Refusal};

/// Ends of violation kinds of an external key manager that did not answer, after `EXTERNAL_`.
const EXTERNAL_SILENCE: [&str; 4] = ["UNREACHABLE", "UNAVAILABLE", "TIMEOUT", "DEADLINE_EXCEEDED"];

/// The role that a service agent needs.
const ROLE: &str = "roles/cloudkms.cryptoKeyEncrypterDecrypter";

/// The refusal in an error of the KMS; `None` when the error is silence.
pub(crate) fn refusal(error: &Error) -> Option<Refusal> {
    let kinds = || error.violations().iter().map(|violation| violation.kind.as_str());
    let reason = match error.kind() {
        ErrorKind::FailedPrecondition => {
            let has = |kind: &str| kinds().any(|found| found == kind);
            if has("KEY_DESTROYED") {
                Reason::Destroyed
            } else if has("KEY_DESTROY_SCHEDULED") {
                Reason::DestroyScheduled
            } else if has("KEY_DISABLED") {
                Reason::Disabled
            } else if kinds().any(is_external_silence) {
                return None;
            } else {
                Reason::Other
            }
        }
        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Reason::PermissionDenied,
        ErrorKind::NotFound => Reason::NotFound,
        // The KMS looked at the wrapped key and does not take it: this key is not ours any more.
        ErrorKind::InvalidArgument => Reason::Other,
        // A fault of the KMS or of the way to it is no decision of the key's owner.
        _ => return None,
    };
    let version = error.violations().iter().find_map(|v| CryptoKeyVersionName::parse(&v.subject).ok());
    let violations = kinds().map(str::to_owned).collect();
    Some(Refusal { reason, version, violations, detail: error.message().to_owned() })
}

fn is_external_silence(kind: &str) -> bool {
    kind.strip_prefix("EXTERNAL_").is_some_and(|rest| EXTERNAL_SILENCE.iter().any(|end| rest.ends_with(end)))
}

/// What a scope protects and with what, for the texts.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) key: CryptoKeyName,
    pub(crate) customer_managed: bool,
    pub(crate) principal: String,
    pub(crate) resource: String,
}

impl Subject {
    /// Why the scope is locked in `state`; `None` when it is not. `version` wraps its current key.
    pub(crate) fn lock_error(&self, state: &KeyState, version: &CryptoKeyVersionName) -> Option<Error> {
        match state {
            KeyState::Enabled | KeyState::Unreachable { locked: false, .. } => None,
            KeyState::Unknown => Some(self.error(version, &["KEY_UNKNOWN"], |key| {
                format!("The state of {key} protecting {} is not known yet.", self.resource)
            })),
            KeyState::Unreachable { since, locked: true } => {
                Some(self.error(version, &["KEY_UNREACHABLE"], |key| {
                    format!(
                        "{} protecting {} has not been reachable since {}. Access comes back when it can be reached \
                         and is enabled.",
                        capital(key),
                        self.resource,
                        rfc3339(*since)
                    )
                }))
            }
            KeyState::Disabled { refusal } | KeyState::Destroyed { refusal } => {
                Some(self.refusal_error(refusal, version))
            }
        }
    }

    /// What users of a key under a refused version are told.
    pub(crate) fn refusal_error(&self, refusal: &Refusal, wrapped_by: &CryptoKeyVersionName) -> Error {
        let version = refusal.version.as_ref().unwrap_or(wrapped_by);
        let given: Vec<&str> = refusal.violations.iter().map(String::as_str).collect();
        let kinds = |own: &'static str| if given.is_empty() { vec![own] } else { given.clone() };
        let resource = &self.resource;
        let state = |own: &'static str, is: &str| {
            self.error(version, &kinds(own), |key| format!("{} protecting {resource} {is}", capital(key)))
        };
        match refusal.reason {
            Reason::Disabled => {
                state("KEY_DISABLED", "is disabled. Access comes back when it is enabled.")
            }
            Reason::DestroyScheduled => state(
                "KEY_DESTROY_SCHEDULED",
                "is scheduled for destruction. Access comes back when it is restored and enabled.",
            ),
            Reason::Destroyed => {
                state("KEY_DESTROYED", "is destroyed. The data under it cannot be read any more.")
            }
            Reason::NotFound => state("KEY_NOT_FOUND", "does not exist."),
            Reason::Mismatch => state("KEY_MISMATCH", "gave another key than the one in use."),
            Reason::PermissionDenied => self.error(version, &kinds("KEY_PERMISSION_DENIED"), |_| {
                let agent = self.principal.split_once(':').map_or(self.principal.as_str(), |(_, email)| email);
                format!(
                    "The service account {agent} may not use {} protecting {resource}. Grant it {ROLE} on the key.",
                    self.name(self.key.as_str())
                )
            }),
            Reason::Other => self.error(version, &kinds("KEY_REFUSED"), |key| {
                let detail = if self.customer_managed { refusal.detail.as_str() } else { "the KMS refuses it." };
                format!("{} protecting {resource} cannot be used: {detail}", capital(key))
            }),
        }
    }

    /// The key as users may see it, inside a sentence.
    fn name(&self, name: &str) -> String {
        if self.customer_managed {
            format!("the Cloud KMS key {name}")
        } else {
            "the Claviger-managed key".to_owned()
        }
    }

    fn error(
        &self,
        version: &CryptoKeyVersionName,
        kinds: &[&str],
        message: impl FnOnce(&str) -> String,
    ) -> Error {
        let message = message(&self.name(version.as_str()));
        let subject = if self.customer_managed { version.as_str() } else { self.resource.as_str() };
        kinds.iter().fold(Error::precondition(message.clone()), |error, kind| {
            error.violating(kind, subject, message.clone())
        })
    }
}

fn capital(sentence: &str) -> String {
    sentence.strip_prefix('t').map_or_else(|| sentence.to_owned(), |rest| format!("T{rest}"))
}

fn rfc3339(time: Timestamp) -> String {
    let micros = u64::try_from(time.micros()).unwrap_or(0);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_micros(micros)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";

    fn version(number: u64) -> CryptoKeyVersionName {
        CryptoKeyName::parse(KEY).unwrap().version_name(number)
    }

    fn precondition(kinds: &[&str]) -> Error {
        kinds.iter().fold(Error::precondition("not enabled"), |error, kind| {
            error.violating(kind, version(7).as_str(), "why")
        })
    }

    fn subject(customer_managed: bool) -> Subject {
        Subject {
            key: CryptoKeyName::parse(KEY).unwrap(),
            customer_managed,
            principal: "serviceAccount:service-1@gcp-sa-bigtable.iam.gserviceaccount.com".to_owned(),
            resource: "projects/p/instances/i/tables/t".to_owned(),
        }
    }

    #[test]
    fn decisions_are_refusals_and_faults_are_silence() {
        let cases = [
            (precondition(&["KEY_DISABLED"]), Some(Reason::Disabled)),
            (precondition(&["KEY_DESTROY_SCHEDULED"]), Some(Reason::DestroyScheduled)),
            (precondition(&["KEY_DESTROYED"]), Some(Reason::Destroyed)),
            (precondition(&["KEY_DISABLED", "EXTERNAL_PERMISSION_DENIED"]), Some(Reason::Disabled)),
            (precondition(&["KEY_ENABLED", "EXTERNAL_PERMISSION_DENIED"]), Some(Reason::Other)),
            (precondition(&["KEY_ENABLED", "EXTERNAL_UNREACHABLE"]), None),
            (precondition(&["EXTERNAL_KEY_MANAGER_TIMEOUT"]), None),
            (precondition(&["KEY_DISABLED", "EXTERNAL_UNREACHABLE"]), Some(Reason::Disabled)),
            (precondition(&[]), Some(Reason::Other)),
            (Error::permission_denied("no"), Some(Reason::PermissionDenied)),
            (Error::new(ErrorKind::Unauthenticated, "who"), Some(Reason::PermissionDenied)),
            (Error::not_found("no key"), Some(Reason::NotFound)),
            (Error::invalid("Decryption failed"), Some(Reason::Other)),
            (Error::new(ErrorKind::Unavailable, "…"), None),
            (Error::new(ErrorKind::DeadlineExceeded, "…"), None),
            (Error::new(ErrorKind::Aborted, "…"), None),
            (Error::new(ErrorKind::ResourceExhausted, "…"), None),
            (Error::new(ErrorKind::DataLoss, "…"), None),
            (Error::unimplemented("…"), None),
            (Error::internal("…"), None),
        ];
        for (error, expected) in cases {
            assert_eq!(refusal(&error).map(|refusal| refusal.reason), expected, "{error:?}");
        }
    }

    #[test]
    fn a_disabled_version_is_named_with_the_violation_of_the_kms() {
        let refusal = refusal(&precondition(&["KEY_DISABLED"])).unwrap();
        let error = subject(true).lock_error(&KeyState::Disabled { refusal }, &version(1)).unwrap();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(
            error.message(),
            "The Cloud KMS key projects/p/locations/us-east1/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7 protecting \
             projects/p/instances/i/tables/t is disabled. Access comes back when it is enabled."
        );
        let violation = error.violations().first().unwrap();
        assert_eq!(
            (violation.kind.as_str(), violation.subject.as_str()),
            ("KEY_DISABLED", version(7).as_str())
        );
    }

    #[test]
    fn each_reason_has_its_own_text_and_says_what_to_do() {
        let states = [
            (Reason::DestroyScheduled, "is scheduled for destruction"),
            (Reason::Destroyed, "is destroyed"),
            (
                Reason::PermissionDenied,
                "The service account service-1@gcp-sa-bigtable.iam.gserviceaccount.com may not use",
            ),
            (Reason::PermissionDenied, "Grant it roles/cloudkms.cryptoKeyEncrypterDecrypter on the key"),
            (Reason::NotFound, "does not exist"),
            (Reason::Other, "cannot be used: justification denied"),
        ];
        for (reason, part) in states {
            let detail = "justification denied".to_owned();
            let refusal = Refusal { reason, version: None, violations: Vec::new(), detail };
            let error = subject(true).refusal_error(&refusal, &version(1));
            assert!(error.message().contains(part), "{reason:?}: {error}");
            assert_eq!(error.violations().len(), 1, "{reason:?}");
        }
        let state = KeyState::Unreachable { since: Timestamp(1_700_000_000_000_000), locked: true };
        let error = subject(true).lock_error(&state, &version(1)).unwrap();
        assert!(error.message().contains("has not been reachable since 2023-11-14T22:13:20Z"), "{error}");
    }

    #[test]
    fn a_key_that_claviger_manages_is_never_named() {
        for reason in [Reason::Disabled, Reason::PermissionDenied, Reason::Other, Reason::NotFound] {
            let refusal =
                Refusal { reason, version: Some(version(7)), violations: Vec::new(), detail: KEY.into() };
            let text = format!("{:?}", subject(false).refusal_error(&refusal, &version(1)));
            assert!(!text.contains("cryptoKeys"), "{text}");
        }
    }
}
