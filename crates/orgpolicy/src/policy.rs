//! Policies and their names.
//!
//! ```text
//! record   org-policy/PROJECT/CONSTRAINT -> {"format": 1, "name": ..., "spec": ..., "dry_run": ..., "revision": ...}
//! ```

use std::fmt;

use claviger_core::names::ProjectName;
use claviger_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Constraint;

/// The format of records.
pub(crate) const FORMAT: u32 = 1;
/// The records' prefix.
pub(crate) const PREFIX: &str = "org-policy/";
/// Constraints that organizations define for themselves begin so.
const CUSTOM: &str = "custom.";

/// The project that a parent is.
///
/// # Errors
/// `Unimplemented` for folders, organizations and a project's number; `InvalidArgument` for what is no name.
pub fn project(parent: &str) -> Result<ProjectName> {
    if matches!(parent.split('/').next(), Some("folders" | "organizations")) {
        return Err(Error::unimplemented(
            "Policies of folders and organizations are not built: this server has projects only.",
        ));
    }
    let name = ProjectName::parse(parent)?;
    if name.project().bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::unimplemented(format!(
            "Looking a project up by its number is not built yet ('{parent}'): name it by its id"
        )));
    }
    Ok(name)
}

/// A policy's name: whose it is, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyName {
    /// The project's id.
    pub project: String,
    /// What it is about.
    pub constraint: Constraint,
}

impl PolicyName {
    /// Reads `projects/P/policies/CONSTRAINT`.
    ///
    /// # Errors
    /// As [`project`]; `NotFound` for a constraint that there is not; `Unimplemented` for one that an organization
    /// defines.
    pub fn parse(name: &str) -> Result<Self> {
        let Some((parent, id)) = name.split_once("/policies/") else {
            return Err(Error::invalid(format!(
                "Invalid resource name '{name}': expected projects/{{project}}/policies/{{constraint}}"
            )));
        };
        let project = project(parent)?.project().to_owned();
        if id.starts_with(CUSTOM) {
            return Err(Error::unimplemented(format!(
                "Custom constraints are not built: '{id}' cannot be enforced."
            )));
        }
        let constraint = Constraint::of_id(id).ok_or_else(|| {
            let known = Constraint::ALL.map(Constraint::id).join(", ");
            let id: String = id.chars().take(200).collect();
            Error::not_found(format!("The constraint constraints/{id} was not found. There are {known}."))
        })?;
        Ok(Self { project, constraint })
    }

    pub(crate) fn record(&self) -> String {
        format!("{PREFIX}{}/{}", self.project, self.constraint.id())
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "projects/{}/policies/{}", self.project, self.constraint.id())
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// Values of a list constraint, as they were given.
    Values {
        /// When there are any, others are not allowed.
        allowed: Vec<String>,
        /// Not allowed, whatever else is said.
        denied: Vec<String>,
    },
    /// All values are allowed.
    AllowAll,
    /// No value is allowed.
    DenyAll,
    /// Whether a boolean constraint is enforced.
    Enforce(bool),
}

/// What a policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The rules, which hold together.
    pub rules: Vec<Rule>,
    /// A project has no parent here, so this adds nothing.
    pub inherit_from_parent: bool,
    /// Back to the constraint's default.
    pub reset: bool,
}

/// A specification that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSpec {
    /// What it says.
    pub spec: Spec,
    /// When it was set.
    pub updated: Timestamp,
    revision: i64,
}

impl KeptSpec {
    pub(crate) fn new(spec: Spec, updated: Timestamp, revision: i64) -> Self {
        Self { spec, updated, revision }
    }

    /// Changes when the specification is set anew.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.revision)
    }
}

/// What a project says about a constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    format: u32,
    /// Its name.
    pub name: PolicyName,
    /// What is enforced.
    pub spec: Option<KeptSpec>,
    /// What is tried.
    pub dry_run: Option<KeptSpec>,
    pub(crate) revision: i64,
}

impl Policy {
    pub(crate) fn new(
        name: PolicyName,
        spec: Option<KeptSpec>,
        dry_run: Option<KeptSpec>,
        revision: i64,
    ) -> Self {
        Self { format: FORMAT, name, spec, dry_run, revision }
    }

    /// Refuses a record that another version of this server wrote, or that is not where it belongs.
    pub(crate) fn check_record(&self, record: &str) -> Result<()> {
        if self.format != FORMAT || self.name.record() != record {
            return Err(Error::new(ErrorKind::DataLoss, format!("the record {record} cannot be read")));
        }
        Ok(())
    }

    /// Changes with every change of the policy.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.revision)
    }
}

fn etag(revision: i64) -> String {
    format!("{revision:016x}")
}
