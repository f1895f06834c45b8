//! The constraints there are, under the names of the public API.
//!
//! Invariant: each one is enforced. One that is not known is refused, so that no policy is set in vain.

use serde::{Deserialize, Serialize};

/// How constraints are named in violations.
const PREFIX: &str = "constraints/";

/// One thing that policies restrict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Constraint {
    /// Which protection levels new keys may have.
    #[serde(rename = "cloudkms.allowedProtectionLevels")]
    AllowedProtectionLevels,
    /// Whether a version must be disabled before it is destroyed.
    #[serde(rename = "cloudkms.disableBeforeDestroy")]
    DisableBeforeDestroy,
    /// How long versions of new keys stay scheduled for destruction, at least.
    #[serde(rename = "cloudkms.minimumDestroyScheduledDuration")]
    MinimumDestroyScheduledDuration,
    /// Which projects' keys may protect new resources.
    #[serde(rename = "gcp.restrictCmekCryptoKeyProjects")]
    RestrictCmekCryptoKeyProjects,
    /// Which services may make resources without a customer's key.
    #[serde(rename = "gcp.restrictNonCmekServices")]
    RestrictNonCmekServices,
}

/// What a policy for a constraint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Which values are allowed.
    List {
        /// Whether `in:GROUP` is a value.
        supports_in: bool,
        /// Whether `under:RESOURCE` is a value.
        supports_under: bool,
    },
    /// Whether it is enforced.
    Boolean,
}

impl Constraint {
    /// All, by name.
    pub const ALL: [Self; 5] = [
        Self::AllowedProtectionLevels,
        Self::DisableBeforeDestroy,
        Self::MinimumDestroyScheduledDuration,
        Self::RestrictCmekCryptoKeyProjects,
        Self::RestrictNonCmekServices,
    ];

    /// Its name, such as `gcp.restrictNonCmekServices`.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::AllowedProtectionLevels => "cloudkms.allowedProtectionLevels",
            Self::DisableBeforeDestroy => "cloudkms.disableBeforeDestroy",
            Self::MinimumDestroyScheduledDuration => "cloudkms.minimumDestroyScheduledDuration",
            Self::RestrictCmekCryptoKeyProjects => "gcp.restrictCmekCryptoKeyProjects",
            Self::RestrictNonCmekServices => "gcp.restrictNonCmekServices",
        }
    }

    /// The constraint of a name.
    #[must_use]
    pub fn of_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|constraint| constraint.id() == id)
    }

    /// The type of its violations, such as `constraints/gcp.restrictNonCmekServices`.
    #[must_use]
    pub fn violation(self) -> String {
        format!("{PREFIX}{}", self.id())
    }

    /// What a policy for it says.
    #[must_use]
    pub fn kind(self) -> Kind {
        let (supports_in, supports_under) = match self {
            Self::DisableBeforeDestroy => return Kind::Boolean,
            Self::MinimumDestroyScheduledDuration => (true, false),
            Self::RestrictCmekCryptoKeyProjects => (false, true),
            Self::AllowedProtectionLevels | Self::RestrictNonCmekServices => (false, false),
        };
        Kind::List { supports_in, supports_under }
    }

    /// Its title, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::AllowedProtectionLevels => "Allowed protection levels of keys",
            Self::DisableBeforeDestroy => "Destruction of disabled key versions only",
            Self::MinimumDestroyScheduledDuration => "Shortest time before scheduled destruction of new keys",
            Self::RestrictCmekCryptoKeyProjects => "Projects whose keys may protect resources",
            Self::RestrictNonCmekServices => "Services that may make resources without a customer's key",
        }
    }

    /// What it restricts and which values it takes, for people.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::AllowedProtectionLevels => {
                "New keys and key versions must have an allowed protection level: SOFTWARE, HSM, EXTERNAL, EXTERNAL_VPC or HSM_SINGLE_TENANT. By default all are allowed."
            }
            Self::DisableBeforeDestroy => {
                "When it is enforced, a key version must be disabled before it can be scheduled for destruction. By default it is not enforced."
            }
            Self::MinimumDestroyScheduledDuration => {
                "New keys must have at least this time between the request to destroy a version and its destruction. It takes one allowed value: in:1d, in:7d, in:15d, in:30d, in:60d, in:90d or in:120d. By default the server's own minimum holds."
            }
            Self::RestrictCmekCryptoKeyProjects => {
                "New resources may be protected by keys of allowed projects only: projects/ID or under:projects/ID. By default keys of all projects are allowed."
            }
            Self::RestrictNonCmekServices => {
                "New resources of denied services must have a customer's key, and none may lose it: bigtable.googleapis.com, bigtableadmin.googleapis.com, dataflow.googleapis.com or storage.googleapis.com. By default no service is denied."
            }
        }
    }
}
