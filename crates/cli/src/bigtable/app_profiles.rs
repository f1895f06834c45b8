//! `claviger bigtable app-profiles`.
//!
//! Invariant: reads only.

use clap::Subcommand;
use claviger_proto::google::bigtable::admin::v2::{GetAppProfileRequest, ListAppProfilesRequest};
use serde_json::Value;

use super::instances::warn_of_missing;
use crate::client::Session;
use crate::failure::Failure;
use crate::names::InInstance;
use crate::output::{Cell, Column};

const COLUMNS: [Column; 4] = [
    Column::new("NAME", Cell::Id("name")),
    Column::new("DESCRIPTION", Cell::Path("description")),
    Column::new("ROUTING", Cell::Made(routing)),
    Column::new("TRANSACTIONAL_WRITES", Cell::Path("singleClusterRouting.allowTransactionalWrites")),
];

/// `claviger bigtable app-profiles ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the app profiles of an instance
    List {
        #[command(flatten)]
        at: InInstance,
    },
    /// Show an app profile
    Describe {
        /// The app profile: an id, or its full name
        #[arg(value_name = "APP_PROFILE")]
        app_profile: String,
        #[command(flatten)]
        at: InInstance,
    },
}

fn routing(profile: &Value) -> String {
    match profile.pointer("/singleClusterRouting/clusterId") {
        Some(cluster) => cluster.as_str().unwrap_or_default().to_owned(),
        None if profile.get("multiClusterRoutingUseAny").is_some() => "any cluster".to_owned(),
        None => String::new(),
    }
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { at } => {
            let parent = at.parent(&session.project)?.to_string();
            let mut found = Vec::new();
            let mut page_token = String::new();
            loop {
                let request =
                    ListAppProfilesRequest { parent: parent.clone(), page_token, ..Default::default() };
                let page = session.instances().list_app_profiles(request).await?.into_inner();
                found.extend(page.app_profiles);
                warn_of_missing(&page.failed_locations);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return session.out.list(&found, &COLUMNS);
                }
            }
        }
        Command::Describe { app_profile, at } => {
            let name = at.app_profile(&session.project, &app_profile)?.to_string();
            let profile = session.instances().get_app_profile(GetAppProfileRequest { name }).await?;
            session.out.one(&profile.into_inner())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routing_names_the_cluster_or_says_any() {
        assert_eq!(routing(&json!({"singleClusterRouting": {"clusterId": "c1"}})), "c1");
        assert_eq!(routing(&json!({"multiClusterRoutingUseAny": {}})), "any cluster");
        assert_eq!(routing(&json!({})), "");
    }
}
