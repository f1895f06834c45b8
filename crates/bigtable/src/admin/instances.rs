//! Instances: make, change, remove.

use std::collections::BTreeMap;
use std::sync::Arc;

use claviger_core::names::{AppProfileName, ClusterName, InstanceName, ProjectName};
use claviger_core::{Error, Result};

use super::clusters::ClusterSpec;
use super::{ids, scopes};
use crate::Bigtable;
use crate::catalog::{AppProfile, Change, Instance, InstanceKind, Routing};

/// The app profile that every instance has.
const DEFAULT_PROFILE: &str = "default";

/// What a new instance is to be.
#[derive(Clone, Debug, Default)]
pub struct InstanceSpec {
    /// For people; the id when empty.
    pub display_name: String,
    /// What it is for.
    pub kind: InstanceKind,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// What of an instance to change.
#[derive(Clone, Debug, Default)]
pub struct InstanceChange {
    /// A new name for people.
    pub display_name: Option<String>,
    /// A new purpose.
    pub kind: Option<InstanceKind>,
    /// New labels, in place of all the old ones.
    pub labels: Option<BTreeMap<String, String>>,
}

impl Bigtable {
    /// Makes an instance with its cluster. The cluster's key is tried first (B2, K3).
    ///
    /// # Errors
    /// - `InvalidArgument`: a bad id, zone or label; no cluster.
    /// - `AlreadyExists`.
    /// - `FailedPrecondition`: the key is in another region, is disabled, or its grant is missing; a policy of the
    ///   project refuses the key, or that there is none.
    /// - `Unimplemented`: more than one cluster.
    pub async fn create_instance(
        &self,
        project: &ProjectName,
        id: &str,
        spec: InstanceSpec,
        clusters: Vec<(String, ClusterSpec)>,
    ) -> Result<Arc<Instance>> {
        ids::instance(id)?;
        ids::labels(spec.labels.iter())?;
        check_display_name(&spec.display_name)?;
        let name = InstanceName::new(project.project(), id)?;
        let [(cluster_id, cluster)] = <[_; 1]>::try_from(clusters).map_err(|given| {
            if given.is_empty() {
                Error::invalid_field("clusters", "an instance needs a cluster")
            } else {
                Error::unimplemented(
                    "This server has no replication yet: create the instance with one cluster.",
                )
            }
        })?;
        let now = self.shared.clock.now();
        let cluster_name = ClusterName::new(name.project(), name.instance(), &cluster_id)?;
        self.directory.admit(name.project(), cluster.kms_key.as_ref(), "CreateInstance").await?;
        let cluster = self.check_cluster(cluster_name, cluster, now).await?;
        let right = self.catalog.change().await;
        if self.catalog.instance(&name).is_ok() {
            return Err(Error::already_exists(format!("Instance already exists: {name}")));
        }
        let display_name = if spec.display_name.is_empty() { id.to_owned() } else { spec.display_name };
        let instance =
            Instance { name: name.clone(), display_name, kind: spec.kind, labels: spec.labels, created: now };
        let profile = AppProfile {
            name: AppProfileName::new(name.project(), name.instance(), DEFAULT_PROFILE)?,
            description: "Made with the instance".to_owned(),
            routing: Routing::Single { cluster: cluster_id, transactional_writes: true },
            etag: now.micros().to_string(),
        };
        self.catalog
            .apply(
                &right,
                vec![Change::Instance(instance), Change::Cluster(cluster), Change::Profile(profile)],
            )
            .await?;
        self.catalog.instance(&name)
    }

    /// Changes what may change of an instance.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` that names the field.
    pub async fn update_instance(
        &self,
        name: &InstanceName,
        change: InstanceChange,
    ) -> Result<Arc<Instance>> {
        if let Some(labels) = &change.labels {
            ids::labels(labels.iter())?;
        }
        let right = self.catalog.change().await;
        let mut instance = Instance::clone(&*self.catalog.instance(name)?);
        if let Some(display_name) = change.display_name {
            check_display_name(&display_name)?;
            instance.display_name = display_name;
        }
        instance.kind = change.kind.unwrap_or(instance.kind);
        instance.labels = change.labels.unwrap_or(instance.labels);
        self.catalog.apply(&right, vec![Change::Instance(instance)]).await?;
        self.catalog.instance(name)
    }

    /// Removes an instance and all in it, shredding its keys. Works while a key is disabled (B7).
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while one of its tables is protected from deletion.
    pub async fn delete_instance(&self, name: &InstanceName) -> Result<()> {
        let right = self.catalog.change().await;
        self.catalog.instance(name)?;
        let tables = self.catalog.tables(name);
        if let Some(table) = tables.iter().find(|table| table.deletion_protection) {
            return Err(Error::precondition(format!("Table {} is protected from deletion.", table.name)));
        }
        self.catalog.apply(&right, vec![Change::DropInstance(name.clone())]).await?;
        self.tablets().by_table.retain(|table, _| table.instance_name() != *name);
        drop(right);
        self.shred(tables.iter().flat_map(|table| scopes(table)).collect()).await
    }
}

fn check_display_name(text: &str) -> Result<()> {
    if text.chars().count() > 30 {
        return Err(Error::invalid_field("instance.display_name", "at most 30 characters"));
    }
    Ok(())
}
