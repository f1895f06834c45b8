//! `claviger kms keys versions`.
//!
//! Invariant: destroying asks first when someone is there to answer.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_crypto::{SecretBytes, wrapping};
use claviger_proto::google::cloud::kms::v1::crypto_key_version::{
    CryptoKeyVersionAlgorithm, CryptoKeyVersionState,
};
use claviger_proto::google::cloud::kms::v1::{
    CreateCryptoKeyVersionRequest, CryptoKeyVersion, DestroyCryptoKeyVersionRequest,
    ExternalProtectionLevelOptions, GetCryptoKeyVersionRequest, ImportCryptoKeyVersionRequest,
    ListCryptoKeyVersionsRequest, RestoreCryptoKeyVersionRequest, UpdateCryptoKeyVersionRequest,
};
use prost_types::FieldMask;

use super::{all_pages, import_jobs, keys};
use crate::client::Session;
use crate::failure::Failure;
use crate::flags::read_file;
use crate::names::{InKey, InRing};
use crate::output::{Cell, Column, confirm, say};

const COLUMNS: [Column; 5] = [
    Column::new("NAME", Cell::Path("name")),
    Column::new("STATE", Cell::Path("state")),
    Column::new("ALGORITHM", Cell::Path("algorithm")),
    Column::new("CREATED", Cell::Path("createTime")),
    Column::new("DESTROYED", Cell::Path("destroyTime")),
];

/// The longest key, and the longest wrapped one, bytes.
const MAX_KEY: u64 = 64 * 1024;

const IMPORT_EXAMPLES: &str = "\
Examples:
  claviger kms keys versions import --key k --keyring ring --location us-east1 \\
      --import-job j --target-key-file key.bin
  claviger kms keys versions import 1 --key k --keyring ring --location us-east1 \\
      --import-job j --wrapped-key-file key.wrapped

A key is 32 bytes. With --target-key-file it is wrapped here, and leaves this machine only so. With a version, the
same key is imported into it again, after it was destroyed.";

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
        #[command(flatten)]
        external: External,
    },
    /// List the versions of a key
    List {
        #[command(flatten)]
        at: InKey,
        /// List those that the filter accepts, as in state=ENABLED
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
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
    /// Import a key made elsewhere
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Import),
}

/// Where an external key is.
#[derive(Debug, Args)]
pub(crate) struct External {
    /// The URI of the key at its key manager, for a key of external
    #[arg(long, value_name = "URI", conflicts_with = "ekm_connection_key_path")]
    external_key_uri: Option<String>,
    /// The path of the key at the key manager of its connection, for a key of external-vpc
    #[arg(long, value_name = "PATH")]
    ekm_connection_key_path: Option<String>,
}

impl External {
    fn options(&self) -> Option<ExternalProtectionLevelOptions> {
        let (uri, path) = (&self.external_key_uri, &self.ekm_connection_key_path);
        (uri.is_some() || path.is_some()).then(|| ExternalProtectionLevelOptions {
            external_key_uri: uri.clone().unwrap_or_default(),
            ekm_connection_key_path: path.clone().unwrap_or_default(),
            ..Default::default()
        })
    }
}

/// `claviger kms keys versions import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The version to import into again: its number, or its full name [default: a new one]
    #[arg(value_name = "VERSION")]
    version: Option<String>,
    #[command(flatten)]
    at: InKey,
    /// The import job: an id in the same key ring, or its full name
    #[arg(long, value_name = "JOB")]
    import_job: String,
    /// The key itself; it is wrapped before it is sent
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "wrapped_key_file",
        required_unless_present = "wrapped_key_file"
    )]
    target_key_file: Option<PathBuf>,
    /// The key, wrapped to the public key of the job
    #[arg(long, value_name = "FILE")]
    wrapped_key_file: Option<PathBuf>,
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
        Command::Create { at, primary, external } => {
            let key = at.parent(&session.project)?;
            let version = create(session, &key, external.options()).await?;
            if primary {
                keys::set_primary(session, &key, &version.name).await?;
            }
            let is = if primary { ", which is primary now" } else { "" };
            session.out.done(&version, &format!("Created version [{}]{is}.", version.name))
        }
        Command::List { at, filter, limit } => {
            let key = at.parent(&session.project)?;
            session.out.list(&some(session, &key, filter, limit).await?, &COLUMNS)
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
        Command::Import(options) => import(session, &options).await,
    }
}

/// Makes a version.
pub(super) async fn create(
    session: &Session,
    key: &CryptoKeyName,
    external: Option<ExternalProtectionLevelOptions>,
) -> Result<CryptoKeyVersion, Failure> {
    let request = CreateCryptoKeyVersionRequest {
        parent: key.to_string(),
        crypto_key_version: Some(CryptoKeyVersion {
            external_protection_level_options: external,
            ..Default::default()
        }),
    };
    Ok(session.kms().create_crypto_key_version(request).await?.into_inner())
}

async fn import(session: &Session, options: &Import) -> Result<(), Failure> {
    let key = options.at.parent(&session.project)?;
    let into = options.version.as_deref().map(|version| options.at.version(&session.project, version));
    let into = into.transpose()?;
    let ring = InRing { location: Some(key.location().to_owned()), keyring: Some(key.key_ring().to_owned()) };
    let job = ring.import_job(key.project(), &options.import_job)?;
    let wrapped = match (&options.target_key_file, &options.wrapped_key_file) {
        (Some(file), _) => {
            let (method, public) = import_jobs::public_key(session, &job).await?;
            let target = SecretBytes::new(read_file(file, MAX_KEY)?);
            wrapping::wrap(method, &public, &target)
                .map_err(|error| Failure::local(format!("{}: {error}", file.display())))?
        }
        (None, Some(file)) => read_file(file, MAX_KEY)?,
        (None, None) => return Err(Failure::usage("--target-key-file or --wrapped-key-file is needed")),
    };
    let request = ImportCryptoKeyVersionRequest {
        parent: key.to_string(),
        crypto_key_version: into.map_or_else(String::new, String::from),
        algorithm: CryptoKeyVersionAlgorithm::GoogleSymmetricEncryption.into(),
        import_job: job.to_string(),
        wrapped_key: wrapped.into(),
        ..Default::default()
    };
    let version = session.kms().import_crypto_key_version(request).await?.into_inner();
    if version.state() == CryptoKeyVersionState::ImportFailed {
        return Err(Failure::advised(
            format!("version [{}] was not imported: {}", version.name, version.import_failure_reason),
            "import into the same version again, with a key that is right",
        ));
    }
    session.out.done(&version, &format!("Imported version [{}].", version.name))
}

/// All versions of a key.
pub(super) async fn all(session: &Session, key: &CryptoKeyName) -> Result<Vec<CryptoKeyVersion>, Failure> {
    some(session, key, None, None).await
}

/// The versions of a key that a filter accepts, at most `limit`.
async fn some(
    session: &Session,
    key: &CryptoKeyName,
    filter: Option<String>,
    limit: Option<usize>,
) -> Result<Vec<CryptoKeyVersion>, Failure> {
    let mut kms = session.kms();
    Ok(all_pages!(
        limit,
        |page_token, page_size| kms.list_crypto_key_versions(ListCryptoKeyVersionsRequest {
            parent: key.to_string(),
            page_token: page_token.clone(),
            page_size,
            filter: filter.clone().unwrap_or_default(),
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
