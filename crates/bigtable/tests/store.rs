//! The store over a real KMS and real sealed storage, in memory, on a clock that the test moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_bigtable::catalog::InstanceKind;
use claviger_bigtable::model::{Families, GcRule, Mutation, RowSet, Rule, RuleChange};
use claviger_bigtable::{
    Bigtable, ClusterSpec, Config, FamilyChange, InstanceSpec, KeyDirectory, ReadAnswer, ReadEvent,
    ReadModifyWrite, ReadRequest, RowChange, RowDrop, TableSpec,
};
use claviger_cmek::Manager;
use claviger_core::names::{CryptoKeyName, InstanceName, LocationName, ProjectName, TableName};
use claviger_core::{Caller, Clock, ErrorKind, ManualClock, Result, Timestamp};
use claviger_crypto::SecretBytes;
use claviger_kms::agents::Service;
use claviger_kms::{Binding, KeyService, Kms, KmsConfig, NewCryptoKey, Policy, PolicyResource, VersionState};
use claviger_sealed::Records;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;

const START: Timestamp = Timestamp(1_700_000_000_000_000);

struct Directory(Arc<Kms>);

#[async_trait]
impl KeyDirectory for Directory {
    async fn agent(&self, project: &str) -> Result<Caller> {
        self.0.service_agent(Service::Bigtable, project).await
    }

    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)> {
        let key = self.0.managed_key(Service::Bigtable, region).await?;
        let agent = self.0.service_agent(Service::Bigtable, key.project()).await?;
        Ok((key, agent))
    }

    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()> {
        self.0.encrypt(caller, key, &SecretBytes::new(b"x".to_vec()), b"").await.map(drop)
    }
}

struct World {
    clock: Arc<ManualClock>,
    kms: Arc<Kms>,
    files: Arc<dyn ObjectStore>,
    catalog: Arc<dyn ObjectStore>,
    records: Arc<Records>,
    keys: Arc<Manager>,
    store: Arc<Bigtable>,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let kms = Box::pin(Kms::open(KmsConfig::default(), Arc::new(InMemory::new()), clock.clone()))
            .await
            .unwrap();
        Self::over(clock, kms, Arc::new(InMemory::new()), Arc::new(InMemory::new())).await
    }

    async fn over(
        clock: Arc<ManualClock>,
        kms: Arc<Kms>,
        files: Arc<dyn ObjectStore>,
        catalog: Arc<dyn ObjectStore>,
    ) -> Self {
        let records = Arc::new(Records::open(catalog.clone(), "records").await.unwrap());
        let config = claviger_cmek::Config::default();
        let keys = Manager::open(records.clone(), kms.clone(), clock.clone(), config).unwrap();
        tokio::spawn(keys.clone().run());
        let config = Config {
            files: files.clone(),
            records: records.clone(),
            keys: keys.clone(),
            directory: Arc::new(Directory(kms.clone())),
            clock: clock.clone(),
            cache_bytes: 1 << 20,
            room: Arc::new(|| Ok(())),
        };
        let store = Bigtable::open(config).await.unwrap();
        Self { clock, kms, files, catalog, records, keys, store }
    }

    /// Stops the store and starts another on the same files.
    async fn restart(self) -> Self {
        self.store.close().await;
        self.keys.close().await.unwrap();
        self.records.close().await.unwrap();
        Self::over(self.clock, self.kms, self.files, self.catalog).await
    }

    async fn key(&self) -> CryptoKeyName {
        let admin = Caller::local_admin();
        let location = LocationName::new("p", "us-east1").unwrap();
        self.kms.create_key_ring(&admin, &location, "r").await.unwrap();
        let key = CryptoKeyName::new("p", "us-east1", "r", "k").unwrap();
        self.kms
            .create_crypto_key(&admin, &key.key_ring_name(), "k", NewCryptoKey::symmetric())
            .await
            .unwrap();
        let agent = self.kms.service_agent(Service::Bigtable, "p").await.unwrap().principal;
        let role = "roles/cloudkms.cryptoKeyEncrypterDecrypter".to_owned();
        let policy = Policy {
            bindings: vec![Binding { role, members: vec![agent], conditional: false }],
            ..Policy::default()
        };
        self.kms.set_iam_policy(&admin, &PolicyResource::parse(key.as_str()).unwrap(), policy).await.unwrap();
        key
    }

    async fn set_state(&self, key: &CryptoKeyName, state: VersionState) {
        self.kms.update_version_state(&Caller::local_admin(), &key.version_name(1), state).await.unwrap();
    }

    async fn table(&self, key: Option<&CryptoKeyName>, gc: Option<GcRule>) -> TableName {
        let cluster = ClusterSpec {
            zone: "us-east1-b".into(),
            nodes: 1,
            kms_key: key.cloned(),
            ..ClusterSpec::default()
        };
        let spec = InstanceSpec { kind: InstanceKind::Production, ..InstanceSpec::default() };
        let project = ProjectName::new("p").unwrap();
        self.store
            .create_instance(&project, "instance", spec, vec![("cluster-1".into(), cluster)])
            .await
            .unwrap();
        let instance = InstanceName::new("p", "instance").unwrap();
        let families = BTreeMap::from([("cf".to_owned(), gc)]);
        let spec = TableSpec { families, deletion_protection: false };
        self.store.create_table(&instance, "t", spec).await.unwrap().name.clone()
    }

    fn families(&self, table: &TableName) -> Arc<Families> {
        self.store.families(table).unwrap()
    }

    async fn put(&self, table: &TableName, key: &str, timestamp_micros: i64, value: &str) -> Result<()> {
        let family = self.families(table).id_of("cf")?;
        let (qualifier, value) = (Bytes::from_static(b"q"), Bytes::copy_from_slice(value.as_bytes()));
        let mutations = vec![Mutation::SetCell { family, qualifier, timestamp_micros, value }];
        self.store
            .mutate_row(table, &RowChange { key: Bytes::copy_from_slice(key.as_bytes()), mutations })
            .await
    }

    /// Rows as `key=newest value,older value`.
    async fn rows(&self, table: &TableName, rows: RowSet) -> Result<Vec<String>> {
        let request = ReadRequest {
            families: self.store.families(table)?,
            rows,
            filter: None,
            limit: 0,
            reversed: false,
        };
        let mut events = Vec::new();
        match self.store.read_rows(table, request).await? {
            ReadAnswer::Whole(all) => events = all,
            ReadAnswer::Parts(mut parts) => {
                while let Some(part) = parts.recv().await {
                    events.push(part?);
                }
            }
        }
        let mut found: Vec<String> = Vec::new();
        for event in events {
            let ReadEvent::Chunks(chunks) = event else { continue };
            for chunk in chunks {
                let value = String::from_utf8_lossy(&chunk.value).into_owned();
                match found.last_mut() {
                    Some(row) if chunk.row_key.is_empty() => *row = format!("{row},{value}"),
                    _ => found.push(format!("{}={value}", String::from_utf8_lossy(&chunk.row_key))),
                }
            }
        }
        Ok(found)
    }

    async fn all(&self, table: &TableName) -> Result<Vec<String>> {
        self.rows(table, RowSet::all()).await
    }

    async fn paths(&self) -> Vec<String> {
        let listed: Vec<_> = self.files.list(None).try_collect().await.unwrap();
        listed.into_iter().map(|meta| meta.location.to_string()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_survive_a_restart_and_come_in_order() {
    let world = World::new().await;
    let table = world.table(None, None).await;
    for key in ["b", "a", "c"] {
        world.put(&table, key, 1000, key).await.unwrap();
    }
    world.put(&table, "a", 2000, "newer").await.unwrap();
    let world = world.restart().await;
    assert_eq!(world.all(&table).await.unwrap(), ["a=newer,a", "b=b", "c=c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b8_a_disabled_key_fails_reads_and_writes_and_enabling_brings_the_rows_back() {
    let world = World::new().await;
    let key = world.key().await;
    let table = world.table(Some(&key), None).await;
    world.put(&table, "a", 1000, "1").await.unwrap();
    world.set_state(&key, VersionState::Disabled).await;
    for _ in 0..200 {
        if world.all(&table).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = world.all(&table).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(refused.message().contains(key.version_name(1).as_str()), "{refused}");
    assert_eq!(world.put(&table, "b", 1000, "2").await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    // B7: families stay as they are, the table may go.
    let changed = world.store.modify_families(&table, vec![FamilyChange::Drop("cf".into())]).await;
    assert_eq!(changed.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    world.set_state(&key, VersionState::Enabled).await;
    for _ in 0..200 {
        if world.all(&table).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.all(&table).await.unwrap(), ["a=1"]);
    world.put(&table, "b", 1000, "2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_a_table_under_a_disabled_key_can_be_deleted_and_its_files_go() {
    let world = World::new().await;
    let key = world.key().await;
    let table = world.table(Some(&key), None).await;
    world.put(&table, "a", 1000, "1").await.unwrap();
    world.set_state(&key, VersionState::Disabled).await;
    world.store.delete_table(&table).await.unwrap();
    assert_eq!(world.paths().await, [""; 0]);
    assert_eq!(world.all(&table).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hide_old_versions_on_read() {
    let world = World::new().await;
    let table = world.table(None, Some(GcRule::MaxAge(Duration::from_secs(60)))).await;
    let now = world.clock.now().micros();
    world.put(&table, "a", now, "young").await.unwrap();
    world.put(&table, "a", now - 61_000_000, "old").await.unwrap();
    assert_eq!(world.all(&table).await.unwrap(), ["a=young"]);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(world.all(&table).await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_rows_by_prefix_leaves_others_and_dropping_all_leaves_no_old_file() {
    let world = World::new().await;
    let table = world.table(None, None).await;
    for key in ["a1", "a2", "b1"] {
        world.put(&table, key, 1000, "x").await.unwrap();
    }
    world.store.drop_rows(&table, RowDrop::Prefix(b"a".to_vec())).await.unwrap();
    assert_eq!(world.all(&table).await.unwrap(), ["b1=x"]);
    let before = world.paths().await;
    world.store.drop_rows(&table, RowDrop::All).await.unwrap();
    assert_eq!(world.all(&table).await.unwrap(), [""; 0]);
    let after = world.paths().await;
    assert!(before.iter().all(|path| !after.contains(path)), "{after:?}");
    world.put(&table, "c", 1000, "y").await.unwrap();
    assert_eq!(world.restart().await.all(&table).await.unwrap(), ["c=y"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_at_the_same_time_are_all_counted() {
    let world = Arc::new(World::new().await);
    let table = world.table(None, None).await;
    let families = world.families(&table);
    let family = families.id_of("cf").unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (world, table, families) = (world.clone(), table.clone(), families.clone());
            tokio::spawn(async move {
                let rules = vec![Rule {
                    family,
                    qualifier: Bytes::from_static(b"n"),
                    change: RuleChange::Increment(1),
                }];
                let change = ReadModifyWrite { families, key: Bytes::from_static(b"counter"), rules };
                for _ in 0..10 {
                    world.store.read_modify_write(&table, &change).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rules = vec![Rule { family, qualifier: Bytes::from_static(b"n"), change: RuleChange::Increment(0) }];
    let change = ReadModifyWrite { families, key: Bytes::from_static(b"counter"), rules };
    let cells = world.store.read_modify_write(&table, &change).await.unwrap();
    assert_eq!(cells[0].value.as_ref(), 160_i64.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_dropped_and_made_again_does_not_show_its_old_cells() {
    let world = World::new().await;
    let table = world.table(None, None).await;
    world.put(&table, "a", 1000, "old").await.unwrap();
    let changes = vec![FamilyChange::Drop("cf".into()), FamilyChange::Create("cf".into(), None)];
    world.store.modify_families(&table, changes).await.unwrap();
    assert_eq!(world.all(&table).await.unwrap(), [""; 0]);
    world.put(&table, "a", 500_000, "new").await.unwrap();
    assert_eq!(world.restart().await.all(&table).await.unwrap(), ["a=new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_tablet_that_were_taken_away_are_missed_at_the_next_start() {
    let world = World::new().await;
    let table = world.table(None, None).await;
    world.put(&table, "a", 1000, "x").await.unwrap();
    world.store.close().await;
    for path in world.paths().await {
        object_store::ObjectStoreExt::delete(&*world.files, &path.as_str().into()).await.unwrap();
    }
    let error = world.restart().await.all(&table).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_names_as_scanned_only_rows_that_a_filter_swallowed() {
    use claviger_bigtable::model::{Filter, FilterSpec};
    let world = World::new().await;
    let table = world.table(None, None).await;
    let families = world.families(&table);
    let family = families.id_of("cf").unwrap();
    let rows = (0..25_000).map(|n| {
        let (qualifier, value) = (Bytes::from_static(b"q"), Bytes::from_static(b"v"));
        let mutations = vec![Mutation::SetCell { family, qualifier, timestamp_micros: 1000, value }];
        Ok(RowChange { key: Bytes::from(format!("{n:06}")), mutations })
    });
    world.store.mutate_rows(&table, rows.collect()).await.unwrap();
    // The first 12,000 rows pass and the others do not.
    let spec = FilterSpec::RowKeyRegex("00.*|010.*|011.*".into());
    let filter = Some(Arc::new(Filter::compile(&spec, &families, 0).unwrap()));
    let request = ReadRequest { families, rows: RowSet::all(), filter, limit: 0, reversed: false };
    let ReadAnswer::Parts(mut parts) = world.store.read_rows(&table, request).await.unwrap() else {
        panic!("a scan")
    };
    let (mut last, mut scanned) = (Bytes::new(), 0);
    while let Some(part) = parts.recv().await {
        match part.unwrap() {
            ReadEvent::Chunks(chunks) => {
                for chunk in chunks {
                    assert!(chunk.row_key > last);
                    last = chunk.row_key;
                }
            }
            ReadEvent::Scanned(key) => {
                assert!(key > last, "{key:?} after {last:?}");
                last = key;
                scanned += 1;
            }
            ReadEvent::Done(stats) => assert_eq!((stats.rows_seen, stats.rows_returned), (25_000, 12_000)),
        }
    }
    assert_eq!(scanned, 1);
}
