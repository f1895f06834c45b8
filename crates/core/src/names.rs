//! Resource names, parsed at the edge: once a service holds one of these types, its parts are right.
//!
//! Invariant: a name prints exactly as it was parsed. Shapes are those of the public APIs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest project id, location, key ring, instance or table id, characters.
const MAX_ID_CHARS: usize = 63;

/// Whether `id` is 1 to 63 of letters, digits, `_`, `-` and `.`; projects may carry a `domain:` prefix.
fn id_is_valid(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID_CHARS
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':'))
        && id != "."
        && id != ".."
}

macro_rules! resource_name {
    ($(#[$doc:meta])* $name:ident, $shape:literal, [$($literal:literal => $part:ident),+ $(,)?]) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The shape of the name, with `{...}` for each id.
            pub const SHAPE: &str = $shape;

            /// Builds the name from its ids.
            ///
            /// # Errors
            /// `InvalidArgument` when an id has characters that a name may not have.
            #[expect(clippy::too_many_arguments, reason = "one for each id of the name")]
            #[allow(unfulfilled_lint_expectations)]
            pub fn new($($part: impl AsRef<str>),+) -> Result<Self> {
                let mut text = String::new();
                $(
                    if !text.is_empty() { text.push('/'); }
                    text.push_str(concat!($literal, "/"));
                    text.push_str($part.as_ref());
                )+
                Self::parse(&text)
            }

            /// Reads a full name.
            ///
            /// # Errors
            /// `InvalidArgument` that repeats the text and the expected shape.
            pub fn parse(text: &str) -> Result<Self> {
                let mut parts = text.split('/');
                let fits = $(
                    parts.next() == Some($literal) && parts.next().is_some_and(id_is_valid) &&
                )+ parts.next().is_none();
                if fits {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Error::invalid(format!("Invalid resource name '{text}': expected {}", Self::SHAPE)))
                }
            }

            resource_name!(@parts 1, $($part),+);

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            fn part(&self, index: usize) -> &str {
                // `parse` is the only way to make one, so the part is there.
                self.0.split('/').nth(index).unwrap_or_default()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
    (@parts $index:expr, $part:ident $(, $rest:ident)*) => {
        #[doc = concat!("The id of the ", stringify!($part), ".")]
        #[must_use]
        pub fn $part(&self) -> &str {
            self.part($index)
        }
        resource_name!(@parts $index + 2 $(, $rest)*);
    };
    (@parts $index:expr) => {};
}

resource_name!(
    /// A project.
    ProjectName, "projects/{project}", ["projects" => project]
);
resource_name!(
    /// A place where keys live.
    LocationName, "projects/{project}/locations/{location}",
    ["projects" => project, "locations" => location]
);
resource_name!(
    /// A group of keys.
    KeyRingName, "projects/{project}/locations/{location}/keyRings/{key_ring}",
    ["projects" => project, "locations" => location, "keyRings" => key_ring]
);
resource_name!(
    /// A key: a customer's KEK.
    CryptoKeyName, "projects/{project}/locations/{location}/keyRings/{key_ring}/cryptoKeys/{crypto_key}",
    ["projects" => project, "locations" => location, "keyRings" => key_ring, "cryptoKeys" => crypto_key]
);
resource_name!(
    /// One version of a key: the material itself.
    CryptoKeyVersionName,
    "projects/{project}/locations/{location}/keyRings/{key_ring}/cryptoKeys/{crypto_key}/cryptoKeyVersions/{version}",
    ["projects" => project, "locations" => location, "keyRings" => key_ring, "cryptoKeys" => crypto_key, "cryptoKeyVersions" => version]
);
resource_name!(
    /// A job that key material is imported through.
    ImportJobName, "projects/{project}/locations/{location}/keyRings/{key_ring}/importJobs/{import_job}",
    ["projects" => project, "locations" => location, "keyRings" => key_ring, "importJobs" => import_job]
);
resource_name!(
    /// A Bigtable instance.
    InstanceName, "projects/{project}/instances/{instance}",
    ["projects" => project, "instances" => instance]
);
resource_name!(
    /// A cluster of an instance.
    ClusterName, "projects/{project}/instances/{instance}/clusters/{cluster}",
    ["projects" => project, "instances" => instance, "clusters" => cluster]
);
resource_name!(
    /// A table of an instance.
    TableName, "projects/{project}/instances/{instance}/tables/{table}",
    ["projects" => project, "instances" => instance, "tables" => table]
);
resource_name!(
    /// An app profile of an instance.
    AppProfileName, "projects/{project}/instances/{instance}/appProfiles/{app_profile}",
    ["projects" => project, "instances" => instance, "appProfiles" => app_profile]
);

/// A parent cut off the end of a name that was valid.
macro_rules! parent {
    ($child:ident, $method:ident, $parent:ident, $doc:literal) => {
        impl $child {
            #[doc = $doc]
            #[must_use]
            pub fn $method(&self) -> $parent {
                let cut = self.0.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at);
                $parent(self.0[..cut].to_owned())
            }
        }
    };
}
parent!(LocationName, project_name, ProjectName, "The project.");
parent!(KeyRingName, location_name, LocationName, "The location.");
parent!(CryptoKeyName, key_ring_name, KeyRingName, "The key ring.");
parent!(CryptoKeyVersionName, crypto_key_name, CryptoKeyName, "The key.");
parent!(ImportJobName, key_ring_name, KeyRingName, "The key ring.");
parent!(InstanceName, project_name, ProjectName, "The project.");
parent!(ClusterName, instance_name, InstanceName, "The instance.");
parent!(TableName, instance_name, InstanceName, "The instance.");
parent!(AppProfileName, instance_name, InstanceName, "The instance.");

impl CryptoKeyName {
    /// The name of one of this key's versions.
    #[must_use]
    pub fn version_name(&self, number: u64) -> CryptoKeyVersionName {
        CryptoKeyVersionName(format!("{}/cryptoKeyVersions/{number}", self.0))
    }
}

/// The region of a zone: `us-east1-b` lies in `us-east1`.
///
/// # Errors
/// `InvalidArgument` when the text is not a region, a dash and one letter.
pub fn region_of_zone(zone: &str) -> Result<&str> {
    match zone.rsplit_once('-') {
        Some((region, letter))
            if region.contains('-')
                && id_is_valid(region)
                && letter.len() == 1
                && letter.bytes().all(|b| b.is_ascii_lowercase()) =>
        {
            Ok(region)
        }
        _ => Err(Error::invalid(format!(
            "'{zone}' is not a zone: expected a region and a letter, as in us-east1-b"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_parts_and_its_parent_and_prints_as_parsed() {
        let text = "projects/p1/locations/us-east1/keyRings/r/cryptoKeys/k/cryptoKeyVersions/3";
        let version = CryptoKeyVersionName::parse(text).unwrap();
        assert_eq!((version.project(), version.location(), version.key_ring()), ("p1", "us-east1", "r"));
        assert_eq!((version.crypto_key(), version.version()), ("k", "3"));
        assert_eq!(version.to_string(), text);
        let key = version.crypto_key_name();
        assert_eq!(key.as_str(), "projects/p1/locations/us-east1/keyRings/r/cryptoKeys/k");
        assert_eq!(key.version_name(3), version);
        assert_eq!(key.key_ring_name().location_name().project_name().project(), "p1");
    }

    #[test]
    fn names_of_another_shape_are_refused_with_the_shape() {
        for text in [
            "",
            "projects/",
            "projects/p/instances",
            "projects/p/instances/i/",
            "projects/p/instances/../tables/t",
            "projects/p/instances/i/tables/a b",
            "projects/p/instances/i/tables/t/x",
            "/projects/p/instances/i/tables/t",
        ] {
            let error = TableName::parse(text).unwrap_err();
            assert!(error.message().contains(TableName::SHAPE), "{error}");
        }
        assert!(InstanceName::new("p", "a/b").is_err());
    }

    #[test]
    fn a_zone_names_its_region() {
        assert_eq!(region_of_zone("us-east1-b").unwrap(), "us-east1");
        for zone in ["", "us-east1", "b", "us-east1-B", "us-east1-bb", "-b", "east-"] {
            assert!(region_of_zone(zone).is_err(), "{zone}");
        }
    }
}
