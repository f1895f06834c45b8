//! What exists: instances, their clusters, tables and app profiles, kept as records and in memory.
//!
//! Invariant: memory holds what the records hold. A change is written first and seen after, and all
//! changes pass one after the other, so that checks and writes do not interleave.

mod types;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use claviger_core::names::{AppProfileName, ClusterName, InstanceName, TableName};
use claviger_core::{Error, Result};
use claviger_sealed::{RecordBatch, Records};
use tokio::sync::{Mutex, MutexGuard};

pub use types::{
    AppProfile, Autoscaling, Cluster, Instance, InstanceKind, Routing, StorageKind, Table, TabletRecord,
};

/// Every resource of the store, by name.
#[derive(Debug)]
pub struct Catalog {
    records: Arc<Records>,
    seen: RwLock<Seen>,
    changing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Seen {
    instances: BTreeMap<InstanceName, Arc<Instance>>,
    clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    tables: BTreeMap<TableName, Arc<Table>>,
    profiles: BTreeMap<AppProfileName, Arc<AppProfile>>,
}

/// One change of the catalog.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Instance(Instance),
    Cluster(Cluster),
    Table(Table),
    Profile(AppProfile),
    DropInstance(InstanceName),
    DropTable(TableName),
    DropProfile(AppProfileName),
}

const INSTANCE: &str = "bigtable/instance/";
const CLUSTER: &str = "bigtable/cluster/";
const TABLE: &str = "bigtable/table/";
const PROFILE: &str = "bigtable/profile/";

impl Catalog {
    /// Reads the catalog from its records.
    ///
    /// # Errors
    /// `DataLoss` when a record is not what was written.
    pub async fn open(records: Arc<Records>) -> Result<Self> {
        let mut seen = Seen::default();
        for (_, instance) in records.scan::<Instance>(INSTANCE).await? {
            seen.instances.insert(instance.name.clone(), Arc::new(instance));
        }
        for (_, cluster) in records.scan::<Cluster>(CLUSTER).await? {
            seen.clusters.insert(cluster.name.clone(), Arc::new(cluster));
        }
        for (_, table) in records.scan::<Table>(TABLE).await? {
            seen.tables.insert(table.name.clone(), Arc::new(table));
        }
        for (_, profile) in records.scan::<AppProfile>(PROFILE).await? {
            seen.profiles.insert(profile.name.clone(), Arc::new(profile));
        }
        Ok(Self { records, seen: RwLock::new(seen), changing: Mutex::new(()) })
    }

    /// Waits for the right to change the catalog; hold it from the checks to [`Self::apply`].
    pub(crate) async fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// Writes changes, all or none, and shows them.
    pub(crate) async fn apply(&self, _right: &MutexGuard<'_, ()>, changes: Vec<Change>) -> Result<()> {
        let mut batch = RecordBatch::new();
        for change in &changes {
            batch = match change {
                Change::Instance(i) => batch.put(&format!("{INSTANCE}{}", i.name), i)?,
                Change::Cluster(c) => batch.put(&format!("{CLUSTER}{}", c.name), c)?,
                Change::Table(t) => batch.put(&format!("{TABLE}{}", t.name), t)?,
                Change::Profile(p) => batch.put(&format!("{PROFILE}{}", p.name), p)?,
                Change::DropInstance(name) => {
                    for cluster in self.clusters(name) {
                        batch = batch.delete(&format!("{CLUSTER}{}", cluster.name));
                    }
                    for table in self.tables(name) {
                        batch = batch.delete(&format!("{TABLE}{}", table.name));
                    }
                    for profile in self.profiles(name) {
                        batch = batch.delete(&format!("{PROFILE}{}", profile.name));
                    }
                    batch.delete(&format!("{INSTANCE}{name}"))
                }
                Change::DropTable(name) => batch.delete(&format!("{TABLE}{name}")),
                Change::DropProfile(name) => batch.delete(&format!("{PROFILE}{name}")),
            };
        }
        self.records.write(batch).await?;
        let mut seen = self.seen.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for change in changes {
            seen.show(change);
        }
        Ok(())
    }

    /// Notes that the tablet of a scope has files from now on. A table that is gone needs no note.
    pub(crate) async fn mark_opened(&self, table: &TableName, scope: &str) -> Result<()> {
        let right = self.change().await;
        let Ok(found) = self.table(table) else { return Ok(()) };
        let mut table = Table::clone(&found);
        match table.tablets.values_mut().find(|tablet| tablet.scope == scope) {
            Some(tablet) => tablet.opened = true,
            None => return Ok(()),
        }
        self.apply(&right, vec![Change::Table(table)]).await
    }

    fn seen(&self) -> std::sync::RwLockReadGuard<'_, Seen> {
        self.seen.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An instance.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn instance(&self, name: &InstanceName) -> Result<Arc<Instance>> {
        let found = self.seen().instances.get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("Instance not found: {name}")))
    }

    /// A cluster.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn cluster(&self, name: &ClusterName) -> Result<Arc<Cluster>> {
        let found = self.seen().clusters.get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("Cluster not found: {name}")))
    }

    /// A table.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn table(&self, name: &TableName) -> Result<Arc<Table>> {
        let found = self.seen().tables.get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("Table not found: {name}")))
    }

    /// An app profile.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn profile(&self, name: &AppProfileName) -> Result<Arc<AppProfile>> {
        let found = self.seen().profiles.get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("AppProfile not found: {name}")))
    }

    /// The instances of a project, by name.
    #[must_use]
    pub fn instances(&self, project: &str) -> Vec<Arc<Instance>> {
        self.seen().instances.values().filter(|i| i.name.project() == project).cloned().collect()
    }

    /// The clusters of an instance, by name.
    #[must_use]
    pub fn clusters(&self, instance: &InstanceName) -> Vec<Arc<Cluster>> {
        self.seen().clusters.values().filter(|c| c.name.instance_name() == *instance).cloned().collect()
    }

    /// The tables of an instance, by name.
    #[must_use]
    pub fn tables(&self, instance: &InstanceName) -> Vec<Arc<Table>> {
        self.seen().tables.values().filter(|t| t.name.instance_name() == *instance).cloned().collect()
    }

    /// All tables of the server.
    #[must_use]
    pub fn all_tables(&self) -> Vec<Arc<Table>> {
        self.seen().tables.values().cloned().collect()
    }

    /// The app profiles of an instance, by name.
    #[must_use]
    pub fn profiles(&self, instance: &InstanceName) -> Vec<Arc<AppProfile>> {
        self.seen().profiles.values().filter(|p| p.name.instance_name() == *instance).cloned().collect()
    }
}

impl Seen {
    fn show(&mut self, change: Change) {
        match change {
            Change::Instance(i) => drop(self.instances.insert(i.name.clone(), Arc::new(i))),
            Change::Cluster(c) => drop(self.clusters.insert(c.name.clone(), Arc::new(c))),
            Change::Table(t) => drop(self.tables.insert(t.name.clone(), Arc::new(t))),
            Change::Profile(p) => drop(self.profiles.insert(p.name.clone(), Arc::new(p))),
            Change::DropInstance(name) => {
                self.instances.remove(&name);
                self.clusters.retain(|c, _| c.instance_name() != name);
                self.tables.retain(|t, _| t.instance_name() != name);
                self.profiles.retain(|p, _| p.instance_name() != name);
            }
            Change::DropTable(name) => drop(self.tables.remove(&name)),
            Change::DropProfile(name) => drop(self.profiles.remove(&name)),
        }
    }
}
