//! What a specification may say.
//!
//! Invariant: a value that no resource could ever have is refused, so that a slip of the pen does not open a door.

use claviger_core::{Error, Result};

use crate::evaluate::{bare, minimum};
use crate::policy::project;
use crate::{Constraint, Kind, Rule, Spec};

/// Rules of a specification, as in the public API.
const MAX_RULES: usize = 10;
/// Values of all rules together, as in the public API.
const MAX_VALUES: usize = 500;
/// The longest value that an error repeats, characters.
const SHOWN_CHARS: usize = 100;
/// The services that make resources which a customer's key may protect.
const SERVICES: [&str; 4] = [
    "bigtable.googleapis.com",
    "bigtableadmin.googleapis.com",
    "dataflow.googleapis.com",
    "storage.googleapis.com",
];
/// The protection levels of keys.
const LEVELS: [&str; 5] = ["SOFTWARE", "HSM", "EXTERNAL", "EXTERNAL_VPC", "HSM_SINGLE_TENANT"];

/// Checks a specification. `field` is where it is in the request.
pub(crate) fn check(constraint: Constraint, spec: &Spec, field: &str) -> Result<()> {
    let wrong = |part: &str, why: String| Error::invalid_field(format!("{field}.{part}"), why);
    if spec.reset && (!spec.rules.is_empty() || spec.inherit_from_parent) {
        return Err(wrong("reset", "goes with no rules and without inherit_from_parent".into()));
    }
    if spec.rules.len() > MAX_RULES {
        return Err(wrong("rules", format!("must not be more than {MAX_RULES}")));
    }
    if constraint.kind() == Kind::Boolean {
        return match spec.rules.as_slice() {
            _ if spec.inherit_from_parent => {
                Err(wrong("inherit_from_parent", "is for list constraints only".into()))
            }
            [] if spec.reset => Ok(()),
            [Rule::Enforce(_)] => Ok(()),
            _ => {
                Err(wrong("rules", format!("{} takes exactly one rule, which sets enforce", constraint.id())))
            }
        };
    }
    if spec.rules.is_empty() && !spec.reset && !spec.inherit_from_parent {
        return Err(wrong("rules", "needs a rule; or set reset, or inherit_from_parent".into()));
    }
    let mut values = 0;
    for rule in &spec.rules {
        match rule {
            Rule::AllowAll | Rule::DenyAll => {}
            Rule::Enforce(_) => {
                return Err(wrong(
                    "rules",
                    format!("{} is a list constraint and takes no enforce", constraint.id()),
                ));
            }
            Rule::Values { allowed, denied } => {
                if allowed.is_empty() && denied.is_empty() {
                    return Err(wrong("rules", "values must name a value".into()));
                }
                values += allowed.len() + denied.len();
                for listed in allowed.iter().chain(denied) {
                    value(constraint, listed).map_err(|error| match error.kind() {
                        claviger_core::ErrorKind::InvalidArgument => {
                            wrong("rules", error.message().to_owned())
                        }
                        _ => error,
                    })?;
                }
            }
        }
    }
    if values > MAX_VALUES {
        return Err(wrong("rules", format!("must not have more than {MAX_VALUES} values")));
    }
    if constraint == Constraint::MinimumDestroyScheduledDuration {
        one_duration(&spec.rules).map_err(|why| wrong("rules", why.to_owned()))?;
    }
    Ok(())
}

/// A duration is one allowed value, or all are allowed.
fn one_duration(rules: &[Rule]) -> Result<(), &'static str> {
    let fits = match rules {
        [] | [Rule::AllowAll] => true,
        [Rule::Values { allowed, denied }] => allowed.len() == 1 && denied.is_empty(),
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        Err("cloudkms.minimumDestroyScheduledDuration takes exactly one allowed value")
    }
}

/// Checks one value.
fn value(constraint: Constraint, listed: &str) -> Result<()> {
    let shown: String = listed.chars().take(SHOWN_CHARS).collect();
    let wrong =
        |known: &str| Error::invalid(format!("'{shown}' is not a value of {}: {known}", constraint.id()));
    let one_of = |known: &[&str]| {
        let plain = listed.strip_prefix("is:").unwrap_or(listed);
        if known.contains(&plain) { Ok(()) } else { Err(wrong(&format!("it takes {}", known.join(", ")))) }
    };
    match constraint {
        Constraint::RestrictNonCmekServices => one_of(&SERVICES),
        Constraint::AllowedProtectionLevels => one_of(&LEVELS),
        Constraint::RestrictCmekCryptoKeyProjects => match project(bare(listed)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == claviger_core::ErrorKind::InvalidArgument => {
                Err(wrong("it takes projects/ID and under:projects/ID"))
            }
            Err(error) => Err(error),
        },
        Constraint::MinimumDestroyScheduledDuration => minimum(listed)
            .map(drop)
            .ok_or_else(|| wrong("it takes in:1d, in:7d, in:15d, in:30d, in:60d, in:90d or in:120d")),
        Constraint::DisableBeforeDestroy => Err(wrong("it takes none")),
    }
}
