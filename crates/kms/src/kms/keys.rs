//! Keys: making, showing and changing them.
//!
//! Invariant: purpose, algorithm, protection level, connection, the time before destruction and where material comes
//! from never change.

use super::*;
use crate::iam::Policy;
use crate::index::KeyRecord;
use crate::lists::paginate;
use crate::model::{
    CryptoKey, CryptoKeyUpdate, KeyView, NewCryptoKey, NewVersion, Page, PageRequest, ProtectionLevel,
    VersionState,
};
use crate::validate;

impl Kms {
    /// Makes a key, with a first version that is its primary one unless that is to be skipped.
    ///
    /// # Errors
    /// `NotFound` for the key ring, `AlreadyExists`, `InvalidArgument`, `Unimplemented` for kinds of keys
    /// that are not built, `PermissionDenied`; for an HSM key `FailedPrecondition` without a token, and `Unavailable`
    /// when the token does not answer.
    pub async fn create_crypto_key(
        &self,
        caller: &Caller,
        parent: &KeyRingName,
        id: &str,
        new: NewCryptoKey,
    ) -> Result<KeyView> {
        validate::id("crypto_key_id", id)?;
        let name = CryptoKeyName::new(parent.project(), parent.location(), parent.key_ring(), id)?;
        let call = Call::new(caller, "CreateCryptoKey", &name);
        if validate::level(&new) == ProtectionLevel::Hsm {
            self.hsm_ready_for(&call, "cloudkms.cryptoKeys.create", On::Ring(parent)).await?;
        }
        let (caller, parent, times) = (caller.clone(), parent.clone(), self.inner.times);
        self.change(call, move |index, now| {
            authorise(index, &caller, "cloudkms.cryptoKeys.create", On::Ring(&parent))?;
            let new = with_backend(index, &caller, &parent, new)?;
            new_key(index, name, &new, times, now)
        })
        .await
    }

    /// A key with its primary version.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub fn get_crypto_key(&self, caller: &Caller, name: &CryptoKeyName) -> Result<KeyView> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.cryptoKeys.get", On::Key(name))?;
        Ok(index.key(name)?.view())
    }

    /// The keys of a key ring, in the order of their names.
    ///
    /// # Errors
    /// `NotFound` for the key ring, `InvalidArgument` for a page that was not asked for in this way,
    /// `PermissionDenied`.
    pub fn list_crypto_keys(
        &self,
        caller: &Caller,
        parent: &KeyRingName,
        page: &PageRequest,
    ) -> Result<Page<KeyView>> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.cryptoKeys.list", On::Ring(parent))?;
        index.ring(parent)?;
        let prefix = format!("{parent}/cryptoKeys/");
        paginate(page, &prefix, Index::children(&index.keys, &prefix), |entry| entry.view())
    }

    /// Changes labels, the rotation schedule and the reasons for which the key may be used.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`, `Unimplemented` for a template that is not built, `PermissionDenied`.
    pub async fn update_crypto_key(
        &self,
        caller: &Caller,
        name: &CryptoKeyName,
        update: CryptoKeyUpdate,
    ) -> Result<KeyView> {
        let (caller, name, times) = (caller.clone(), name.clone(), self.inner.times);
        self.change(Call::new(&caller, "UpdateCryptoKey", &name), move |index, now| {
            authorise(index, &caller, "cloudkms.cryptoKeys.update", On::Key(&name))?;
            let mut entry = KeyEntry::clone(index.key(&name)?);
            let key = &mut entry.record.key;
            if let Some(template) = &update.template {
                validate::template_of(key, template)?;
            }
            if let Some(labels) = update.labels {
                validate::labels(&labels)?;
                key.labels = labels;
            }
            if let Some(next) = update.next_rotation_time {
                validate::next_rotation(next, now)?;
                key.next_rotation_time = next;
            }
            if let Some(period) = update.rotation_period {
                key.rotation_period = period;
            }
            let announces = update.justifications.is_some();
            if let Some(justifications) = update.justifications {
                validate::justifications(justifications.as_deref())?;
                key.justifications = justifications;
            }
            if key.is_external() && (key.rotation_period.is_some() || key.next_rotation_time.is_some()) {
                return Err(validate::external_schedule());
            }
            if key.import_only && (key.rotation_period.is_some() || key.next_rotation_time.is_some()) {
                return Err(validate::import_only_schedule());
            }
            validate::rotation(key.rotation_period, key.next_rotation_time, times.min_rotation)?;
            let view = entry.view();
            // Neither labels nor the schedule change what users of the key see.
            let plan = Plan::key(entry, Vec::new(), view);
            Ok(if announces { plan } else { Plan { announce: Vec::new(), ..plan } })
        })
        .await
    }

    /// Makes another version the primary one. It must be enabled.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when the version is not enabled, `InvalidArgument` when `version` is
    /// no number, `PermissionDenied`.
    pub async fn update_primary_version(
        &self,
        caller: &Caller,
        name: &CryptoKeyName,
        version: &str,
    ) -> Result<KeyView> {
        let number: u64 = version.parse().map_err(|_| {
            Error::invalid_field("crypto_key_version_id", format!("'{version}' is not the id of a version"))
        })?;
        let (caller, name) = (caller.clone(), name.clone());
        self.change(Call::new(&caller, "UpdateCryptoKeyPrimaryVersion", &name), move |index, _| {
            authorise(index, &caller, "cloudkms.cryptoKeys.update", On::Key(&name))?;
            let mut entry = KeyEntry::clone(index.key(&name)?);
            let version_name = name.version_name(number);
            let version = entry.versions.get(&number).ok_or_else(|| texts::no_version(&version_name))?;
            if version.version.state != VersionState::Enabled {
                return Err(texts::not_enabled(&version_name, version.version.state));
            }
            entry.record.key.primary = Some(number);
            let view = entry.view();
            Ok(Plan { version: Some(version_name), ..Plan::key(entry, Vec::new(), view) })
        })
        .await
    }
}

/// What is asked for, with the connection of its location when it needs one and names none.
fn with_backend(
    index: &Index,
    caller: &Caller,
    parent: &KeyRingName,
    mut new: NewCryptoKey,
) -> Result<NewCryptoKey> {
    if validate::level(&new) != ProtectionLevel::ExternalVpc {
        return Ok(new);
    }
    let place = parent.location_name();
    if new.crypto_key_backend.is_empty() {
        let default = index.ekm_configs.get(place.as_str()).and_then(Option::as_ref);
        new.crypto_key_backend = default.map(ToString::to_string).unwrap_or_default();
    }
    if new.crypto_key_backend.is_empty() {
        return Err(Error::invalid_field(
            "crypto_key.crypto_key_backend",
            "must name an EkmConnection for a key of EXTERNAL_VPC: its location has no default one",
        ));
    }
    let connection = EkmConnectionName::parse(&new.crypto_key_backend)?;
    external::check_place("crypto_key.crypto_key_backend", &connection, place.as_str())?;
    authorise(index, caller, iam::USE_CONNECTION, On::Connection(&connection))?;
    index.connection(&connection)?;
    Ok(new)
}

/// Plans a key.
pub(super) fn new_key(
    index: &Index,
    name: CryptoKeyName,
    new: &NewCryptoKey,
    times: Times,
    now: Timestamp,
) -> Result<Plan<KeyView>> {
    index.ring(&name.key_ring_name())?;
    if index.keys.contains_key(name.as_str()) {
        return Err(texts::exists("CryptoKey", name.as_str()));
    }
    validate::new_key(new)?;
    validate::labels(&new.labels)?;
    validate::next_rotation(new.next_rotation_time, now)?;
    validate::rotation(new.rotation_period, new.next_rotation_time, times.min_rotation)?;
    let destroy = new.destroy_scheduled_duration.unwrap_or(times.default_destroy);
    if new.destroy_scheduled_duration.is_some() {
        // What was imported can be imported again, so it may go at once.
        let shortest = if new.import_only { Duration::ZERO } else { times.min_destroy };
        validate::destroy_duration(destroy, shortest)?;
    }
    let key = CryptoKey {
        name,
        create_time: now,
        labels: new.labels.clone(),
        primary: None,
        next_version: 1,
        rotation_period: new.rotation_period,
        next_rotation_time: new.next_rotation_time,
        destroy_scheduled_duration: destroy,
        import_only: new.import_only,
        protection: validate::level(new),
        backend: match new.crypto_key_backend.as_str() {
            "" => None,
            name => Some(EkmConnectionName::parse(name)?),
        },
        justifications: new.justifications.clone(),
    };
    let record = KeyRecord { key, policy: Policy::default() };
    let entry = KeyEntry { record, versions: std::collections::BTreeMap::new() };
    if new.skip_initial_version {
        let view = entry.view();
        return Ok(Plan::key(entry, Vec::new(), view));
    }
    let first = NewVersion { state: VersionState::Enabled, external: None };
    let plan = versions::with_new_version(entry, true, first, now)?;
    let view =
        plan.key.as_ref().map(KeyEntry::view).ok_or_else(|| Error::internal("a new key has no entry"))?;
    Ok(plan.replying(view))
}
