//! The root seals: what must be given at start so that the KMS opens, and the keys that it opens.
//!
//! `root.json` lies beside the stores and is no secret: it says what seals the KMS (passphrases and their salts, key
//! files, shares, keys elsewhere, or `root.key` beside it), and holds the root key under each of these, and one random
//! key per store under the root key. Any one seal opens. See `docs/formats-kms.md`.
//!
//! Invariant: no key is used for two stores; a change of the seals writes `root.json`, whole and at once, and touches
//! no key; there is always one seal; a new root is never put over stores that an older one protects.

mod file;
mod secret;
mod shares;
mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use claviger_core::{Error, ErrorKind, Result, Timestamp};
use claviger_crypto::SecretKey;
use claviger_crypto::passphrase::Params;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode};
use tokio::sync::{Mutex, MutexGuard};

use self::file::{Kind, Opened, ROOT, RootFile, Seal, Stored};
pub use self::secret::{NewSeal, RootSecret, RootWrap, WrapPlace};
pub use self::shares::{MAX_SHARES, Share};
pub use self::token::Token;
use crate::storage;

/// What each key is for; also its name in `root.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Records,
    Material,
    Wrap,
    Audit,
}

impl Use {
    const ALL: [Self; 4] = [Self::Records, Self::Material, Self::Wrap, Self::Audit];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Material => "material",
            Self::Wrap => "material-wrap",
            Self::Audit => "audit",
        }
    }
}

/// The opened keys.
pub(crate) struct RootKeys(BTreeMap<&'static str, SecretKey>);

impl fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKeys")
    }
}

impl RootKeys {
    fn random() -> Result<Self> {
        let mut keys = BTreeMap::new();
        for of in Use::ALL {
            keys.insert(of.as_str(), SecretKey::random().map_err(no_random)?);
        }
        Ok(Self(keys))
    }

    /// Takes the key of a use out.
    ///
    /// # Errors
    /// `Internal` when it was taken before.
    pub(crate) fn take(&mut self, of: Use) -> Result<SecretKey> {
        self.0.remove(of.as_str()).ok_or_else(|| Error::internal("a root key was asked for twice"))
    }
}

/// What may be told of a seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealInfo {
    /// Not used twice in a KMS.
    pub id: u32,
    /// `local-key`, `key-file`, `passphrase`, `shares`, `cloud-kms`, `pkcs11`, or what a newer program wrote.
    pub kind: String,
    /// What is particular to it, in words.
    pub detail: String,
    /// When it was made, where that is known.
    pub create_time: Option<Timestamp>,
}

impl From<&Seal> for SealInfo {
    fn from(seal: &Seal) -> Self {
        Self {
            id: seal.id,
            kind: seal.kind.name().to_owned(),
            detail: seal.kind.detail(),
            create_time: seal.create_time,
        }
    }
}

/// What seals a KMS that is not open: the contents of `root.json`.
#[derive(Debug)]
pub struct SealedRoot {
    store: Arc<dyn ObjectStore>,
    stored: Stored,
}

impl SealedRoot {
    /// Reads what seals the KMS of a store. `None`: there is no KMS yet.
    ///
    /// # Errors
    /// `DataLoss` when `root.json` is damaged; `FailedPrecondition` when it is of a newer program, or missing while
    /// keys are there.
    pub async fn read(store: Arc<dyn ObjectStore>) -> Result<Option<Self>> {
        if let Some(json) = storage::get(&store, &Path::from(ROOT)).await? {
            let stored = Stored::decode(&json)?;
            return Ok(Some(Self { store, stored }));
        }
        for part in ["records", "material", "audit"] {
            let listed = store.list(Some(&Path::from(part))).try_next().await;
            if listed.map_err(|e| storage::error("list the keys", e))?.is_some() {
                return Err(Error::precondition(
                    "root.json is missing from the KMS directory while keys are there: put it back from a backup",
                ));
            }
        }
        Ok(None)
    }

    /// The seals, any one of which opens.
    #[must_use]
    pub fn seals(&self) -> Vec<SealInfo> {
        self.stored.seals().iter().map(SealInfo::from).collect()
    }

    /// Whether `root.key` opens it, so that a start needs nothing else.
    #[must_use]
    pub fn opens_itself(&self) -> bool {
        self.stored.seals().iter().any(|seal| matches!(seal.kind, Kind::LocalKey))
    }

    /// Checks a share before it is used.
    ///
    /// # Errors
    /// `FailedPrecondition`: it is none of those that seal this KMS. The text has its number.
    pub fn check_share(&self, share: &Share) -> Result<()> {
        let mut failure = None;
        for seal in self.stored.seals() {
            match shares::check(share, &seal.kind) {
                Ok(Some(())) => return Ok(()),
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| Error::precondition(format!("{}: no share opens it", self.told()))))
    }

    /// Opens it.
    ///
    /// # Errors
    /// `FailedPrecondition` when the secret is of another kind or does not open this KMS; `InvalidArgument` when a key
    /// file does not hold 32 bytes; `Unavailable` when a key elsewhere does not answer.
    pub async fn open(&self, secret: &RootSecret, params: Params) -> Result<OpenedRoot> {
        let mut failure = None;
        for seal in self.stored.seals() {
            let sealing = secret.sealing_key(&self.store, self.stored.kms(), seal).await;
            match sealing
                .and_then(|key| Ok(key.map(|key| self.stored.open(seal, &key)).transpose()?.flatten()))
            {
                Ok(Some((file, Opened { keys, root }))) => {
                    let by = SealInfo::from(seal);
                    return OpenedRoot::new(self.store.clone(), params, file, keys, root, by).await;
                }
                // A seal of this kind that did not open: worth more to tell than the kinds that there are.
                Ok(None) if same_kind(secret, &seal.kind) => {
                    failure = failure.or_else(|| {
                        let what = secret.describe();
                        let text = format!("{what} does not open this KMS: it is wrong, or of another KMS");
                        Some(Error::precondition(text))
                    });
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::precondition(format!("{}: start it with that", self.told()))))
    }

    fn told(&self) -> String {
        let kinds: Vec<String> = self.stored.seals().iter().map(|seal| seal.kind.describe()).collect();
        format!("this KMS is sealed with {}", kinds.join(", or "))
    }
}

/// Whether a secret is for seals of a kind, though it may be another one of it.
fn same_kind(secret: &RootSecret, kind: &Kind) -> bool {
    match (secret, kind) {
        (RootSecret::Local, Kind::LocalKey)
        | (RootSecret::KeyFile(_), Kind::KeyFile)
        | (RootSecret::Passphrase(_), Kind::Passphrase { .. }) => true,
        (RootSecret::Shares(given), Kind::Shares { set, .. }) => given.iter().any(|share| share.set() == set),
        (RootSecret::Wrapped(wrap), Kind::CloudKms { key, .. }) => {
            wrap.place() == (WrapPlace::CloudKms { key: key.clone() })
        }
        (RootSecret::Wrapped(wrap), Kind::Pkcs11 { token, key, .. }) => {
            wrap.place() == (WrapPlace::Pkcs11 { token: token.clone(), key: key.clone() })
        }
        _ => false,
    }
}

/// An opened root: the keys of the stores, and what changes the seals.
#[derive(Debug)]
pub struct OpenedRoot {
    pub(crate) keys: RootKeys,
    pub(crate) seals: Seals,
    by: SealInfo,
}

impl OpenedRoot {
    async fn new(
        store: Arc<dyn ObjectStore>,
        params: Params,
        file: RootFile,
        keys: RootKeys,
        root: SecretKey,
        by: SealInfo,
    ) -> Result<Self> {
        if file.seals.iter().all(|seal| !matches!(seal.kind, Kind::LocalKey)) {
            // What a crash left behind when its seal was removed, or not yet made.
            secret::remove_local_key(&store).await?;
        }
        Ok(Self { keys, seals: Seals { store, params, root, file: Mutex::new(file) }, by })
    }

    /// The seal that was opened.
    #[must_use]
    pub fn opened_by(&self) -> &SealInfo {
        &self.by
    }
}

/// Opens the root of a KMS, or makes one when the store is empty.
///
/// # Errors
/// As for [`SealedRoot::read`] and [`SealedRoot::open`].
pub async fn open_or_make(
    store: &Arc<dyn ObjectStore>,
    secret: &RootSecret,
    params: Params,
    now: Timestamp,
) -> Result<OpenedRoot> {
    if let Some(sealed) = SealedRoot::read(store.clone()).await? {
        return sealed.open(secret, params).await;
    }
    let new = match secret {
        RootSecret::Local => NewSeal::Local,
        RootSecret::KeyFile(contents) => NewSeal::KeyFile(copied(contents)),
        RootSecret::Passphrase(text) => NewSeal::Passphrase(copied(text)),
        RootSecret::Wrapped(wrap) => NewSeal::Wrapped(wrap.clone()),
        RootSecret::Shares(_) => {
            return Err(Error::precondition("there is no KMS in this directory that shares could open"));
        }
    };
    let keys = RootKeys::random()?;
    let (mut file, root) = RootFile::new(&keys)?;
    let (kind, sealing, _) = new.make(store, params, file.kms, file.next_seal()).await?;
    file.insert(kind, Some(now), &root, &sealing)?;
    storage::put(store, &Path::from(ROOT), file.encode()?, PutMode::Create).await?;
    let by = file.seals.first().map(SealInfo::from);
    let by = by.ok_or_else(|| Error::internal("a new KMS has no seal"))?;
    OpenedRoot::new(store.clone(), params, file, keys, root, by).await
}

fn copied(secret: &claviger_crypto::SecretBytes) -> claviger_crypto::SecretBytes {
    claviger_crypto::SecretBytes::new(secret.expose().to_vec())
}

/// A seal that was made.
#[derive(Debug)]
pub struct AddedSeal {
    /// The seal.
    pub seal: SealInfo,
    /// Its shares, when it has some. They are not kept.
    pub shares: Vec<Share>,
}

/// The seals of an open KMS.
pub(crate) struct Seals {
    store: Arc<dyn ObjectStore>,
    params: Params,
    root: SecretKey,
    file: Mutex<RootFile>,
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seals")
    }
}

/// A change of the seals that was found right and is still to be made.
#[derive(Debug)]
pub(crate) struct SealChange<T> {
    file: RootFile,
    /// The seal that it is about.
    pub(crate) seal: SealInfo,
    reply: T,
}

/// The turn of whoever changes the seals.
pub(crate) struct SealTurn<'a> {
    seals: &'a Seals,
    file: MutexGuard<'a, RootFile>,
}

impl Seals {
    /// The seals as they are.
    pub(crate) async fn list(&self) -> Vec<SealInfo> {
        self.file.lock().await.seals.iter().map(SealInfo::from).collect()
    }

    /// Waits for its turn.
    pub(crate) async fn turn(&self) -> SealTurn<'_> {
        SealTurn { seals: self, file: self.file.lock().await }
    }
}

impl SealTurn<'_> {
    /// A new seal, in the place of another one or beside all.
    ///
    /// # Errors
    /// `NotFound` when there is no such other; `AlreadyExists` for a second `root.key`; `ResourceExhausted` when there
    /// are too many seals; what a key elsewhere answers.
    pub(crate) async fn add(
        &self,
        new: &NewSeal,
        replace: Option<u32>,
        now: Timestamp,
    ) -> Result<SealChange<AddedSeal>> {
        let mut file = self.file.clone();
        if let Some(old) = replace {
            file.take(old)?;
        }
        if matches!(new, NewSeal::Local)
            && self.file.seals.iter().any(|seal| matches!(seal.kind, Kind::LocalKey))
        {
            return Err(Error::already_exists("root.key seals this KMS already"));
        }
        let Seals { store, params, root, .. } = self.seals;
        let (kind, sealing, shares) = new.make(store, *params, file.kms, file.next_seal()).await?;
        let id = file.insert(kind, Some(now), root, &sealing)?;
        let seal = file.seals.iter().find(|seal| seal.id == id).map(SealInfo::from);
        let seal = seal.ok_or_else(|| Error::internal("a new seal is not there"))?;
        Ok(SealChange { file, seal: seal.clone(), reply: AddedSeal { seal, shares } })
    }

    /// One seal less.
    ///
    /// # Errors
    /// `NotFound` when there is no such seal; `FailedPrecondition` when it is the last that this program can open.
    pub(crate) fn remove(&self, id: u32) -> Result<SealChange<()>> {
        let mut file = self.file.clone();
        let seal = SealInfo::from(&file.take(id)?);
        if file.seals.iter().all(|seal| matches!(seal.kind, Kind::Unknown(_))) {
            return Err(Error::precondition(format!(
                "seal {id} is the last one that opens this KMS: add another before you remove it, or replace it"
            )));
        }
        Ok(SealChange { file, seal, reply: () })
    }

    /// Makes a change; it is durable then.
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) async fn commit<T>(mut self, change: SealChange<T>) -> Result<T> {
        let store = &self.seals.store;
        storage::put(store, &Path::from(ROOT), change.file.encode()?, PutMode::Overwrite).await?;
        let had_local = self.file.seals.iter().any(|seal| matches!(seal.kind, Kind::LocalKey));
        *self.file = change.file;
        if had_local && self.file.seals.iter().all(|seal| !matches!(seal.kind, Kind::LocalKey)) {
            secret::remove_local_key(store).await?;
        }
        Ok(change.reply)
    }
}

fn no_random(error: claviger_crypto::Error) -> Error {
    Error::new(ErrorKind::Internal, "the machine gives no random bytes").because(error)
}

/// What a changed `root.json`, key file or share meets.
pub(crate) fn fuzz(bytes: &[u8], sealing: &SecretKey) {
    if let Ok(stored) = Stored::decode(bytes) {
        for seal in stored.seals() {
            let _ = stored.open(seal, sealing);
            let _ = (SealInfo::from(seal), seal.kind.describe());
        }
    }
    let _ = secret::parse_key(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(share) = text.parse::<Share>()
    {
        let _ = shares::check(&share, &Kind::KeyFile);
        let _ = share.expose_text();
    }
}

#[cfg(test)]
mod tests;
