//! The KMS as a whole, on an object store in memory.

mod crash;
mod external;
mod hsm;
mod imports;
mod lists;
mod model;
mod policies;
mod schedule;
mod states;
mod store;
mod using;

use claviger_core::ManualClock;
use claviger_crypto::wrapping::{self, Method};
use object_store::memory::InMemory;

use super::*;
use crate::model::{
    Algorithm, CryptoKeyVersion, ImportJob, ImportJobState, KeyView, NewCryptoKey, NewImportJob, VersionState,
};
use crate::service::KeyService as _;

/// The day that tests begin.
const START: Timestamp = Timestamp(1_700_000_000_000_000);

fn config() -> KmsConfig {
    let root = RootSecret::KeyFile(SecretBytes::new(vec![7; 32]));
    KmsConfig { root, passphrase_params: Params::FLOOR, ..KmsConfig::default() }
}

fn admin() -> Caller {
    Caller::local_admin()
}

fn location() -> LocationName {
    LocationName::new("p1", "us-east1").unwrap()
}

fn ring() -> KeyRingName {
    KeyRingName::new("p1", "us-east1", "r").unwrap()
}

fn key() -> CryptoKeyName {
    CryptoKeyName::new("p1", "us-east1", "r", "k").unwrap()
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.into())
}

/// A KMS and what it stands on.
struct World {
    store: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
    kms: Arc<Kms>,
}

impl World {
    /// An empty KMS.
    async fn empty() -> Self {
        Self::on(Arc::new(InMemory::new()), Arc::new(ManualClock::at(START))).await.unwrap()
    }

    async fn on(store: Arc<dyn ObjectStore>, clock: Arc<ManualClock>) -> Result<Self> {
        let kms = Kms::open(config(), store.clone(), clock.clone()).await?;
        Ok(Self { store, clock, kms })
    }

    /// A KMS with one key.
    async fn with_key() -> Self {
        let world = Self::empty().await;
        world.kms.create_key_ring(&admin(), &location(), "r").await.unwrap();
        world.kms.create_crypto_key(&admin(), &ring(), "k", NewCryptoKey::symmetric()).await.unwrap();
        world
    }

    /// The same KMS after a stop and a start.
    async fn restarted(self) -> Self {
        self.kms.close().await.unwrap();
        Self::on(self.store, self.clock).await.unwrap()
    }

    fn state(&self, number: u64) -> VersionState {
        self.version(number).state
    }

    fn version(&self, number: u64) -> CryptoKeyVersion {
        self.kms.get_version(&admin(), &key().version_name(number)).unwrap()
    }

    fn view(&self) -> KeyView {
        self.kms.get_crypto_key(&admin(), &key()).unwrap()
    }

    async fn set_state(&self, number: u64, state: VersionState) -> Result<CryptoKeyVersion> {
        self.kms.update_version_state(&admin(), &key().version_name(number), state).await
    }

    async fn destroy(&self, number: u64) -> Result<CryptoKeyVersion> {
        self.kms.destroy_version(&admin(), &key().version_name(number)).await
    }

    async fn restore(&self, number: u64) -> Result<CryptoKeyVersion> {
        self.kms.restore_version(&admin(), &key().version_name(number)).await
    }

    async fn encrypt(&self, text: &str) -> Result<Vec<u8>> {
        self.kms.encrypt(&admin(), &key(), &secret(text), b"aad").await.map(|reply| reply.ciphertext)
    }

    async fn decrypt(&self, ciphertext: &[u8]) -> Result<String> {
        let reply = self.kms.decrypt(&admin(), &key(), ciphertext, b"aad").await?;
        Ok(String::from_utf8(reply.plaintext.expose().to_vec()).unwrap())
    }

    /// Makes an import job and its key pair.
    async fn job(&self, id: &str, method: Method) -> ImportJob {
        let new = NewImportJob::software(method);
        let job = self.kms.create_import_job(&admin(), &ring(), id, new).await.unwrap();
        assert_eq!(job.state, ImportJobState::PendingGeneration);
        self.kms.generate_import_keys().await.unwrap();
        self.kms.get_import_job(&admin(), &job.name).unwrap()
    }

    /// Imports material through a job, into a version again or as a new one.
    async fn import(&self, job: &ImportJob, material: &[u8], into: Option<u64>) -> Result<CryptoKeyVersion> {
        let pem = job.public_key.as_deref().unwrap();
        let wrapped = wrapping::wrap(job.method, pem, &SecretBytes::new(material.to_vec())).unwrap();
        self.import_wrapped(job, wrapped, into).await
    }

    async fn import_wrapped(
        &self,
        job: &ImportJob,
        wrapped: Vec<u8>,
        into: Option<u64>,
    ) -> Result<CryptoKeyVersion> {
        let request = ImportRequest {
            key: key(),
            version: into.map(|number| key().version_name(number)),
            algorithm: Algorithm::GoogleSymmetricEncryption,
            job: job.name.clone(),
            wrapped,
        };
        self.kms.import_version(&admin(), request).await
    }

    async fn audited(&self) -> Vec<Entry> {
        self.kms.audit_log().read(None, 1000).await.unwrap().into_iter().map(|(_, entry)| entry).collect()
    }

    async fn materials(&self) -> usize {
        self.kms.inner.material.list().await.unwrap().len()
    }
}
