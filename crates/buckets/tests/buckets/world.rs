//! A server's worth of services in memory.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_buckets::checksums::Expected;
use claviger_buckets::model::{Bucket, BucketConfig, Conditions, Object, ObjectMetadata};
use claviger_buckets::names::Location;
use claviger_buckets::{
    BucketSpec, Buckets, ByteStream, Config, KeyDirectory, ListPage, ListRequest, RangeWanted, ReadRequest,
    WriteRequest,
};
use claviger_cmek::Manager;
use claviger_core::names::{CryptoKeyName, LocationName};
use claviger_core::{Caller, ManualClock, Result, Timestamp};
use claviger_crypto::SecretBytes;
use claviger_kms::agents::Service;
use claviger_kms::{Binding, KeyService, Kms, KmsConfig, NewCryptoKey, Policy, PolicyResource, VersionState};
use claviger_sealed::Records;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::memory::InMemory;

const START: Timestamp = Timestamp(1_700_000_000_000_000);

struct Directory(Arc<Kms>);

#[async_trait]
impl KeyDirectory for Directory {
    async fn project_number(&self, project: &str) -> Result<u64> {
        self.0.project_number(project).await
    }

    async fn agent(&self, project: &str) -> Result<Caller> {
        self.0.service_agent(Service::Storage, project).await
    }

    async fn managed_key(&self, location: &str) -> Result<(CryptoKeyName, Caller)> {
        let key = self.0.managed_key(Service::Storage, location).await?;
        let agent = self.0.service_agent(Service::Storage, key.project()).await?;
        Ok((key, agent))
    }

    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()> {
        self.0.encrypt(caller, key, &SecretBytes::new(b"x".to_vec()), b"").await.map(drop)
    }
}

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) kms: Arc<Kms>,
    pub(crate) files: Arc<InMemory>,
    catalog: Arc<InMemory>,
    records: Arc<Records>,
    keys: Arc<Manager>,
    pub(crate) buckets: Arc<Buckets>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let kms = Box::pin(Kms::open(KmsConfig::default(), Arc::new(InMemory::new()), clock.clone()));
        Self::over(clock, kms.await.unwrap(), Arc::new(InMemory::new()), Arc::new(InMemory::new())).await
    }

    async fn over(
        clock: Arc<ManualClock>,
        kms: Arc<Kms>,
        files: Arc<InMemory>,
        catalog: Arc<InMemory>,
    ) -> Self {
        let records = Arc::new(Records::open(catalog.clone(), "records").await.unwrap());
        let config = claviger_cmek::Config::default();
        let keys = Manager::open(records.clone(), kms.clone(), clock.clone(), config).unwrap();
        tokio::spawn(keys.clone().run());
        let buckets = Buckets::open(Config {
            files: files.clone(),
            records: records.clone(),
            keys: keys.clone(),
            directory: Arc::new(Directory(kms.clone())),
            clock: clock.clone(),
            cache_bytes: 1 << 20,
            room: Arc::new(|| Ok(())),
        });
        let buckets = buckets.await.unwrap();
        Self { clock, kms, files, catalog, records, keys, buckets }
    }

    /// Stops all and starts it anew on the same files.
    pub(crate) async fn restart(self) -> Self {
        self.buckets.close().await;
        self.keys.close().await.unwrap();
        self.records.close().await.unwrap();
        Self::over(self.clock, self.kms, self.files, self.catalog).await
    }

    /// Starts anew on a copy of the files as they are now: what a crash leaves.
    pub(crate) async fn crash(self) -> Self {
        let (files, catalog) = (Arc::new(self.files.fork()), Arc::new(self.catalog.fork()));
        Self::over(self.clock, self.kms, files, catalog).await
    }

    /// A key that Storage may use.
    pub(crate) async fn key(&self, name: &str, location: &str) -> CryptoKeyName {
        let key = self.key_without_grant(name, location).await;
        self.grant(&key, true).await;
        key
    }

    pub(crate) async fn key_without_grant(&self, name: &str, location: &str) -> CryptoKeyName {
        let admin = Caller::local_admin();
        let place = LocationName::new("p", location).unwrap();
        let _ = self.kms.create_key_ring(&admin, &place, "r").await;
        let key = CryptoKeyName::new("p", location, "r", name).unwrap();
        let ring = key.key_ring_name();
        self.kms.create_crypto_key(&admin, &ring, name, NewCryptoKey::symmetric()).await.unwrap();
        key
    }

    pub(crate) async fn grant(&self, key: &CryptoKeyName, granted: bool) {
        let agent = self.kms.service_agent(Service::Storage, "p").await.unwrap().principal;
        let role = "roles/cloudkms.cryptoKeyEncrypterDecrypter".to_owned();
        let members = if granted { vec![agent] } else { vec![Caller::LOCAL_ADMIN.to_owned()] };
        let bindings = vec![Binding { role, members, conditional: false }];
        let policy = Policy { bindings, etag: Vec::new(), ..Policy::default() };
        let resource = PolicyResource::parse(key.as_str()).unwrap();
        self.kms.set_iam_policy(&Caller::local_admin(), &resource, policy).await.unwrap();
    }

    /// Sets the state of a key's only version, and waits until the buckets felt it.
    pub(crate) async fn set_enabled(&self, key: &CryptoKeyName, enabled: bool) {
        let state = if enabled { VersionState::Enabled } else { VersionState::Disabled };
        self.kms.update_version_state(&Caller::local_admin(), &key.version_name(1), state).await.unwrap();
        self.until_locked(key, !enabled).await;
    }

    pub(crate) async fn until_locked(&self, key: &CryptoKeyName, locked: bool) {
        let felt = async {
            while self
                .keys
                .loaded()
                .iter()
                .any(|scope| scope.key() == key && scope.guard().is_err() != locked)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), felt).await.expect("the keys are asked");
    }

    /// A bucket in us-east1.
    pub(crate) async fn bucket(&self, name: &str, key: Option<&CryptoKeyName>) -> Arc<Bucket> {
        self.try_bucket(name, "us-east1", key).await.unwrap()
    }

    pub(crate) async fn try_bucket(
        &self,
        name: &str,
        location: &str,
        key: Option<&CryptoKeyName>,
    ) -> Result<Arc<Bucket>> {
        let spec = BucketSpec {
            project: "p".into(),
            name: name.into(),
            location: Location::parse(location)?,
            config: BucketConfig { kms_key: key.cloned(), ..BucketConfig::default() },
        };
        self.buckets.create_bucket(spec).await
    }

    pub(crate) async fn change(&self, bucket: &str, change: impl FnOnce(&mut BucketConfig) + Send) {
        let change = |config: &mut BucketConfig| {
            change(config);
            Ok(())
        };
        self.buckets.update_bucket(bucket, &Conditions::default(), change).await.unwrap();
    }

    pub(crate) async fn put(&self, bucket: &str, name: &str, bytes: impl Into<Bytes>) -> Result<Object> {
        self.buckets.put(bucket, name, "text/plain", bytes.into()).await
    }

    pub(crate) async fn get(&self, bucket: &str, name: &str) -> Result<Bytes> {
        self.get_range(bucket, name, None, RangeWanted::All).await
    }

    pub(crate) async fn get_range(
        &self,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
        range: RangeWanted,
    ) -> Result<Bytes> {
        let (bucket, name) = (bucket.to_owned(), name.to_owned());
        let request = ReadRequest { bucket, name, generation, range, ..ReadRequest::default() };
        let read = self.buckets.read(request).await?;
        collect(read.body).await
    }

    pub(crate) async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.buckets.list(&request).await
    }

    /// All names of a bucket.
    pub(crate) async fn names(&self, bucket: &str) -> Result<Vec<String>> {
        let page = self.list(ListRequest { bucket: bucket.into(), ..ListRequest::default() }).await?;
        Ok(page.objects.into_iter().map(|object| object.name).collect())
    }

    /// The files of objects, which short contents have none of.
    pub(crate) async fn object_files(&self) -> usize {
        let listed: Vec<_> = self.files.list(None).try_collect().await.unwrap();
        listed.iter().filter(|meta| meta.location.as_ref().contains("/o/")).count()
    }

    /// Whether a text is anywhere on the disk, in contents or names.
    pub(crate) async fn on_disk(&self, text: &[u8]) -> bool {
        let listed: Vec<_> = self.files.list(None).try_collect().await.unwrap();
        for meta in listed {
            let bytes = self.files.get_opts(&meta.location, Default::default()).await.unwrap();
            let bytes = bytes.bytes().await.unwrap();
            let path = meta.location.as_ref().as_bytes().to_vec();
            if [&bytes[..], &path[..]].iter().any(|all| all.windows(text.len()).any(|part| part == text)) {
                return true;
            }
        }
        false
    }
}

pub(crate) fn write(bucket: &str, name: &str, body: ByteStream) -> WriteRequest {
    WriteRequest {
        bucket: bucket.to_owned(),
        name: name.to_owned(),
        metadata: ObjectMetadata::default(),
        kms_key: None,
        conditions: Conditions::default(),
        expected: Expected::default(),
        body,
    }
}

pub(crate) async fn collect(body: ByteStream) -> Result<Bytes> {
    let parts: Vec<Bytes> = body.try_collect().await?;
    Ok(parts.concat().into())
}

/// Bytes that tell their place, in pieces as a network gives them.
pub(crate) fn pieces(len: usize) -> (Bytes, ByteStream) {
    let all: Bytes = (0..len).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
    let mut rest = all.clone();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        parts.push(Ok(rest.split_to(rest.len().min(60_000))));
    }
    (all, futures::stream::iter(parts).boxed())
}

pub(crate) fn body(bytes: &Bytes) -> ByteStream {
    let bytes = bytes.clone();
    futures::stream::once(async move { Ok(bytes) }).boxed()
}
