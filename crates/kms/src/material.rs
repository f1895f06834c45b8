//! The key material: one object per version, removed when the version is destroyed, one per import job, removed when
//! the job expires, one for the key that requests to external key managers are signed with, and one for what this KMS is
//! known by in a token. Of an HSM key it is one half; the token has the other, under the same id.
//!
//! ```text
//!  0        4         5
//! +--------+---------+--------------------------------------------------------+
//! | "CVKM" | 1       | Cobblestone-256 message: the 32 bytes of the material  |
//! +--------+---------+--------------------------------------------------------+
//! | "CVKI" | 1       | Cobblestone-256 message: an RSA key in PKCS #8         |
//! +--------+---------+--------------------------------------------------------+
//! | "CVKJ" | 1       | Cobblestone-256 message: an RSA key in PKCS #8         |
//! +--------+---------+--------------------------------------------------------+
//! | "CVKH" | 1       | Cobblestone-256 message: the 32 bytes of our half      |
//! +--------+---------+--------------------------------------------------------+
//! ```
//! The message is sealed under the root's `material-wrap` key. Its context is two parts, each after its
//! length as u64: `claviger.kms.material.v1`, `claviger.kms.import-key.v1`, `claviger.kms.ekm-signer.v1` or
//! `claviger.kms.hsm-half.v1`, the 16 bytes of the object's id.
//!
//! Invariant: material leaves this file only inside a [`SecretKey`] or [`SecretBytes`], and reaches the store (which seals
//! it again, against swapped and old objects) only wrapped, so that no plain copy is left in a buffer.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::{SecretBytes, SecretKey, cobblestone};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode};
use uuid::Uuid;

use crate::ciphertext::length_prefixed;
use crate::storage;

/// What an object holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Version,
    ImportKey,
    Signer,
    Half,
}

impl Kind {
    fn header(self) -> &'static [u8; 5] {
        match self {
            Self::Version => b"CVKM\x01",
            Self::ImportKey => b"CVKI\x01",
            Self::Signer => b"CVKJ\x01",
            Self::Half => b"CVKH\x01",
        }
    }

    fn domain(self) -> &'static [u8] {
        match self {
            Self::Version => b"claviger.kms.material.v1",
            Self::ImportKey => b"claviger.kms.import-key.v1",
            Self::Signer => b"claviger.kms.ekm-signer.v1",
            Self::Half => b"claviger.kms.hsm-half.v1",
        }
    }

    fn context(self, id: Uuid) -> Vec<u8> {
        length_prefixed(&[self.domain(), id.as_bytes()])
    }
}

/// The store of the material.
pub(crate) struct Material {
    store: Arc<dyn ObjectStore>,
    wrap: SecretKey,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Material")
    }
}

impl Material {
    /// The material in a store of its own, wrapped under `wrap`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, wrap: SecretKey) -> Self {
        Self { store, wrap }
    }

    /// Writes new material of a version; it is durable then.
    pub(crate) async fn put(&self, id: Uuid, key: &SecretKey) -> Result<()> {
        self.write(Kind::Version, id, key.expose()).await
    }

    /// Writes our half of what a token keeps; it is durable then.
    pub(crate) async fn put_half(&self, id: Uuid, key: &SecretKey) -> Result<()> {
        self.write(Kind::Half, id, key.expose()).await
    }

    /// Writes the private key of an import job; it is durable then.
    pub(crate) async fn put_import_key(&self, id: Uuid, key: &SecretBytes) -> Result<()> {
        self.write(Kind::ImportKey, id, key.expose()).await
    }

    /// Writes what requests to external key managers are signed with; it is durable then.
    pub(crate) async fn put_signer(&self, id: Uuid, key: &SecretBytes) -> Result<()> {
        self.write(Kind::Signer, id, key.expose()).await
    }

    async fn write(&self, kind: Kind, id: Uuid, secret: &[u8]) -> Result<()> {
        let sealed = cobblestone::seal(&self.wrap, &kind.context(id), secret)
            .map_err(|e| Error::internal("key material could not be wrapped").because(e))?;
        let object = [kind.header().as_slice(), &sealed].concat();
        storage::put(&self.store, &path(id), object, PutMode::Create).await
    }

    /// Reads the material of a version.
    pub(crate) async fn load(&self, id: Uuid) -> Result<SecretKey> {
        self.read_key(Kind::Version, id).await
    }

    /// Reads our half of what a token keeps.
    pub(crate) async fn load_half(&self, id: Uuid) -> Result<SecretKey> {
        self.read_key(Kind::Half, id).await
    }

    /// Whether an object that is there is our half of what a token keeps.
    pub(crate) async fn is_half(&self, id: Uuid) -> Result<bool> {
        let object = storage::get(&self.store, &path(id)).await?;
        Ok(object.is_some_and(|object| object.starts_with(Kind::Half.header())))
    }

    /// Reads the private key of an import job.
    pub(crate) async fn load_import_key(&self, id: Uuid) -> Result<SecretBytes> {
        self.read(Kind::ImportKey, id).await
    }

    /// Reads what requests to external key managers are signed with.
    pub(crate) async fn load_signer(&self, id: Uuid) -> Result<SecretBytes> {
        self.read(Kind::Signer, id).await
    }

    async fn read_key(&self, kind: Kind, id: Uuid) -> Result<SecretKey> {
        let key = self.read(kind, id).await?;
        SecretKey::from_slice(key.expose()).map_err(|e| damaged("has another length").because(e))
    }

    async fn read(&self, kind: Kind, id: Uuid) -> Result<SecretBytes> {
        let object = storage::get(&self.store, &path(id)).await?;
        self.unwrap(kind, id, &object.ok_or_else(|| damaged("is missing"))?)
    }

    fn unwrap(&self, kind: Kind, id: Uuid, object: &[u8]) -> Result<SecretBytes> {
        let sealed = object.strip_prefix(kind.header()).ok_or_else(|| damaged("is not what was written"))?;
        cobblestone::open_secret(&self.wrap, &kind.context(id), sealed)
            .map_err(|e| damaged("is not what was written").because(e))
    }

    /// Removes material for good, if it is there.
    pub(crate) async fn shred(&self, id: Uuid) -> Result<()> {
        storage::delete(&self.store, &path(id)).await
    }

    /// The ids of all material.
    pub(crate) async fn list(&self) -> Result<HashSet<Uuid>> {
        let mut listed = self.store.list(None);
        let mut ids = HashSet::new();
        while let Some(object) =
            listed.try_next().await.map_err(|e| storage::error("list the key material", e))?
        {
            let id = object.location.filename().and_then(|name| Uuid::parse_str(name).ok());
            ids.insert(id.ok_or_else(|| damaged("has an unknown object beside it"))?);
        }
        Ok(ids)
    }
}

fn path(id: Uuid) -> Path {
    Path::from(id.hyphenated().to_string())
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::DataLoss, format!("the key material {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn material(store: &Arc<InMemory>) -> Material {
        Material::new(store.clone(), SecretKey::from_slice(&[9; 32]).unwrap())
    }

    async fn create(material: &Material) -> (Uuid, SecretKey) {
        let (id, key) = (Uuid::new_v4(), SecretKey::random().unwrap());
        material.put(id, &key).await.unwrap();
        (id, key)
    }

    #[tokio::test]
    async fn material_is_read_back_until_it_is_shredded() {
        let store = Arc::new(InMemory::new());
        let material = material(&store);
        let (id, key) = create(&material).await;
        assert_eq!(material.load(id).await.unwrap().expose(), key.expose());
        assert_eq!(material.list().await.unwrap(), HashSet::from([id]));
        material.shred(id).await.unwrap();
        material.shred(id).await.unwrap();
        assert_eq!(material.load(id).await.unwrap_err().kind(), ErrorKind::DataLoss);
        assert!(material.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_store_never_sees_plain_material_and_two_objects_cannot_be_swapped() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let material = Material::new(store.clone(), SecretKey::random().unwrap());
        let (first, key) = create(&material).await;
        let (second, _) = create(&material).await;
        let object = storage::get(&store, &path(first)).await.unwrap().unwrap();
        assert!(!object.windows(8).any(|window| key.expose().starts_with(window)));
        storage::put(&store, &path(second), object.to_vec(), PutMode::Overwrite).await.unwrap();
        assert_eq!(material.load(second).await.unwrap_err().kind(), ErrorKind::DataLoss);
    }

    fn unhex(text: &str) -> Vec<u8> {
        let text = text.trim();
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// The id of the fixtures.
    fn golden_id() -> Uuid {
        Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)
    }

    #[test]
    fn the_golden_key_of_an_import_job_opens() {
        let golden = unhex(include_str!("material/golden_import_key.hex"));
        let material = material(&Arc::new(InMemory::new()));
        let key = material.unwrap(Kind::ImportKey, golden_id(), &golden).unwrap();
        assert_eq!(key.expose(), (0..64).collect::<Vec<u8>>());
    }

    #[test]
    fn the_golden_material_opens() {
        let (golden, id) = (unhex(include_str!("material/golden.hex")), golden_id());
        let key = material(&Arc::new(InMemory::new())).unwrap(Kind::Version, id, &golden).unwrap();
        assert_eq!(*key.expose(), [0x2a; 32]);
    }

    #[test]
    fn the_golden_half_of_an_hsm_key_opens() {
        let (golden, id) = (unhex(include_str!("material/golden_half.hex")), golden_id());
        let half = material(&Arc::new(InMemory::new())).unwrap(Kind::Half, id, &golden).unwrap();
        assert_eq!(half.expose(), [0x2b; 32]);
    }

    #[tokio::test]
    async fn the_half_of_an_hsm_key_is_told_from_whole_material() {
        let material = material(&Arc::new(InMemory::new()));
        let (id, half) = (Uuid::new_v4(), SecretKey::random().unwrap());
        material.put_half(id, &half).await.unwrap();
        assert_eq!(material.load_half(id).await.unwrap().expose(), half.expose());
        assert_eq!(material.load(id).await.unwrap_err().kind(), ErrorKind::DataLoss);
        let (whole, _) = create(&material).await;
        assert_eq!(
            (material.is_half(id).await.unwrap(), material.is_half(whole).await.unwrap()),
            (true, false)
        );
        assert!(!material.is_half(Uuid::new_v4()).await.unwrap());
    }

    #[tokio::test]
    async fn the_key_of_an_import_job_is_read_back_and_is_no_material_of_a_version() {
        let material = material(&Arc::new(InMemory::new()));
        let (id, key) = (Uuid::new_v4(), SecretBytes::new(vec![3; 1700]));
        material.put_import_key(id, &key).await.unwrap();
        assert_eq!(material.load_import_key(id).await.unwrap().expose(), key.expose());
        assert_eq!(material.load(id).await.unwrap_err().kind(), ErrorKind::DataLoss);
        let (version, _) = create(&material).await;
        assert_eq!(material.load_import_key(version).await.unwrap_err().kind(), ErrorKind::DataLoss);
    }
}
