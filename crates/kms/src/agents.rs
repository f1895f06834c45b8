//! Project numbers, the service agents made from them, and the keys that Claviger manages itself.
//!
//! Invariant: a project keeps its number for ever, and no two projects share one.

use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Result};

/// The project of the keys that Claviger manages. Users can neither see nor name it.
pub const MANAGED_PROJECT: &str = "claviger-managed";
/// The key ring of the keys that Claviger manages, in each location.
pub(crate) const MANAGED_RING: &str = "claviger";
/// The number of the first project; all numbers have 12 digits.
pub(crate) const FIRST_NUMBER: u64 = 100_000_000_001;
/// The KMS itself, when it rotates and destroys on schedule.
pub(crate) const KMS_AGENT: &str = "serviceAccount:kms@claviger.local";
/// The platform's own agent, which belongs to no project.
const PLATFORM_AGENT: &str = "serviceAccount:platform@claviger.local";

/// A service that uses keys in its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// The wide-column store.
    Bigtable,
    /// Pipelines.
    Dataflow,
    /// Buckets.
    Storage,
    /// Claviger's own catalog.
    Platform,
}

impl Service {
    /// All services.
    pub const ALL: [Self; 4] = [Self::Bigtable, Self::Dataflow, Self::Storage, Self::Platform];

    /// The name on the command line, which is also the id of the service's managed key.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bigtable => "bigtable",
            Self::Dataflow => "dataflow",
            Self::Storage => "storage",
            Self::Platform => "platform",
        }
    }

    /// The service of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.as_str() == name)
    }

    /// The e-mail address of the service's agent in the project of that number.
    #[must_use]
    pub fn agent_email(self, project_number: u64) -> String {
        match self.agent_domain() {
            Some(domain) => format!("service-{project_number}@{domain}"),
            None => PLATFORM_AGENT.trim_start_matches("serviceAccount:").to_owned(),
        }
    }

    /// The service's agent in the project of that number, as a caller.
    #[must_use]
    pub fn agent(self, project_number: u64) -> Caller {
        Caller::new(format!("serviceAccount:{}", self.agent_email(project_number)))
    }

    fn agent_domain(self) -> Option<&'static str> {
        match self {
            Self::Bigtable => Some("gcp-sa-bigtable.iam.gserviceaccount.com"),
            Self::Dataflow => Some("dataflow-service-producer-prod.iam.gserviceaccount.com"),
            Self::Storage => Some("gs-project-accounts.iam.gserviceaccount.com"),
            Self::Platform => None,
        }
    }

    /// Whether `principal` is this service's agent, in whatever project.
    #[must_use]
    pub fn is_agent(self, principal: &str) -> bool {
        let Some(domain) = self.agent_domain() else { return principal == PLATFORM_AGENT };
        principal.strip_prefix("serviceAccount:service-").and_then(|rest| rest.split_once('@')).is_some_and(
            |(number, of)| of == domain && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()),
        )
    }
}

/// The name of the key that Claviger manages for a service in a location.
///
/// # Errors
/// `InvalidArgument` when the location is no id.
pub(crate) fn managed_key_name(service: Service, location: &str) -> Result<CryptoKeyName> {
    CryptoKeyName::new(MANAGED_PROJECT, location, MANAGED_RING, service.as_str())
}

/// Whether `principal` may use a key of the reserved project: each service's agents use that service's.
pub(crate) fn may_use_managed(principal: &str, key: &CryptoKeyName) -> bool {
    key.key_ring() == MANAGED_RING
        && Service::parse(key.crypto_key()).is_some_and(|service| service.is_agent(principal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_have_the_documented_addresses() {
        for (service, email) in [
            (Service::Bigtable, "service-7@gcp-sa-bigtable.iam.gserviceaccount.com"),
            (Service::Dataflow, "service-7@dataflow-service-producer-prod.iam.gserviceaccount.com"),
            (Service::Storage, "service-7@gs-project-accounts.iam.gserviceaccount.com"),
        ] {
            assert_eq!(service.agent_email(7), email);
            assert!(service.is_agent(&service.agent(7).principal));
        }
    }

    #[test]
    fn a_managed_key_is_for_the_agents_of_its_own_service() {
        let key = managed_key_name(Service::Bigtable, "us-east1").unwrap();
        assert!(may_use_managed(&Service::Bigtable.agent(100_000_000_001).principal, &key));
        for other in [
            Service::Storage.agent(100_000_000_001).principal.as_str(),
            Service::Platform.agent(0).principal.as_str(),
            Caller::LOCAL_ADMIN,
            "serviceAccount:service-@gcp-sa-bigtable.iam.gserviceaccount.com",
            "serviceAccount:service-1x@gcp-sa-bigtable.iam.gserviceaccount.com",
            "user:service-1@gcp-sa-bigtable.iam.gserviceaccount.com",
        ] {
            assert!(!may_use_managed(other, &key), "{other}");
        }
    }
}
