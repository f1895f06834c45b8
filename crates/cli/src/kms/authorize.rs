//! `claviger kms keys authorize`: lets a service's agent use a key.
//!
//! Invariant: the agent is that of the project whose data the key is to protect, which need not be the key's.

use clap::{Args, ValueEnum};
use claviger_core::names::CryptoKeyName;
use claviger_proto::google::cloud::resourcemanager::v3::GetProjectRequest;

use super::iam;
use crate::client::Session;
use crate::failure::Failure;
use crate::output::{Format, say, write_text};

/// The role that every service needs on a key.
const ROLE: &str = "roles/cloudkms.cryptoKeyEncrypterDecrypter";

pub(crate) const EXAMPLES: &str = "\
Examples:
  claviger kms keys authorize k --keyring ring --location us-east1 --service bigtable
  claviger kms keys authorize --service bigtable --project birds \\
      projects/keys/locations/us-east1/keyRings/ring/cryptoKeys/k

The service agent is that of --project: the project of the instance, not of the key.";

/// `claviger kms keys authorize`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The service that is to use the key
    #[arg(long, value_enum)]
    service: Service,
}

/// A service with an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Service {
    /// The wide-column store
    Bigtable,
    /// Pipelines
    Dataflow,
    /// Buckets
    Storage,
}

impl Service {
    /// The principal of its agent in a project.
    fn agent(self, project_number: &str) -> String {
        let domain = match self {
            Self::Bigtable => "gcp-sa-bigtable.iam.gserviceaccount.com",
            Self::Dataflow => "dataflow-service-producer-prod.iam.gserviceaccount.com",
            Self::Storage => "gs-project-accounts.iam.gserviceaccount.com",
        };
        format!("serviceAccount:service-{project_number}@{domain}")
    }
}

/// Gives the agent the role, and prints the agent.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, key: &CryptoKeyName, options: &Options) -> Result<(), Failure> {
    let request = GetProjectRequest { name: format!("projects/{}", session.project) };
    let project = session.projects().get_project(request).await?.into_inner();
    let number = project
        .name
        .strip_prefix("projects/")
        .filter(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| {
            Failure::local(format!("the server names no number for project {}", session.project))
        })?;
    let agent = options.service.agent(number);
    let (policy, changed) =
        iam::change(session, key.as_str(), |policy| iam::give(policy, ROLE, &agent)).await?;
    let did = if changed { "Gave" } else { "Nothing to do: already given" };
    say(&format!("{did} [{ROLE}] on [{key}]."));
    match session.out.format {
        Format::Table => write_text(&format!("{agent}\n")),
        _ => session.out.one(&policy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_have_the_documented_addresses() {
        for (service, agent) in [
            (Service::Bigtable, "serviceAccount:service-7@gcp-sa-bigtable.iam.gserviceaccount.com"),
            (
                Service::Dataflow,
                "serviceAccount:service-7@dataflow-service-producer-prod.iam.gserviceaccount.com",
            ),
            (Service::Storage, "serviceAccount:service-7@gs-project-accounts.iam.gserviceaccount.com"),
        ] {
            assert_eq!(service.agent("7"), agent);
        }
    }
}
