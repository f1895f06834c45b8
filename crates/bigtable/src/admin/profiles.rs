//! App profiles: kept, checked and shown. With one cluster in an instance they route nothing yet.

use std::sync::Arc;

use claviger_core::names::{AppProfileName, ClusterName, InstanceName};
use claviger_core::{Error, Result};

use super::ids;
use crate::Bigtable;
use crate::catalog::{AppProfile, Change, Routing};

/// What an app profile is to be.
#[derive(Clone, Debug)]
pub struct ProfileSpec {
    /// For people.
    pub description: String,
    /// Where its requests go.
    pub routing: Routing,
}

impl Bigtable {
    /// Makes an app profile.
    ///
    /// # Errors
    /// `NotFound` for the instance, `AlreadyExists`, `InvalidArgument` for a bad id or an unknown cluster.
    pub async fn create_profile(&self, name: AppProfileName, spec: ProfileSpec) -> Result<Arc<AppProfile>> {
        ids::profile(name.app_profile())?;
        let right = self.catalog.change().await;
        if self.catalog.profile(&name).is_ok() {
            return Err(Error::already_exists(format!("AppProfile already exists: {name}")));
        }
        self.put_profile(&right, name, spec).await
    }

    /// Changes an app profile.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` for an unknown cluster.
    pub async fn update_profile(&self, name: AppProfileName, spec: ProfileSpec) -> Result<Arc<AppProfile>> {
        let right = self.catalog.change().await;
        self.catalog.profile(&name)?;
        self.put_profile(&right, name, spec).await
    }

    /// Removes an app profile.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_profile(&self, name: &AppProfileName) -> Result<()> {
        let right = self.catalog.change().await;
        self.catalog.profile(name)?;
        self.catalog.apply(&right, vec![Change::DropProfile(name.clone())]).await
    }

    async fn put_profile(
        &self,
        right: &tokio::sync::MutexGuard<'_, ()>,
        name: AppProfileName,
        spec: ProfileSpec,
    ) -> Result<Arc<AppProfile>> {
        let instance = name.instance_name();
        self.catalog.instance(&instance)?;
        self.check_routing(&instance, &spec.routing)?;
        let etag = self.shared.clock.now().micros().to_string();
        let profile =
            AppProfile { name: name.clone(), description: spec.description, routing: spec.routing, etag };
        self.catalog.apply(right, vec![Change::Profile(profile)]).await?;
        self.catalog.profile(&name)
    }

    fn check_routing(&self, instance: &InstanceName, routing: &Routing) -> Result<()> {
        let clusters = match routing {
            Routing::Any(clusters) => clusters.as_slice(),
            Routing::Single { cluster, .. } => std::slice::from_ref(cluster),
        };
        for id in clusters {
            let name = ClusterName::new(instance.project(), instance.instance(), id)?;
            self.catalog.cluster(&name).map_err(|_| {
                Error::invalid_field("app_profile", format!("instance {instance} has no cluster '{id}'"))
            })?;
        }
        Ok(())
    }
}
