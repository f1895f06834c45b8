//! `claviger kms keys`.
//!
//! Invariant: `disable`, `enable` and `destroy` of a key mean all of its versions: data may lie under any of
//! them.

use clap::{Args, Subcommand, ValueEnum};
use claviger_core::names::CryptoKeyName;
use claviger_proto::google::cloud::kms::v1::crypto_key::{CryptoKeyPurpose, RotationSchedule};
use claviger_proto::google::cloud::kms::v1::crypto_key_version::{
    CryptoKeyVersionAlgorithm, CryptoKeyVersionState,
};
use claviger_proto::google::cloud::kms::v1::{
    AccessReason, CreateCryptoKeyRequest, CryptoKey, CryptoKeyVersion, CryptoKeyVersionTemplate,
    GetCryptoKeyRequest, KeyAccessJustificationsPolicy, ListCryptoKeysRequest, ProtectionLevel,
    UpdateCryptoKeyPrimaryVersionRequest, UpdateCryptoKeyRequest,
};
use prost_types::FieldMask;
use serde_json::Value;

use super::{all_pages, authorize, crypt, iam, versions};
use crate::client::Session;
use crate::failure::Failure;
use crate::flags;
use crate::names::InRing;
use crate::output::{Cell, Column, confirm, say};

const COLUMNS: [Column; 7] = [
    Column::new("NAME", Cell::Path("name")),
    Column::new("PURPOSE", Cell::Path("purpose")),
    Column::new("ALGORITHM", Cell::Path("versionTemplate.algorithm")),
    Column::new("PROTECTION_LEVEL", Cell::Path("versionTemplate.protectionLevel")),
    Column::new("LABELS", Cell::Path("labels")),
    Column::new("PRIMARY_ID", Cell::Id("primary.name")),
    Column::new("PRIMARY_STATE", Cell::Path("primary.state")),
];

const CREATE_EXAMPLES: &str = "\
Examples:
  claviger kms keys create k --keyring ring --location us-east1 --purpose encryption
  claviger kms keys create k --keyring ring --location us-east1 --purpose encryption \\
      --rotation-period 90d --next-rotation-time +90d --labels team=birds
  claviger kms keys create k --keyring ring --location us-east1 --purpose encryption \\
      --protection-level external-vpc --crypto-key-backend c --skip-initial-version-creation";

/// `claviger kms keys ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a key
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<Create>),
    /// List the keys of a key ring
    List {
        #[command(flatten)]
        at: InRing,
        /// List those that the filter accepts, as in labels.team=birds
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// List at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a key
    Describe(One),
    /// Change a key's rotation schedule or labels
    Update(Box<Update>),
    /// Make another version the one that encrypts
    SetPrimaryVersion {
        #[command(flatten)]
        one: One,
        /// The version's number
        #[arg(long, value_name = "N")]
        version: String,
    },
    /// Encrypt a file under the primary version
    #[command(after_help = crypt::EXAMPLES)]
    Encrypt {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        files: crypt::EncryptFiles,
    },
    /// Decrypt a file
    #[command(after_help = crypt::EXAMPLES)]
    Decrypt {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        files: crypt::DecryptFiles,
    },
    /// Let a service use the key: gives its service agent the role that it needs
    #[command(after_help = authorize::EXAMPLES)]
    Authorize {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        options: authorize::Options,
    },
    /// Make a new version and let it encrypt from now on
    Rotate(One),
    /// Disable all enabled versions: what lies under the key cannot be read until they are enabled
    Disable(One),
    /// Enable all disabled versions
    Enable(One),
    /// Schedule all versions for destruction: when the time is over, the data under the key is lost for ever
    Destroy(One),
    /// Show who may do what with a key
    GetIamPolicy(One),
    /// Replace the whole policy of a key by one in a JSON or YAML file
    SetIamPolicy {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        file: iam::PolicyFile,
    },
    /// Give someone a role on a key
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
    /// The versions of a key: the material itself
    #[command(subcommand)]
    Versions(versions::Command),
}

/// One key.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The key: an id, or its full name
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    at: InRing,
}

impl One {
    fn name(&self, session: &Session) -> Result<CryptoKeyName, Failure> {
        self.at.key(&session.project, &self.key)
    }
}

/// What a key is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Purpose {
    /// Encrypt and decrypt; what Claviger's services need
    Encryption,
    /// Encrypt and decrypt with a cipher of one's choice
    RawEncryption,
    /// Sign
    AsymmetricSigning,
    /// Decrypt what was encrypted to a public key
    AsymmetricEncryption,
    /// Authenticate messages
    Mac,
}

/// Where a key lives.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protection {
    /// In Claviger's own software
    Software,
    /// In a hardware security module
    Hsm,
    /// In a key manager elsewhere
    External,
    /// In a key manager elsewhere, through a connection
    ExternalVpc,
}

impl Protection {
    fn is_external(self) -> bool {
        matches!(self, Self::External | Self::ExternalVpc)
    }
}

impl From<Protection> for ProtectionLevel {
    fn from(protection: Protection) -> Self {
        match protection {
            Protection::Software => Self::Software,
            Protection::Hsm => Self::Hsm,
            Protection::External => Self::External,
            Protection::ExternalVpc => Self::ExternalVpc,
        }
    }
}

/// `claviger kms keys create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    one: One,
    /// What the key is for
    #[arg(long, value_enum)]
    purpose: Purpose,
    /// Rotate this often, as in 90d; needs --next-rotation-time
    #[arg(long, value_name = "DURATION", value_parser = flags::duration, requires = "next_rotation_time")]
    rotation_period: Option<prost_types::Duration>,
    /// When to rotate first: RFC 3339, a date, or a duration from now as in +90d
    #[arg(long, value_name = "TIME", value_parser = flags::moment)]
    next_rotation_time: Option<prost_types::Timestamp>,
    /// How long a version stays restorable after it was destroyed, as in 30d
    #[arg(long, value_name = "DURATION", value_parser = flags::duration)]
    destroy_scheduled_duration: Option<prost_types::Duration>,
    /// Where the key lives
    #[arg(long, value_enum, default_value_t = Protection::Software)]
    protection_level: Protection,
    /// The algorithm of new versions, as in google-symmetric-encryption [default: the purpose's own]
    #[arg(long, value_name = "ALGORITHM", value_parser = algorithm)]
    default_algorithm: Option<CryptoKeyVersionAlgorithm>,
    /// Make no version yet
    #[arg(long)]
    skip_initial_version_creation: bool,
    /// Let the key have imported versions only
    #[arg(long, requires = "skip_initial_version_creation")]
    import_only: bool,
    /// The connection to the key manager, for external-vpc: an id, or its full name [default: the location's own]
    #[arg(long, value_name = "CONNECTION")]
    crypto_key_backend: Option<String>,
    #[command(flatten)]
    reasons: Reasons,
    /// Labels, as KEY=VALUE,...
    #[arg(long, value_name = "KEY=VALUE", value_parser = flags::pair, value_delimiter = ',')]
    labels: Vec<(String, String)>,
}

/// For which reasons a key may be used.
#[derive(Debug, Args)]
pub(crate) struct Reasons {
    /// Let the key be used for these reasons only, as in customer-initiated-access,google-initiated-system-operation;
    /// without the latter no service can hold data under it
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reason)]
    allowed_access_reasons: Option<Vec<AccessReason>>,
}

impl Reasons {
    fn policy(&self) -> Option<KeyAccessJustificationsPolicy> {
        let reasons = self.allowed_access_reasons.as_ref()?;
        let allowed_access_reasons = reasons.iter().map(|reason| (*reason).into()).collect();
        Some(KeyAccessJustificationsPolicy { allowed_access_reasons })
    }
}

fn reason(text: &str) -> Result<AccessReason, String> {
    AccessReason::from_str_name(&flags::enum_name(text))
        .ok_or_else(|| format!("there is no reason '{text}'; one is customer-initiated-access"))
}

/// `claviger kms keys update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    one: One,
    /// Rotate this often, as in 90d
    #[arg(long, value_name = "DURATION", value_parser = flags::duration)]
    rotation_period: Option<prost_types::Duration>,
    /// When to rotate next: RFC 3339, a date, or a duration from now as in +90d
    #[arg(long, value_name = "TIME", value_parser = flags::moment)]
    next_rotation_time: Option<prost_types::Timestamp>,
    /// Rotate by hand only
    #[arg(long, conflicts_with_all = ["rotation_period", "next_rotation_time"])]
    remove_rotation_schedule: bool,
    /// The algorithm of new versions
    #[arg(long, value_name = "ALGORITHM", value_parser = algorithm)]
    default_algorithm: Option<CryptoKeyVersionAlgorithm>,
    /// Make this version the one that encrypts
    #[arg(long, value_name = "N")]
    primary_version: Option<String>,
    #[command(flatten)]
    reasons: Reasons,
    /// Let the key be used for any reason again
    #[arg(long, conflicts_with = "allowed_access_reasons")]
    remove_key_access_justifications_policy: bool,
    #[command(flatten)]
    labels: LabelChanges,
}

/// Changes of labels.
#[derive(Debug, Default, Args)]
pub(crate) struct LabelChanges {
    /// Set labels, as KEY=VALUE,...
    #[arg(long, value_name = "KEY=VALUE", value_parser = flags::pair, value_delimiter = ',')]
    update_labels: Vec<(String, String)>,
    /// Remove labels by their keys, parted by commas
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    remove_labels: Vec<String>,
    /// Remove all labels
    #[arg(long, conflicts_with_all = ["update_labels", "remove_labels"])]
    clear_labels: bool,
}

impl LabelChanges {
    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        self.clear_labels || !self.update_labels.is_empty() || !self.remove_labels.is_empty()
    }

    /// Makes the changes.
    pub(crate) fn apply(&self, labels: &mut std::collections::HashMap<String, String>) {
        if self.clear_labels {
            labels.clear();
        }
        labels.retain(|key, _| !self.remove_labels.contains(key));
        labels.extend(self.update_labels.iter().cloned());
    }

    /// The changes as a patch in JSON: a null removes a label, or all.
    pub(crate) fn patch(&self) -> Value {
        if self.clear_labels {
            return Value::Null;
        }
        let removed = self.remove_labels.iter().map(|key| (key.clone(), Value::Null));
        let set = self.update_labels.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
        Value::Object(removed.chain(set).collect())
    }
}

fn algorithm(text: &str) -> Result<CryptoKeyVersionAlgorithm, String> {
    CryptoKeyVersionAlgorithm::from_str_name(&flags::enum_name(text))
        .ok_or_else(|| format!("there is no algorithm '{text}'; one is google-symmetric-encryption"))
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => create(session, &options).await,
        Command::List { at, filter, limit } => list(session, &at, filter, limit).await,
        Command::Describe(one) => {
            let request = GetCryptoKeyRequest { name: one.name(session)?.to_string() };
            session.out.one(&session.kms().get_crypto_key(request).await?.into_inner())
        }
        Command::Update(options) => update(session, &options).await,
        Command::SetPrimaryVersion { one, version } => {
            let key = set_primary(session, &one.name(session)?, &version).await?;
            session.out.done(&key, &format!("Version [{version}] of key [{}] is primary.", key.name))
        }
        Command::Encrypt { one, files } => crypt::encrypt(session, &one.name(session)?, &files).await,
        Command::Decrypt { one, files } => crypt::decrypt(session, &one.name(session)?, &files).await,
        Command::Authorize { one, options } => authorize::run(session, &one.name(session)?, &options).await,
        Command::Rotate(one) => rotate(session, &one.name(session)?).await,
        Command::Disable(one) => {
            let key = one.name(session)?;
            let state = CryptoKeyVersionState::Disabled;
            let changed = set_all(session, &key, CryptoKeyVersionState::Enabled, state).await?;
            tell(session, &key, &changed, "Disabled", "enabled")
        }
        Command::Enable(one) => {
            let key = one.name(session)?;
            let state = CryptoKeyVersionState::Enabled;
            let changed = set_all(session, &key, CryptoKeyVersionState::Disabled, state).await?;
            tell(session, &key, &changed, "Enabled", "disabled")
        }
        Command::Destroy(one) => destroy_all(session, &one.name(session)?).await,
        Command::GetIamPolicy(one) => iam::show(session, one.name(session)?.to_string()).await,
        Command::SetIamPolicy { one, file } => {
            iam::replace(session, one.name(session)?.to_string(), &file).await
        }
        Command::AddIamPolicyBinding { one, grant } => {
            iam::add(session, one.name(session)?.to_string(), &grant).await
        }
        Command::RemoveIamPolicyBinding { one, grant } => {
            iam::remove(session, one.name(session)?.to_string(), &grant).await
        }
        Command::Versions(command) => versions::run(session, command).await,
    }
}

async fn create(session: &Session, options: &Create) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let purpose = match options.purpose {
        Purpose::Encryption => CryptoKeyPurpose::EncryptDecrypt,
        Purpose::RawEncryption => CryptoKeyPurpose::RawEncryptDecrypt,
        Purpose::AsymmetricSigning => CryptoKeyPurpose::AsymmetricSign,
        Purpose::AsymmetricEncryption => CryptoKeyPurpose::AsymmetricDecrypt,
        Purpose::Mac => CryptoKeyPurpose::Mac,
    };
    let algorithm = match (options.default_algorithm, options.purpose) {
        (Some(algorithm), _) => algorithm,
        (None, Purpose::Encryption) if options.protection_level.is_external() => {
            CryptoKeyVersionAlgorithm::ExternalSymmetricEncryption
        }
        (None, Purpose::Encryption) => CryptoKeyVersionAlgorithm::GoogleSymmetricEncryption,
        (None, _) => return Err(Failure::usage("--default-algorithm is needed for this purpose")),
    };
    let key = CryptoKey {
        purpose: purpose.into(),
        version_template: Some(CryptoKeyVersionTemplate {
            protection_level: ProtectionLevel::from(options.protection_level).into(),
            algorithm: algorithm.into(),
        }),
        next_rotation_time: options.next_rotation_time,
        rotation_schedule: options.rotation_period.map(RotationSchedule::RotationPeriod),
        destroy_scheduled_duration: options.destroy_scheduled_duration,
        import_only: options.import_only,
        crypto_key_backend: match &options.crypto_key_backend {
            None => String::new(),
            Some(name) if name.contains('/') => name.clone(),
            Some(id) => format!("{}/ekmConnections/{id}", name.key_ring_name().location_name()),
        },
        key_access_justifications_policy: options.reasons.policy(),
        labels: options.labels.iter().cloned().collect(),
        ..Default::default()
    };
    let request = CreateCryptoKeyRequest {
        parent: name.key_ring_name().to_string(),
        crypto_key_id: name.crypto_key().to_owned(),
        crypto_key: Some(key),
        skip_initial_version_creation: options.skip_initial_version_creation,
        ..Default::default()
    };
    let key = session.kms().create_crypto_key(request).await?.into_inner();
    session.out.done(&key, &format!("Created key [{}].", key.name))
}

async fn list(
    session: &Session,
    at: &InRing,
    filter: Option<String>,
    limit: Option<usize>,
) -> Result<(), Failure> {
    let parent = at.parent(&session.project)?.to_string();
    let mut kms = session.kms();
    let keys = all_pages!(
        limit,
        |page_token, page_size| kms.list_crypto_keys(ListCryptoKeysRequest {
            parent: parent.clone(),
            page_token: page_token.clone(),
            page_size,
            filter: filter.clone().unwrap_or_default(),
            ..Default::default()
        }),
        crypto_keys
    );
    session.out.list(&keys, &COLUMNS)
}

async fn update(session: &Session, options: &Update) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let mut kms = session.kms();
    let mut key = kms.get_crypto_key(GetCryptoKeyRequest { name: name.to_string() }).await?.into_inner();
    let mut paths = Vec::new();
    if let Some(period) = options.rotation_period {
        key.rotation_schedule = Some(RotationSchedule::RotationPeriod(period));
        paths.push("rotation_period");
    }
    if let Some(time) = options.next_rotation_time {
        key.next_rotation_time = Some(time);
        paths.push("next_rotation_time");
    }
    if options.remove_rotation_schedule {
        key.rotation_schedule = None;
        key.next_rotation_time = None;
        paths.extend(["rotation_period", "next_rotation_time"]);
    }
    if let Some(algorithm) = options.default_algorithm {
        key.version_template.get_or_insert_default().algorithm = algorithm.into();
        paths.push("version_template.algorithm");
    }
    if let Some(policy) = options.reasons.policy() {
        key.key_access_justifications_policy = Some(policy);
        paths.push("key_access_justifications_policy");
    }
    if options.remove_key_access_justifications_policy {
        key.key_access_justifications_policy = None;
        paths.push("key_access_justifications_policy");
    }
    if options.labels.any() {
        options.labels.apply(&mut key.labels);
        paths.push("labels");
    }
    if paths.is_empty() && options.primary_version.is_none() {
        return Err(Failure::usage(
            "nothing to update: name a rotation schedule, labels, reasons or a primary version",
        ));
    }
    if !paths.is_empty() {
        let update_mask = Some(FieldMask { paths: paths.into_iter().map(str::to_owned).collect() });
        let request = UpdateCryptoKeyRequest { crypto_key: Some(key), update_mask };
        key = kms.update_crypto_key(request).await?.into_inner();
    }
    if let Some(version) = &options.primary_version {
        key = set_primary(session, &name, version).await?;
    }
    session.out.done(&key, &format!("Updated key [{}].", key.name))
}

/// Makes a version, given by its number or full name, the one that encrypts.
pub(super) async fn set_primary(
    session: &Session,
    key: &CryptoKeyName,
    version: &str,
) -> Result<CryptoKey, Failure> {
    let request = UpdateCryptoKeyPrimaryVersionRequest {
        name: key.to_string(),
        crypto_key_version_id: version.rsplit('/').next().unwrap_or(version).to_owned(),
    };
    Ok(session.kms().update_crypto_key_primary_version(request).await?.into_inner())
}

async fn rotate(session: &Session, key: &CryptoKeyName) -> Result<(), Failure> {
    let made = versions::create(session, key, None).await?;
    let rotated = set_primary(session, key, &made.name).await?;
    session.out.done(&rotated, &format!("Rotated key [{key}]: [{}] is primary.", made.name))
}

async fn set_all(
    session: &Session,
    key: &CryptoKeyName,
    from: CryptoKeyVersionState,
    to: CryptoKeyVersionState,
) -> Result<Vec<CryptoKeyVersion>, Failure> {
    let mut changed = Vec::new();
    for version in versions::all(session, key).await? {
        if version.state() == from {
            changed.push(versions::set_state(session, version.name, to).await?);
        }
    }
    Ok(changed)
}

async fn destroy_all(session: &Session, key: &CryptoKeyName) -> Result<(), Failure> {
    let gone = [
        CryptoKeyVersionState::Destroyed,
        CryptoKeyVersionState::DestroyScheduled,
        CryptoKeyVersionState::ImportFailed,
    ];
    let there: Vec<_> = versions::all(session, key)
        .await?
        .into_iter()
        .filter(|version| !gone.contains(&version.state()))
        .collect();
    if !there.is_empty() {
        confirm(
            session.quiet,
            &format!("Destroy {} version(s) of [{key}]? Data under them will be lost.", there.len()),
        )?;
    }
    let mut changed = Vec::new();
    for version in there {
        changed.push(versions::destroy(session, version.name).await?);
    }
    tell(session, key, &changed, "Scheduled for destruction:", "left to destroy")
}

/// Says what was done to each version; programs get the versions.
fn tell(
    session: &Session,
    key: &CryptoKeyName,
    changed: &[CryptoKeyVersion],
    did: &str,
    was: &str,
) -> Result<(), Failure> {
    if changed.is_empty() {
        say(&format!("Nothing to do: no version of key [{key}] is {was}."));
    }
    for version in changed {
        match version.destroy_time {
            Some(time) if version.state() == CryptoKeyVersionState::DestroyScheduled => {
                say(&format!("{did} [{}], at {time}.", version.name));
            }
            _ => say(&format!("{did} [{}].", version.name)),
        }
    }
    if session.out.format == crate::output::Format::Table {
        return Ok(());
    }
    session.out.list(changed, &[])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn labels_are_removed_and_set_and_the_others_stay() {
        let mut labels: HashMap<_, _> =
            [("a", "1"), ("b", "2"), ("c", "3")].map(|(k, v)| (k.into(), v.into())).into();
        let changes = LabelChanges {
            update_labels: vec![("b".into(), "9".into()), ("d".into(), "4".into())],
            remove_labels: vec!["a".into()],
            clear_labels: false,
        };
        changes.apply(&mut labels);
        let expected: HashMap<String, String> =
            [("b", "9"), ("c", "3"), ("d", "4")].map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!(labels, expected);
        assert_eq!(changes.patch(), serde_json::json!({"a": null, "b": "9", "d": "4"}));
        let cleared = LabelChanges { clear_labels: true, ..LabelChanges::default() };
        assert_eq!(cleared.patch(), Value::Null);
    }

    #[test]
    fn algorithms_are_spelled_as_gcloud_or_the_api_does() {
        for text in ["google-symmetric-encryption", "GOOGLE_SYMMETRIC_ENCRYPTION"] {
            assert_eq!(algorithm(text), Ok(CryptoKeyVersionAlgorithm::GoogleSymmetricEncryption));
        }
        assert!(algorithm("rot13").unwrap_err().contains("google-symmetric-encryption"));
    }
}
