//! Versions: the states of key material and the ways between them.
//!
//! ```text
//!              disable             destroy
//!  ENABLED <-----------> DISABLED ---------> DESTROY_SCHEDULED --- time is up ---> DESTROYED
//!     |        enable        ^                  ^        |
//!     '----------------------|--- destroy ------'        |
//!                            '------- restore -----------'
//! ```
//! An imported version that is destroyed, or whose import failed, becomes enabled by a further import
//! (`imports.rs`), or failed by one that is no good.
//!
//! Invariant: there are no other ways. An entry that is not enabled holds no material.

use super::*;
use crate::lists::paginate;
use crate::model::{CryptoKey, CryptoKeyVersion, NewVersion, Page, PageRequest, VersionState, VersionUpdate};
use crate::validate;
use claviger_crypto::SecretKey;

/// The permission to make versions.
const CREATE: &str = "cloudkms.cryptoKeyVersions.create";

impl Kms {
    /// Makes an enabled version. It does not become the primary one.
    ///
    /// # Errors
    /// As [`Self::create_version_as`].
    pub async fn create_version(&self, caller: &Caller, parent: &CryptoKeyName) -> Result<CryptoKeyVersion> {
        self.create_version_as(caller, parent, VersionState::Enabled).await
    }

    /// Makes a version, enabled or disabled. It does not become the primary one.
    ///
    /// # Errors
    /// `NotFound` for the key; `InvalidArgument` for any other state; `FailedPrecondition` when the key takes
    /// imported material only; `PermissionDenied`.
    pub async fn create_version_as(
        &self,
        caller: &Caller,
        parent: &CryptoKeyName,
        state: VersionState,
    ) -> Result<CryptoKeyVersion> {
        self.create_version_with(caller, parent, NewVersion { state, external: None }).await
    }

    /// Makes a version, of an external key too. It does not become the primary one.
    ///
    /// # Errors
    /// As [`Self::create_version_as`]; `InvalidArgument` for an external key that does not fit the key's protection level;
    /// for an HSM key `FailedPrecondition` without a token, and `Unavailable` when the token does not answer.
    pub async fn create_version_with(
        &self,
        caller: &Caller,
        parent: &CryptoKeyName,
        new: NewVersion,
    ) -> Result<CryptoKeyVersion> {
        let call = Call::new(caller, "CreateCryptoKeyVersion", parent);
        if self.inner.index().keys.get(parent.as_str()).is_some_and(|entry| entry.record.key.is_hsm()) {
            self.hsm_ready_for(&call, CREATE, On::Key(parent)).await?;
        }
        let (caller, parent) = (caller.clone(), parent.clone());
        self.change(call, move |index, now| {
            authorise(index, &caller, CREATE, On::Key(&parent))?;
            settable(new.state)?;
            let entry = KeyEntry::clone(index.key(&parent)?);
            if entry.record.key.import_only {
                return Err(texts::import_only(&parent));
            }
            validate::external(&entry.record.key, new.external.as_ref())?;
            with_new_version(entry, false, new, now)
        })
        .await
    }

    /// A version.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub fn get_version(&self, caller: &Caller, name: &CryptoKeyVersionName) -> Result<CryptoKeyVersion> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.cryptoKeyVersions.get", On::Version(name))?;
        let entry = index.key(&name.crypto_key_name())?;
        Ok(version_of(entry, name)?.version.clone())
    }

    /// The versions of a key, in the order of their numbers.
    ///
    /// # Errors
    /// `NotFound` for the key, `InvalidArgument` for a page that was not asked for in this way,
    /// `PermissionDenied`.
    pub fn list_versions(
        &self,
        caller: &Caller,
        parent: &CryptoKeyName,
        page: &PageRequest,
    ) -> Result<Page<CryptoKeyVersion>> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.cryptoKeyVersions.list", On::Key(parent))?;
        let versions = index.key(parent)?.versions.iter();
        paginate(
            page,
            parent.as_str(),
            versions.map(|(number, entry)| (number.to_string(), entry)),
            |entry| entry.version.clone(),
        )
    }

    /// Enables or disables a version.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for any other state; `FailedPrecondition` when the version is scheduled for
    /// destruction or destroyed; `PermissionDenied`.
    pub async fn update_version_state(
        &self,
        caller: &Caller,
        name: &CryptoKeyVersionName,
        state: VersionState,
    ) -> Result<CryptoKeyVersion> {
        let update = VersionUpdate { state: Some(state), external: None };
        self.update_version(caller, name, update).await
    }

    /// Enables or disables a version, or names another place of its external key.
    ///
    /// # Errors
    /// As [`Self::update_version_state`]; `InvalidArgument` for an external key that does not fit the version.
    pub async fn update_version(
        &self,
        caller: &Caller,
        name: &CryptoKeyVersionName,
        update: VersionUpdate,
    ) -> Result<CryptoKeyVersion> {
        use VersionState::{Disabled, Enabled};
        let call = Call::new(caller, "UpdateCryptoKeyVersion", name);
        self.change_version(call, name, "cloudkms.cryptoKeyVersions.update", move |version, key, _| {
            let state = update.state.unwrap_or(version.state);
            if update.state.is_some() {
                settable(state)?;
            }
            if !matches!(version.state, Enabled | Disabled) {
                return Err(texts::wrong_state(&version.name, version.state));
            }
            version.state = state;
            if update.external.is_some() {
                validate::external(key, update.external.as_ref())?;
                version.external = update.external;
            }
            Ok(())
        })
        .await
    }

    /// Schedules a version for destruction.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is scheduled or destroyed already; `PermissionDenied`.
    pub async fn destroy_version(
        &self,
        caller: &Caller,
        name: &CryptoKeyVersionName,
    ) -> Result<CryptoKeyVersion> {
        let call = Call::new(caller, "DestroyCryptoKeyVersion", name);
        self.change_version(call, name, "cloudkms.cryptoKeyVersions.destroy", |version, key, now| {
            if !matches!(version.state, VersionState::Enabled | VersionState::Disabled) {
                return Err(texts::wrong_state(&version.name, version.state));
            }
            version.state = VersionState::DestroyScheduled;
            version.destroy_time = Some(now.plus(key.destroy_scheduled_duration));
            Ok(())
        })
        .await
    }

    /// Takes a version that is scheduled for destruction back; it is disabled then.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is not scheduled, or its time is up; `PermissionDenied`.
    pub async fn restore_version(
        &self,
        caller: &Caller,
        name: &CryptoKeyVersionName,
    ) -> Result<CryptoKeyVersion> {
        let call = Call::new(caller, "RestoreCryptoKeyVersion", name);
        self.change_version(call, name, "cloudkms.cryptoKeyVersions.restore", |version, _, now| {
            // Once its time is up its material may be gone, also when the record could not be written yet.
            let in_time = version.destroy_time.is_some_and(|at| at > now);
            if version.state != VersionState::DestroyScheduled || !in_time {
                return Err(texts::wrong_state(&version.name, version.state));
            }
            version.state = VersionState::Disabled;
            version.destroy_time = None;
            Ok(())
        })
        .await
    }

    async fn change_version(
        &self,
        call: Call,
        name: &CryptoKeyVersionName,
        permission: &'static str,
        change: impl FnOnce(&mut CryptoKeyVersion, &CryptoKey, Timestamp) -> Result<()> + Send + 'static,
    ) -> Result<CryptoKeyVersion> {
        let (caller, name) = (call.caller.clone(), name.clone());
        self.change(call, move |index, now| {
            authorise(index, &caller, permission, On::Version(&name))?;
            let entry = index.key(&name.crypto_key_name())?;
            let old = version_of(entry, &name)?;
            let mut version = old.version.clone();
            change(&mut version, &entry.record.key, now)?;
            if version == old.version {
                return Ok(Plan { version: Some(name), ..Plan::reply(version) });
            }
            let plan = Plan::key(with_version(entry, version.clone()), vec![version.number], version);
            Ok(Plan { version: Some(name), ..plan })
        })
        .await
    }
}

/// Refuses a state that cannot be asked for.
fn settable(state: VersionState) -> Result<()> {
    if matches!(state, VersionState::Enabled | VersionState::Disabled) {
        return Ok(());
    }
    Err(Error::invalid_field(
        "crypto_key_version.state",
        "can be set to ENABLED and DISABLED only; use destroy and restore for the others",
    ))
}

/// The version of that name.
pub(super) fn version_of<'a>(
    entry: &'a KeyEntry,
    name: &CryptoKeyVersionName,
) -> Result<&'a Arc<VersionEntry>> {
    // The comparison refuses other spellings of a number, as `01`.
    let number = name.version().parse().ok();
    let version = number.and_then(|number: u64| entry.versions.get(&number));
    version.filter(|entry| entry.version.name == *name).ok_or_else(|| texts::no_version(name))
}

/// The key with a version in another state, without its material.
pub(super) fn with_version(entry: &KeyEntry, version: CryptoKeyVersion) -> KeyEntry {
    let mut entry = entry.clone();
    entry.versions.insert(version.number, VersionEntry::new(version));
    entry
}

/// The key with a version destroyed.
pub(super) fn destroyed(entry: &KeyEntry, number: u64, now: Timestamp) -> KeyEntry {
    match entry.versions.get(&number) {
        Some(old) => {
            let mut version = old.version.clone();
            version.state = VersionState::Destroyed;
            version.destroy_time = None;
            version.destroy_event_time = Some(now);
            with_version(entry, version)
        }
        None => entry.clone(),
    }
}

/// Plans a new version of a key, as its primary one or not.
pub(super) fn with_new_version(
    mut entry: KeyEntry,
    primary: bool,
    new: NewVersion,
    now: Timestamp,
) -> Result<Plan<CryptoKeyVersion>> {
    let NewVersion { state, external } = new;
    let number = entry.record.key.next_version;
    let name = entry.name().version_name(number);
    let material =
        SecretKey::random().map_err(|e| Error::internal("the machine gives no random bytes").because(e))?;
    let version = CryptoKeyVersion {
        name: name.clone(),
        number,
        state,
        create_time: now,
        destroy_time: None,
        destroy_event_time: None,
        import: None,
        external,
        hsm: entry.record.key.is_hsm(),
        material: Uuid::new_v4(),
    };
    let new = VersionEntry::with_material(version.clone(), material);
    let kept = if state == VersionState::Enabled { new.clone() } else { VersionEntry::new(version.clone()) };
    entry.versions.insert(number, kept);
    entry.record.key.next_version = number + 1;
    if primary {
        entry.record.key.primary = Some(number);
    }
    Ok(Plan {
        create: Some(Created::Version(new)),
        version: Some(name),
        ..Plan::key(entry, vec![number], version)
    })
}
