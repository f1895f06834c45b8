//! Clusters: what they may be, and what of them may change.

use std::sync::Arc;

use claviger_core::names::{ClusterName, CryptoKeyName, InstanceName, region_of_zone};
use claviger_core::{Error, Result, Timestamp};

use super::ids;
use crate::Bigtable;
use crate::catalog::{Autoscaling, Change, Cluster, StorageKind};

/// What a new cluster is to be.
#[derive(Clone, Debug, Default)]
pub struct ClusterSpec {
    /// Its zone.
    pub zone: String,
    /// Its nodes; 0 with autoscaling.
    pub nodes: i32,
    /// Autoscaling in place of a number of nodes.
    pub autoscaling: Option<Autoscaling>,
    /// Its disks.
    pub storage: StorageKind,
    /// The customer's key.
    pub kms_key: Option<CryptoKeyName>,
}

/// What of a cluster to change.
#[derive(Clone, Debug, Default)]
pub struct ClusterChange {
    /// A new number of nodes.
    pub nodes: Option<i32>,
    /// New bounds of autoscaling; the inner `None` ends it.
    pub autoscaling: Option<Option<Autoscaling>>,
    /// The key that the request names; it must be the one the cluster has (B3).
    pub kms_key: Option<CryptoKeyName>,
}

impl Bigtable {
    /// Checks what a new cluster is to be, its key with it.
    pub(super) async fn check_cluster(
        &self,
        name: ClusterName,
        spec: ClusterSpec,
        now: Timestamp,
    ) -> Result<Cluster> {
        ids::cluster(name.cluster())?;
        let region = region_of_zone(&spec.zone).map_err(|e| {
            Error::invalid_field(format!("clusters[{}].location", name.cluster()), e.message())
        })?;
        if let Some(key) = &spec.kms_key {
            self.check_key(name.project(), key, region, &spec.zone).await?;
        }
        check_size(spec.nodes, spec.autoscaling.as_ref())?;
        Ok(Cluster {
            name,
            nodes: spec.nodes.max(1),
            zone: spec.zone,
            autoscaling: spec.autoscaling,
            storage: spec.storage,
            kms_key: spec.kms_key,
            created: now,
        })
    }

    /// Adds a cluster to an instance.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, the refusals of [`Self::create_instance`]; `FailedPrecondition`
    /// when keys and no key would mix; else `Unimplemented`: there is no replication yet.
    pub async fn create_cluster(&self, name: ClusterName, spec: ClusterSpec) -> Result<Arc<Cluster>> {
        let instance = name.instance_name();
        self.catalog.instance(&instance)?;
        if self.catalog.cluster(&name).is_ok() {
            return Err(Error::already_exists(format!("Cluster already exists: {name}")));
        }
        self.refuse_while_locked(&instance).await?;
        let cmek = spec.kms_key.is_some();
        self.directory.admit(name.project(), spec.kms_key.as_ref(), "CreateCluster").await?;
        let cluster = self.check_cluster(name, spec, self.shared.clock.now()).await?;
        if self.catalog.clusters(&instance).iter().any(|other| other.kms_key.is_some() != cmek) {
            return Err(Error::precondition(format!(
                "Cluster {} cannot be added to {instance}: a mix of default keys and CMEKs are not allowed in one instance.",
                cluster.name.cluster()
            )));
        }
        self.refuse_mixed_keys(&instance, &cluster).await?;
        Err(Error::unimplemented("This server has no replication yet: an instance has one cluster."))
    }

    /// Refuses an external key beside keys that are not, and the other way round (B11).
    async fn refuse_mixed_keys(&self, instance: &InstanceName, cluster: &Cluster) -> Result<()> {
        let Some(key) = &cluster.kms_key else { return Ok(()) };
        let external = self.directory.is_external(key).await?;
        for other in self.catalog.clusters(instance) {
            let Some(theirs) = &other.kms_key else { continue };
            if self.directory.is_external(theirs).await? != external {
                let message = format!(
                    "Cluster {} cannot be added to {instance}: external and non-external CMEK keys cannot be used in one instance.",
                    cluster.name.cluster()
                );
                return Err(Error::precondition(&message).violating(
                    "CMEK_MIXED_PROTECTION",
                    key.as_str(),
                    message,
                ));
            }
        }
        Ok(())
    }

    /// Changes the size of a cluster.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a size out of bounds or another key (B3).
    pub async fn update_cluster(&self, name: &ClusterName, change: ClusterChange) -> Result<Arc<Cluster>> {
        let right = self.catalog.change().await;
        let mut cluster = Cluster::clone(&*self.catalog.cluster(name)?);
        if change.kms_key.is_some() && change.kms_key != cluster.kms_key {
            return Err(Error::invalid_field(
                "cluster.encryption_config.kms_key_name",
                format!("the encryption configuration of cluster {name} cannot be changed"),
            ));
        }
        if let Some(autoscaling) = change.autoscaling {
            cluster.autoscaling = autoscaling;
        }
        if let Some(nodes) = change.nodes {
            cluster.nodes = nodes;
        }
        check_size(cluster.nodes, cluster.autoscaling.as_ref())?;
        self.catalog.apply(&right, vec![Change::Cluster(cluster)]).await?;
        self.catalog.cluster(name)
    }

    /// Removes a cluster; the last one of an instance stays.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition`, since every instance has one cluster here.
    pub async fn delete_cluster(&self, name: &ClusterName) -> Result<()> {
        self.catalog.cluster(name)?;
        self.refuse_while_locked(&name.instance_name()).await?;
        Err(Error::precondition(format!(
            "Cluster {} is the only one of its instance and cannot be deleted; delete the instance.",
            name.cluster()
        )))
    }
}

fn check_size(nodes: i32, autoscaling: Option<&Autoscaling>) -> Result<()> {
    if nodes < 0 {
        return Err(Error::invalid_field("cluster.serve_nodes", "must not be negative"));
    }
    let Some(limits) = autoscaling else { return Ok(()) };
    if limits.min_nodes < 1 || limits.max_nodes < limits.min_nodes {
        return Err(Error::invalid_field(
            "cluster.cluster_config.cluster_autoscaling_config.autoscaling_limits",
            "needs at least one node, and a maximum no smaller than the minimum",
        ));
    }
    if !(10..=80).contains(&limits.cpu_percent) {
        return Err(Error::invalid_field(
            "cluster.cluster_config.cluster_autoscaling_config.autoscaling_targets.cpu_utilization_percent",
            "must be from 10 to 80",
        ));
    }
    Ok(())
}
