//! Resource names from what people type: a full name, or an id with flags that say where it is.
//!
//! Invariant: what leaves here is a valid name; what is missing is named by its flag.

use clap::Args;
use claviger_core::names::{
    AppProfileName, ClusterName, CryptoKeyName, CryptoKeyVersionName, ImportJobName, InstanceName,
    KeyRingName, LocationName, ProjectName, TableName,
};

use crate::failure::Failure;

/// Where key rings are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct InLocation {
    /// The location of the key ring, such as us-east1
    #[arg(long, value_name = "LOCATION")]
    pub(crate) location: Option<String>,
}

/// Where keys are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct InRing {
    /// The location of the key ring, such as us-east1
    #[arg(long, value_name = "LOCATION")]
    pub(crate) location: Option<String>,
    /// The key ring: an id, or its full name
    #[arg(long, value_name = "RING")]
    pub(crate) keyring: Option<String>,
}

/// Where key versions are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct InKey {
    #[command(flatten)]
    pub(crate) ring: InRing,
    /// The key: an id, or its full name
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

/// Where a key that is given by its id is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct KeyPlace {
    /// The key ring of a KMS key that is given by its id
    #[arg(long, value_name = "RING", requires = "kms_key")]
    kms_keyring: Option<String>,
    /// The location of --kms-keyring
    #[arg(long, value_name = "LOCATION", requires = "kms_key")]
    kms_location: Option<String>,
    /// The project of the KMS key [default: --project]
    #[arg(long, value_name = "ID", requires = "kms_key")]
    kms_project: Option<String>,
}

/// The key that is to protect something.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct KeyOptions {
    /// The key that is to protect the data: its full name, or an id with the three options below
    #[arg(long, value_name = "KEY")]
    kms_key: Option<String>,
    #[command(flatten)]
    place: KeyPlace,
}

impl KeyPlace {
    /// The full name of a key that is given by it or by its id.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn name(&self, project: &str, key: &str) -> Result<CryptoKeyName, Failure> {
        if !is_full(key) && (self.kms_keyring.is_none() || self.kms_location.is_none()) {
            return Err(Failure::usage(format!(
                "{key} is not a full name, so --kms-keyring and --kms-location are needed"
            )));
        }
        let ring = InRing { location: self.kms_location.clone(), keyring: self.kms_keyring.clone() };
        ring.key(self.kms_project.as_deref().unwrap_or(project), key)
    }
}

impl KeyOptions {
    /// The key's full name, if there is one.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn name(&self, project: &str) -> Result<Option<CryptoKeyName>, Failure> {
        self.kms_key.as_deref().map(|key| self.place.name(project, key)).transpose()
    }
}

/// Where clusters, tables and app profiles are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct InInstance {
    /// The instance: an id, or its full name
    #[arg(long, visible_alias = "instances", value_name = "INSTANCE")]
    pub(crate) instance: Option<String>,
}

fn wrong(error: claviger_core::Error) -> Failure {
    Failure::usage(error.message())
}

fn needed<'a>(value: Option<&'a str>, what: &str, flag: &str) -> Result<&'a str, Failure> {
    value.ok_or_else(|| Failure::usage(format!("{what} is not a full name, so {flag} is needed")))
}

/// Whether a text is a full name and no id.
fn is_full(text: &str) -> bool {
    text.contains('/')
}

/// The project's name.
///
/// # Errors
/// Usage: the id is no id.
pub(crate) fn project(project: &str) -> Result<ProjectName, Failure> {
    match project.strip_prefix("projects/") {
        Some(_) => ProjectName::parse(project),
        None => ProjectName::new(project),
    }
    .map_err(wrong)
}

impl InLocation {
    /// The location, which must be given.
    ///
    /// # Errors
    /// Usage: none is given or it is no id.
    pub(crate) fn parent(&self, project: &str) -> Result<LocationName, Failure> {
        let location = self.location.as_deref().ok_or_else(|| Failure::usage("--location is needed"))?;
        if is_full(location) { LocationName::parse(location) } else { LocationName::new(project, location) }
            .map_err(wrong)
    }

    /// A key ring here.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn ring(&self, project: &str, ring: &str) -> Result<KeyRingName, Failure> {
        if is_full(ring) {
            return KeyRingName::parse(ring).map_err(wrong);
        }
        let location = needed(self.location.as_deref(), ring, "--location")?;
        KeyRingName::new(project, location, ring).map_err(wrong)
    }
}

impl InRing {
    /// The key ring, which must be given.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn parent(&self, project: &str) -> Result<KeyRingName, Failure> {
        let ring = self.keyring.as_deref().ok_or_else(|| Failure::usage("--keyring is needed"))?;
        InLocation { location: self.location.clone() }.ring(project, ring)
    }

    /// A key here.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn key(&self, project: &str, key: &str) -> Result<CryptoKeyName, Failure> {
        if is_full(key) {
            return CryptoKeyName::parse(key).map_err(wrong);
        }
        needed(self.keyring.as_deref(), key, "--keyring")?;
        let ring = self.parent(project)?;
        CryptoKeyName::new(ring.project(), ring.location(), ring.key_ring(), key).map_err(wrong)
    }

    /// An import job here.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn import_job(&self, project: &str, job: &str) -> Result<ImportJobName, Failure> {
        if is_full(job) {
            return ImportJobName::parse(job).map_err(wrong);
        }
        needed(self.keyring.as_deref(), job, "--keyring")?;
        let ring = self.parent(project)?;
        ImportJobName::new(ring.project(), ring.location(), ring.key_ring(), job).map_err(wrong)
    }
}

impl InKey {
    /// The key, which must be given.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn parent(&self, project: &str) -> Result<CryptoKeyName, Failure> {
        let key = self.key.as_deref().ok_or_else(|| Failure::usage("--key is needed"))?;
        self.ring.key(project, key)
    }

    /// A version here.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn version(&self, project: &str, version: &str) -> Result<CryptoKeyVersionName, Failure> {
        if is_full(version) {
            return CryptoKeyVersionName::parse(version).map_err(wrong);
        }
        needed(self.key.as_deref(), version, "--key")?;
        let key = self.parent(project)?;
        CryptoKeyVersionName::new(key.project(), key.location(), key.key_ring(), key.crypto_key(), version)
            .map_err(wrong)
    }
}

/// An instance.
///
/// # Errors
/// Usage: it is neither an id nor a name.
pub(crate) fn instance(project: &str, instance: &str) -> Result<InstanceName, Failure> {
    if is_full(instance) { InstanceName::parse(instance) } else { InstanceName::new(project, instance) }
        .map_err(wrong)
}

impl InInstance {
    /// The instance, which must be given.
    ///
    /// # Errors
    /// Usage: none is given or it is wrong.
    pub(crate) fn parent(&self, project: &str) -> Result<InstanceName, Failure> {
        let given = self.instance.as_deref().ok_or_else(|| Failure::usage("--instance is needed"))?;
        instance(project, given)
    }

    fn parent_of(&self, project: &str, child: &str) -> Result<InstanceName, Failure> {
        needed(self.instance.as_deref(), child, "--instance")?;
        self.parent(project)
    }

    /// A cluster here.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn cluster(&self, project: &str, cluster: &str) -> Result<ClusterName, Failure> {
        if is_full(cluster) {
            return ClusterName::parse(cluster).map_err(wrong);
        }
        let instance = self.parent_of(project, cluster)?;
        ClusterName::new(instance.project(), instance.instance(), cluster).map_err(wrong)
    }

    /// A table here.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn table(&self, project: &str, table: &str) -> Result<TableName, Failure> {
        if is_full(table) {
            return TableName::parse(table).map_err(wrong);
        }
        let instance = self.parent_of(project, table)?;
        TableName::new(instance.project(), instance.instance(), table).map_err(wrong)
    }

    /// An app profile here.
    ///
    /// # Errors
    /// Usage: a part is missing or wrong.
    pub(crate) fn app_profile(&self, project: &str, profile: &str) -> Result<AppProfileName, Failure> {
        if is_full(profile) {
            return AppProfileName::parse(profile).map_err(wrong);
        }
        let instance = self.parent_of(project, profile)?;
        AppProfileName::new(instance.project(), instance.instance(), profile).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";

    fn in_key(location: &str, ring: &str, key: &str) -> InKey {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        InKey { ring: InRing { location: some(location), keyring: some(ring) }, key: some(key) }
    }

    #[test]
    fn ids_and_flags_make_a_name() {
        let version = in_key("us-east1", "r", "k").version("p", "3").unwrap();
        assert_eq!(version.as_str(), format!("{KEY}/cryptoKeyVersions/3"));
    }

    #[test]
    fn a_full_name_needs_no_flags_and_keeps_its_own_project() {
        assert_eq!(in_key("", "", "").ring.key("other", KEY).unwrap().as_str(), KEY);
        assert_eq!(in_key("", "", KEY).version("other", "1").unwrap().crypto_key_name().as_str(), KEY);
        let ring = in_key("", "projects/p/locations/us-east1/keyRings/r", "k");
        assert_eq!(ring.parent("other").unwrap().as_str(), KEY);
        let table = "projects/p/instances/i/tables/t";
        assert_eq!(InInstance::default().table("other", table).unwrap().as_str(), table);
    }

    #[test]
    fn a_missing_part_is_named_by_its_flag() {
        let text = |failure: Failure| {
            assert!(matches!(failure, Failure::Usage(_)));
            failure.text()
        };
        assert!(text(in_key("", "r", "k").version("p", "3").unwrap_err()).contains("--location is needed"));
        assert!(text(in_key("l", "", "k").version("p", "3").unwrap_err()).contains("--keyring is needed"));
        assert!(text(in_key("l", "r", "").version("p", "3").unwrap_err()).contains("--key is needed"));
        assert!(text(InInstance::default().table("p", "t").unwrap_err()).contains("--instance is needed"));
        assert!(text(InLocation::default().parent("p").unwrap_err()).contains("--location is needed"));
    }

    #[test]
    fn a_name_of_another_kind_is_refused_with_the_shape() {
        let failure = InRing::default().key("p", "projects/p/locations/l/keyRings/r").unwrap_err();
        assert!(failure.text().contains(CryptoKeyName::SHAPE), "{}", failure.text());
    }

    #[test]
    fn a_key_is_a_full_name_or_an_id_with_its_ring_and_location() {
        let some = |text: &str| Some(text.to_owned());
        let full = KeyOptions { kms_key: some(KEY), ..Default::default() };
        assert_eq!(full.name("other").unwrap().unwrap().as_str(), KEY);
        let place =
            KeyPlace { kms_keyring: some("r"), kms_location: some("us-east1"), kms_project: some("p") };
        let parts = KeyOptions { kms_key: some("k"), place };
        assert_eq!(parts.name("other").unwrap().unwrap().as_str(), KEY);
        let short = KeyOptions { kms_key: some("k"), ..Default::default() };
        assert!(short.name("p").unwrap_err().text().contains("--kms-keyring and --kms-location"));
        assert_eq!(KeyOptions::default().name("p").unwrap(), None);
    }
}
