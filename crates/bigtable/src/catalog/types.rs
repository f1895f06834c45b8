//! The resources as they are stored.
//!
//! Invariant: these are records on disk; a field is added with a default and none is renamed.

use std::collections::BTreeMap;
use std::sync::Arc;

use claviger_core::names::{AppProfileName, ClusterName, CryptoKeyName, InstanceName, TableName};
use claviger_core::{Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::gc::GcRule;
use crate::model::{Families, Family, FamilyId};

/// What an instance is for. It changes nothing here but what is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceKind {
    /// For production: the default.
    #[default]
    Production,
    /// For development.
    Development,
}

/// What disks a cluster says it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageKind {
    /// Solid state: the default.
    #[default]
    Ssd,
    /// Spinning.
    Hdd,
}

/// An instance: a group of clusters that hold the same tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub name: InstanceName,
    /// For people.
    pub display_name: String,
    /// What it is for.
    pub kind: InstanceKind,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
}

/// Bounds of a cluster's node count, kept as given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autoscaling {
    /// Fewest nodes.
    pub min_nodes: i32,
    /// Most nodes.
    pub max_nodes: i32,
    /// Target of CPU use, percent.
    pub cpu_percent: i32,
    /// Target of storage per node, GiB; 0 for the default.
    pub storage_gib_per_node: i32,
}

/// A cluster: the tables of its instance in one zone, under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// The zone, as `us-east1-b`.
    pub zone: String,
    /// Nodes, as asked for. One process serves all of them.
    pub nodes: i32,
    /// Autoscaling, as asked for.
    pub autoscaling: Option<Autoscaling>,
    /// Disks, as asked for.
    pub storage: StorageKind,
    /// The customer's key; never changes. Without one, a Claviger-managed key protects the cluster.
    pub kms_key: Option<CryptoKeyName>,
    /// When it was made.
    pub created: Timestamp,
}

/// Where the rows of a table in one cluster are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TabletRecord {
    /// The scope of its key, which is its directory as well: `bigtable/<uuid>`.
    pub scope: String,
    /// Whether it was ever opened: from then on its files must be there.
    #[serde(default)]
    pub opened: bool,
}

impl TabletRecord {
    /// A tablet that has no files yet.
    pub(crate) fn new(scope: &str) -> Self {
        Self { scope: scope.to_owned(), opened: false }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: TableName,
    /// Its families.
    pub families: Vec<Family>,
    /// The id of the next family.
    pub next_family: u32,
    /// Whether it may not be deleted.
    pub deletion_protection: bool,
    /// Its rows, by the id of the cluster.
    pub tablets: BTreeMap<String, TabletRecord>,
    /// When it was made.
    pub created: Timestamp,
}

/// Where the requests of an app profile go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Routing {
    /// To any cluster of these; none named means any.
    Any(Vec<String>),
    /// To one cluster.
    Single {
        /// The cluster's id.
        cluster: String,
        /// Whether CheckAndMutateRow and ReadModifyWriteRow are allowed.
        transactional_writes: bool,
    },
}

/// An app profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppProfile {
    /// Its name.
    pub name: AppProfileName,
    /// For people.
    pub description: String,
    /// Where requests go.
    pub routing: Routing,
    /// When it was last changed; its etag.
    pub etag: String,
}

impl Table {
    /// The families, ready for reads and writes.
    ///
    /// # Errors
    /// `Internal` when the record holds two of one name or id.
    pub fn schema(&self) -> Result<Arc<Families>> {
        Families::new(self.families.clone()).map(Arc::new)
    }

    /// Adds a family under an id that was never used.
    pub(crate) fn add_family(&mut self, name: &str, gc: Option<GcRule>) {
        self.families.push(Family { id: FamilyId(self.next_family), name: Arc::from(name), gc });
        self.next_family += 1;
    }
}
