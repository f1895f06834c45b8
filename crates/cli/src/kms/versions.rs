//! `claviger kms keys versions`.
//!
//! Invariant: destroying asks first when someone is there to answer.

use clap::{Args, Subcommand};
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_proto::google::cloud::kms::v1::crypto_key_version::CryptoKeyVersionState;
use claviger_proto::google::cloud::kms::v1::{
    CreateCryptoKeyVersionRequest, CryptoKeyVersion, DestroyCryptoKeyVersionRequest,
    GetCryptoKeyVersionRequest, ListCryptoKeyVersionsRequest, RestoreCryptoKeyVersionRequest,
    UpdateCryptoKeyVersionRequest,
};
use prost_types::FieldMask;

use super::{all_pages, keys};
use crate::client::Session;
use crate::failure::Failure;
use crate::names::InKey;
use crate::output::{Cell, Column, confirm, say};

const COLUMNS: [Column; 5] = [
    Column::new("NAME", Cell::Path("name")),
    Column::new("STATE", Cell::Path("state")),
    Column::new("ALGORITHM", Cell::Path("algorithm")),
    Column::new("CREATED", Cell::Path("createTime")),
    Column::new("DESTROYED", Cell::Path("destroyTime")),
];

/// `claviger kms keys versions ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new version
    Create {
        #[command(flatten)]
        at: InKey,
        /// Let it encrypt from now on
        #[arg(long)]
        primary: bool,
    },
    /// List the versions of a key
    List {
        #[command(flatten)]
        at: InKey,
        /// List at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a version
    Describe(One),
    /// Enable a version
    Enable(One),
    /// Disable a version: what lies under it cannot be read until it is enabled
    Disable(One),
    /// Schedule a version for destruction
    Destroy(One),
    /// Take a version back from destruction; it is disabled then
    Restore(One),
}

/// One version.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The version: its number, or its full name
    #[arg(value_name = "VERSION")]
    version: String,
    #[command(flatten)]
    at: InKey,
}

impl One {
    fn name(&self, session: &Session) -> Result<CryptoKeyVersionName, Failure> {
        self.at.version(&session.project, &self.version)
    }
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { at, primary } => {
            let key = at.parent(&session.project)?;
            let version = create(session, &key).await?;
            if primary {
                keys::set_primary(session, &key, &version.name).await?;
            }
            let is = if primary { ", which is primary now" } else { "" };
            session.out.done(&version, &format!("Created version [{}]{is}.", version.name))
        }
        Command::List { at, limit } => {
            let key = at.parent(&session.project)?;
            session.out.list(&all(session, &key, limit).await?, &COLUMNS)
        }
        Command::Describe(one) => {
            let request = GetCryptoKeyVersionRequest { name: one.name(session)?.to_string() };
            session.out.one(&session.kms().get_crypto_key_version(request).await?.into_inner())
        }
        Command::Enable(one) => {
            let name = one.name(session)?.to_string();
            let version = set_state(session, name, CryptoKeyVersionState::Enabled).await?;
            session.out.done(&version, &format!("Enabled version [{}].", version.name))
        }
        Command::Disable(one) => {
            let name = one.name(session)?.to_string();
            let version = set_state(session, name, CryptoKeyVersionState::Disabled).await?;
            session.out.done(&version, &format!("Disabled version [{}].", version.name))
        }
        Command::Destroy(one) => {
            let name = one.name(session)?.to_string();
            confirm(session.quiet, &format!("Destroy version [{name}]? Data under it will be lost."))?;
            let version = destroy(session, name).await?;
            if let Some(time) = version.destroy_time {
                say(&format!("Until {time} it can be restored."));
            }
            session.out.done(&version, &format!("Scheduled version [{}] for destruction.", version.name))
        }
        Command::Restore(one) => {
            let request = RestoreCryptoKeyVersionRequest { name: one.name(session)?.to_string() };
            let version = session.kms().restore_crypto_key_version(request).await?.into_inner();
            session.out.done(&version, &format!("Restored version [{}]; it is disabled.", version.name))
        }
    }
}

/// Makes a version.
pub(super) async fn create(session: &Session, key: &CryptoKeyName) -> Result<CryptoKeyVersion, Failure> {
    let request = CreateCryptoKeyVersionRequest {
        parent: key.to_string(),
        crypto_key_version: Some(CryptoKeyVersion::default()),
    };
    Ok(session.kms().create_crypto_key_version(request).await?.into_inner())
}

/// The versions of a key, at most `limit`.
pub(super) async fn all(
    session: &Session,
    key: &CryptoKeyName,
    limit: Option<usize>,
) -> Result<Vec<CryptoKeyVersion>, Failure> {
    let mut kms = session.kms();
    Ok(all_pages!(
        limit,
        |page_token, page_size| kms.list_crypto_key_versions(ListCryptoKeyVersionsRequest {
            parent: key.to_string(),
            page_token: page_token.clone(),
            page_size,
            ..Default::default()
        }),
        crypto_key_versions
    ))
}

/// Enables or disables a version.
pub(super) async fn set_state(
    session: &Session,
    name: String,
    state: CryptoKeyVersionState,
) -> Result<CryptoKeyVersion, Failure> {
    let request = UpdateCryptoKeyVersionRequest {
        crypto_key_version: Some(CryptoKeyVersion { name, state: state.into(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["state".into()] }),
    };
    Ok(session.kms().update_crypto_key_version(request).await?.into_inner())
}

/// Schedules a version for destruction.
pub(super) async fn destroy(session: &Session, name: String) -> Result<CryptoKeyVersion, Failure> {
    let request = DestroyCryptoKeyVersionRequest { name };
    Ok(session.kms().destroy_crypto_key_version(request).await?.into_inner())
}
