//! The questions of those who make resources, each with its refusal.
//!
//! Invariant: a violation of what is enforced is `FailedPrecondition` with the constraint as the violation's type;
//! one of what is tried is told in the log alone.

use std::time::Duration;

use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result};

use crate::{Constraint, Policies, PolicyName, Spec};

/// Where the public API explains its constraints.
const MORE: &str =
    "https://cloud.google.com/resource-manager/docs/organization-policy/org-policy-constraints";

/// What is about to be done, where.
struct Attempt<'a> {
    project: &'a str,
    operation: &'a str,
}

impl Policies {
    /// Whether a resource may be under a key, or under none of the customer's. `services` are the names of the
    /// service that makes it; `operation` names what it is doing.
    ///
    /// # Errors
    /// `FailedPrecondition` with the violation.
    pub fn protection(
        &self,
        project: &str,
        services: &[&str],
        key: Option<&CryptoKeyName>,
        operation: &str,
    ) -> Result<()> {
        let attempt = Attempt { project, operation };
        match key {
            None => services.iter().try_for_each(|service| {
                self.enforce(&attempt, Constraint::RestrictNonCmekServices, service, |spec| {
                    spec.allows(service)
                })
            }),
            Some(key) => {
                let owner = format!("projects/{}", key.project());
                self.enforce(&attempt, Constraint::RestrictCmekCryptoKeyProjects, &owner, |spec| {
                    spec.allows(&owner)
                })
            }
        }
    }

    /// Whether a new key or version may have a protection level, such as `SOFTWARE`.
    ///
    /// # Errors
    /// `FailedPrecondition` with the violation.
    pub fn protection_level(&self, project: &str, level: &str, operation: &str) -> Result<()> {
        let attempt = Attempt { project, operation };
        self.enforce(&attempt, Constraint::AllowedProtectionLevels, level, |spec| spec.allows(level))
    }

    /// Whether versions of a new key may stay scheduled for destruction for so long only.
    ///
    /// # Errors
    /// `FailedPrecondition` with the violation.
    pub fn destroy_duration(&self, project: &str, duration: Duration, operation: &str) -> Result<()> {
        let value = format!("{}s", duration.as_secs());
        let attempt = Attempt { project, operation };
        self.enforce(&attempt, Constraint::MinimumDestroyScheduledDuration, &value, |spec| {
            spec.allows_duration(duration)
        })
    }

    /// Whether a version in a state such as `ENABLED`, which is not `DISABLED`, may be scheduled for destruction.
    ///
    /// # Errors
    /// `FailedPrecondition` with the violation.
    pub fn destroy_in_use(&self, project: &str, state: &str, operation: &str) -> Result<()> {
        let attempt = Attempt { project, operation };
        self.enforce(&attempt, Constraint::DisableBeforeDestroy, state, |spec| !spec.enforces())
    }

    fn enforce(
        &self,
        attempt: &Attempt<'_>,
        constraint: Constraint,
        value: &str,
        allows: impl Fn(&Spec) -> bool,
    ) -> Result<()> {
        let Attempt { project, operation } = attempt;
        if self.is_empty() {
            return Ok(());
        }
        let name = PolicyName { project: (*project).to_owned(), constraint };
        let Some(policy) = self.find(&name) else { return Ok(()) };
        if policy.dry_run.as_ref().is_some_and(|kept| !allows(&kept.spec)) {
            tracing::warn!(
                policy = %name, operation, value,
                "the dry run of an organization policy would refuse this"
            );
        }
        if policy.spec.as_ref().is_none_or(|kept| allows(&kept.spec)) {
            return Ok(());
        }
        let kind = constraint.violation();
        let sentence = format!(
            "Constraint '{kind}' violated for 'projects/{project}' attempting to perform the operation '{operation}' with violated value '{value}'. See {MORE} for more information."
        );
        let subject = format!("orgpolicy:projects/{project}");
        Err(Error::precondition(sentence.clone()).violating(&kind, subject, sentence))
    }
}
