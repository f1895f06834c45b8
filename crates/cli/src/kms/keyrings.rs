//! `claviger kms keyrings`.
//!
//! Invariant: a key ring is never deleted; neither is there a command for it.

use clap::{Args, Subcommand};
use claviger_proto::google::cloud::kms::v1::{
    CreateKeyRingRequest, GetKeyRingRequest, KeyRing, ListKeyRingsRequest,
};

use super::{all_pages, iam};
use crate::client::Session;
use crate::failure::Failure;
use crate::names::InLocation;
use crate::output::{Cell, Column};

const COLUMNS: [Column; 2] =
    [Column::new("NAME", Cell::Path("name")), Column::new("CREATED", Cell::Path("createTime"))];

/// `claviger kms keyrings ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a key ring
    Create(One),
    /// List the key rings of a location
    List {
        #[command(flatten)]
        at: InLocation,
        /// List at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a key ring
    Describe(One),
    /// Show who may do what with the keys of a key ring
    GetIamPolicy(One),
    /// Replace the whole policy of a key ring by one in a JSON or YAML file
    SetIamPolicy {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        file: iam::PolicyFile,
    },
    /// Give someone a role on all keys of a key ring
    AddIamPolicyBinding {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        grant: iam::Grant,
    },
    /// Take a role away
    RemoveIamPolicyBinding {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        grant: iam::Grant,
    },
}

/// One key ring.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The key ring: an id, or its full name
    #[arg(value_name = "RING")]
    ring: String,
    #[command(flatten)]
    at: InLocation,
}

impl One {
    fn name(&self, session: &Session) -> Result<String, Failure> {
        Ok(self.at.ring(&session.project, &self.ring)?.to_string())
    }
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(one) => create(session, &one).await,
        Command::List { at, limit } => {
            let parent = at.parent(&session.project)?.to_string();
            let mut kms = session.kms();
            let rings = all_pages!(
                limit,
                |page_token, page_size| kms.list_key_rings(ListKeyRingsRequest {
                    parent: parent.clone(),
                    page_token: page_token.clone(),
                    page_size,
                    ..Default::default()
                }),
                key_rings
            );
            session.out.list(&rings, &COLUMNS)
        }
        Command::Describe(one) => {
            let request = GetKeyRingRequest { name: one.name(session)? };
            session.out.one(&session.kms().get_key_ring(request).await?.into_inner())
        }
        Command::GetIamPolicy(one) => iam::show(session, one.name(session)?).await,
        Command::SetIamPolicy { one, file } => iam::replace(session, one.name(session)?, &file).await,
        Command::AddIamPolicyBinding { one, grant } => iam::add(session, one.name(session)?, &grant).await,
        Command::RemoveIamPolicyBinding { one, grant } => {
            iam::remove(session, one.name(session)?, &grant).await
        }
    }
}

async fn create(session: &Session, one: &One) -> Result<(), Failure> {
    let name = one.at.ring(&session.project, &one.ring)?;
    let request = CreateKeyRingRequest {
        parent: name.location_name().to_string(),
        key_ring_id: name.key_ring().to_owned(),
        key_ring: Some(KeyRing::default()),
    };
    let ring = session.kms().create_key_ring(request).await?.into_inner();
    session.out.done(&ring, &format!("Created key ring [{}].", ring.name))
}
