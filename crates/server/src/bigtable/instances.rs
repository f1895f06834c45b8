//! `google.bigtable.admin.v2.BigtableInstanceAdmin`.

use std::sync::Arc;

use claviger_bigtable::catalog::{
    AppProfile, Autoscaling, Cluster, Instance, InstanceKind, Routing, StorageKind,
};
use claviger_bigtable::{Bigtable, ClusterChange, ClusterSpec, InstanceChange, InstanceSpec, ProfileSpec};
use claviger_core::names::{
    AppProfileName, ClusterName, CryptoKeyName, InstanceName, LocationName, ProjectName,
};
use claviger_core::{Error, Result};
use claviger_proto::google::bigtable::admin::v2 as pb;
use claviger_proto::google::iam::v1 as iam;
use claviger_proto::google::longrunning::Operation;
use pb::bigtable_instance_admin_server::BigtableInstanceAdmin;
use tonic::{Request, Response, Status};

use super::mask::Mask;
use crate::operations::{Operations, timestamp};
use crate::status::status;

/// Administration of instances, clusters and app profiles.
#[derive(Debug)]
pub(crate) struct InstanceAdminApi {
    pub(crate) store: Arc<Bigtable>,
    pub(crate) operations: Arc<Operations>,
}

const NO_IAM: &str =
    "IAM policies of instances and tables are not built yet; grants on keys are (google.iam.v1.IAMPolicy).";

fn instance_to_pb(instance: &Instance) -> pb::Instance {
    let kind = match instance.kind {
        InstanceKind::Production => pb::instance::Type::Production,
        InstanceKind::Development => pb::instance::Type::Development,
    };
    pb::Instance {
        name: instance.name.to_string(),
        display_name: instance.display_name.clone(),
        state: pb::instance::State::Ready.into(),
        r#type: kind.into(),
        edition: pb::instance::Edition::Enterprise.into(),
        labels: instance.labels.clone().into_iter().collect(),
        create_time: Some(timestamp(instance.created)),
        ..Default::default()
    }
}

fn kind_from_pb(kind: i32) -> Result<InstanceKind> {
    match pb::instance::Type::try_from(kind) {
        Ok(pb::instance::Type::Development) => Ok(InstanceKind::Development),
        Ok(_) => Ok(InstanceKind::Production),
        Err(_) => Err(Error::invalid_field("instance.type", format!("{kind} is not an instance type"))),
    }
}

fn cluster_to_pb(cluster: &Cluster, locked: bool) -> pb::Cluster {
    let state = if locked { pb::cluster::State::Disabled } else { pb::cluster::State::Ready };
    let storage = match cluster.storage {
        StorageKind::Ssd => pb::StorageType::Ssd,
        StorageKind::Hdd => pb::StorageType::Hdd,
    };
    let config = cluster.autoscaling.as_ref().map(|limits| {
        pb::cluster::Config::ClusterConfig(pb::cluster::ClusterConfig {
            cluster_autoscaling_config: Some(pb::cluster::ClusterAutoscalingConfig {
                autoscaling_limits: Some(pb::AutoscalingLimits {
                    min_serve_nodes: limits.min_nodes,
                    max_serve_nodes: limits.max_nodes,
                }),
                autoscaling_targets: Some(pb::AutoscalingTargets {
                    cpu_utilization_percent: limits.cpu_percent,
                    storage_utilization_gib_per_node: limits.storage_gib_per_node,
                }),
            }),
        })
    });
    let encryption =
        cluster.kms_key.as_ref().map(|key| pb::cluster::EncryptionConfig { kms_key_name: key.to_string() });
    pb::Cluster {
        name: cluster.name.to_string(),
        location: format!("projects/{}/locations/{}", cluster.name.project(), cluster.zone),
        state: state.into(),
        serve_nodes: cluster.nodes,
        node_scaling_factor: pb::cluster::NodeScalingFactor::NodeScalingFactor1x.into(),
        config,
        default_storage_type: storage.into(),
        encryption_config: encryption,
    }
}

fn autoscaling_from_pb(config: Option<pb::cluster::Config>) -> Option<Autoscaling> {
    let pb::cluster::Config::ClusterConfig(config) = config?;
    let config = config.cluster_autoscaling_config?;
    let (limits, targets) =
        (config.autoscaling_limits.unwrap_or_default(), config.autoscaling_targets.unwrap_or_default());
    Some(Autoscaling {
        min_nodes: limits.min_serve_nodes,
        max_nodes: limits.max_serve_nodes,
        cpu_percent: targets.cpu_utilization_percent,
        storage_gib_per_node: targets.storage_utilization_gib_per_node,
    })
}

fn key_from_pb(config: Option<pb::cluster::EncryptionConfig>) -> Result<Option<CryptoKeyName>> {
    match config {
        Some(config) if !config.kms_key_name.is_empty() => CryptoKeyName::parse(&config.kms_key_name)
            .map(Some)
            .map_err(|e| Error::invalid_field("cluster.encryption_config.kms_key_name", e.message())),
        _ => Ok(None),
    }
}

fn cluster_spec(cluster: pb::Cluster, project: &str) -> Result<ClusterSpec> {
    let location = LocationName::parse(&cluster.location)
        .map_err(|e| Error::invalid_field("cluster.location", e.message()))?;
    if location.project() != project {
        return Err(Error::invalid_field("cluster.location", format!("must be in project {project}")));
    }
    let storage = match pb::StorageType::try_from(cluster.default_storage_type) {
        Ok(pb::StorageType::Hdd) => StorageKind::Hdd,
        _ => StorageKind::Ssd,
    };
    Ok(ClusterSpec {
        zone: location.location().to_owned(),
        nodes: cluster.serve_nodes,
        autoscaling: autoscaling_from_pb(cluster.config),
        storage,
        kms_key: key_from_pb(cluster.encryption_config)?,
    })
}

fn profile_to_pb(profile: &AppProfile) -> pb::AppProfile {
    use pb::app_profile::{MultiClusterRoutingUseAny, RoutingPolicy, SingleClusterRouting};
    let routing = match &profile.routing {
        Routing::Any(clusters) => RoutingPolicy::MultiClusterRoutingUseAny(MultiClusterRoutingUseAny {
            cluster_ids: clusters.clone(),
            ..Default::default()
        }),
        Routing::Single { cluster, transactional_writes } => {
            RoutingPolicy::SingleClusterRouting(SingleClusterRouting {
                cluster_id: cluster.clone(),
                allow_transactional_writes: *transactional_writes,
            })
        }
    };
    pb::AppProfile {
        name: profile.name.to_string(),
        etag: profile.etag.clone(),
        description: profile.description.clone(),
        routing_policy: Some(routing),
        ..Default::default()
    }
}

fn routing_from_pb(policy: Option<pb::app_profile::RoutingPolicy>) -> Result<Routing> {
    use pb::app_profile::RoutingPolicy;
    match policy {
        Some(RoutingPolicy::MultiClusterRoutingUseAny(any)) => Ok(Routing::Any(any.cluster_ids)),
        Some(RoutingPolicy::SingleClusterRouting(single)) => Ok(Routing::Single {
            cluster: single.cluster_id,
            transactional_writes: single.allow_transactional_writes,
        }),
        None => Err(Error::invalid_field("app_profile.routing_policy", "must be set")),
    }
}

impl InstanceAdminApi {
    async fn cluster(&self, cluster: &Cluster) -> Result<pb::Cluster> {
        let locked = cluster.kms_key.is_some() && self.store.is_locked(&cluster.name.instance_name()).await?;
        Ok(cluster_to_pb(cluster, locked))
    }

    async fn create(&self, request: pb::CreateInstanceRequest) -> Result<Operation> {
        let asked = self.operations.now();
        let original = request.clone();
        let project = ProjectName::parse(&request.parent)?;
        let instance = request.instance.ok_or_else(|| Error::invalid_field("instance", "must be set"))?;
        let spec = InstanceSpec {
            display_name: instance.display_name,
            kind: kind_from_pb(instance.r#type)?,
            labels: instance.labels.into_iter().collect(),
        };
        let clusters = request
            .clusters
            .into_iter()
            .map(|(id, cluster)| Ok((id, cluster_spec(cluster, project.project())?)))
            .collect::<Result<Vec<_>>>()?;
        let made = self.store.create_instance(&project, &request.instance_id, spec, clusters).await?;
        let metadata = pb::CreateInstanceMetadata {
            original_request: Some(original),
            request_time: Some(asked),
            finish_time: Some(self.operations.now()),
        };
        self.operations.done(made.name.as_str(), &metadata, &instance_to_pb(&made)).await
    }

    async fn update(&self, request: pb::PartialUpdateInstanceRequest) -> Result<Operation> {
        let asked = self.operations.now();
        let original = request.clone();
        let instance = request.instance.ok_or_else(|| Error::invalid_field("instance", "must be set"))?;
        let name = InstanceName::parse(&instance.name)?;
        let mut mask = Mask::new(request.update_mask)?;
        let kind = kind_from_pb(instance.r#type)?;
        let change = InstanceChange {
            display_name: mask.has("display_name").then_some(instance.display_name),
            kind: mask.has("type").then_some(kind),
            labels: mask.has("labels").then(|| instance.labels.into_iter().collect()),
        };
        mask.finish()?;
        let changed = self.store.update_instance(&name, change).await?;
        let metadata = pb::UpdateInstanceMetadata {
            original_request: Some(original),
            request_time: Some(asked),
            finish_time: Some(self.operations.now()),
        };
        self.operations.done(name.as_str(), &metadata, &instance_to_pb(&changed)).await
    }

    async fn replace(&self, instance: pb::Instance) -> Result<pb::Instance> {
        let name = InstanceName::parse(&instance.name)?;
        let change = InstanceChange {
            display_name: Some(instance.display_name),
            kind: Some(kind_from_pb(instance.r#type)?),
            labels: Some(instance.labels.into_iter().collect()),
        };
        Ok(instance_to_pb(&*self.store.update_instance(&name, change).await?))
    }

    async fn add_cluster(&self, request: pb::CreateClusterRequest) -> Result<Operation> {
        let asked = self.operations.now();
        let original = request.clone();
        let instance = InstanceName::parse(&request.parent)?;
        let name = ClusterName::new(instance.project(), instance.instance(), &request.cluster_id)?;
        let cluster = request.cluster.ok_or_else(|| Error::invalid_field("cluster", "must be set"))?;
        let spec = cluster_spec(cluster, instance.project())?;
        let made = self.store.create_cluster(name, spec).await?;
        let metadata = pb::CreateClusterMetadata {
            original_request: Some(original),
            request_time: Some(asked),
            finish_time: Some(self.operations.now()),
            ..Default::default()
        };
        let response = self.cluster(&made).await?;
        self.operations.done(made.name.as_str(), &metadata, &response).await
    }

    async fn resize(&self, cluster: pb::Cluster) -> Result<Operation> {
        let asked = self.operations.now();
        let original = cluster.clone();
        let name = ClusterName::parse(&cluster.name)?;
        let change = ClusterChange {
            nodes: Some(cluster.serve_nodes),
            autoscaling: Some(autoscaling_from_pb(cluster.config)),
            kms_key: key_from_pb(cluster.encryption_config)?,
        };
        let changed = self.store.update_cluster(&name, change).await?;
        let metadata = pb::UpdateClusterMetadata {
            original_request: Some(original),
            request_time: Some(asked),
            finish_time: Some(self.operations.now()),
        };
        self.operations.done(name.as_str(), &metadata, &self.cluster(&changed).await?).await
    }

    async fn change_cluster(&self, request: pb::PartialUpdateClusterRequest) -> Result<Operation> {
        let asked = self.operations.now();
        let original = request.clone();
        let cluster = request.cluster.ok_or_else(|| Error::invalid_field("cluster", "must be set"))?;
        let name = ClusterName::parse(&cluster.name)?;
        let mut mask = Mask::new(request.update_mask)?;
        let nodes = mask.has("serve_nodes").then_some(cluster.serve_nodes);
        let autoscaling = mask.has("cluster_config").then(|| autoscaling_from_pb(cluster.config));
        let key = key_from_pb(cluster.encryption_config)?;
        if mask.has("encryption_config") && key != self.store.catalog().cluster(&name)?.kms_key {
            return Err(Error::invalid_field(
                "cluster.encryption_config",
                format!("the encryption configuration of cluster {name} cannot be changed"),
            ));
        }
        mask.finish()?;
        let change = ClusterChange { nodes, autoscaling, kms_key: None };
        let changed = self.store.update_cluster(&name, change).await?;
        let metadata = pb::PartialUpdateClusterMetadata {
            original_request: Some(original),
            request_time: Some(asked),
            finish_time: Some(self.operations.now()),
        };
        self.operations.done(name.as_str(), &metadata, &self.cluster(&changed).await?).await
    }

    async fn list_clusters_of(&self, parent: &str) -> Result<Vec<pb::Cluster>> {
        let parent = InstanceName::parse(parent)?;
        // `projects/P/instances/-` means those of every instance of the project.
        let instances = if parent.instance() == "-" {
            let all = self.store.catalog().instances(parent.project());
            all.iter().map(|instance| instance.name.clone()).collect()
        } else {
            self.store.catalog().instance(&parent)?;
            vec![parent]
        };
        let mut clusters = Vec::new();
        for instance in instances {
            for cluster in self.store.catalog().clusters(&instance) {
                clusters.push(self.cluster(&cluster).await?);
            }
        }
        Ok(clusters)
    }

    async fn change_profile(&self, request: pb::UpdateAppProfileRequest) -> Result<Operation> {
        let profile =
            request.app_profile.ok_or_else(|| Error::invalid_field("app_profile", "must be set"))?;
        let name = AppProfileName::parse(&profile.name)?;
        let before = self.store.catalog().profile(&name)?;
        let mut mask = Mask::new(request.update_mask)?;
        let description =
            if mask.has("description") { profile.description } else { before.description.clone() };
        let (any, single) = (mask.has("multi_cluster_routing_use_any"), mask.has("single_cluster_routing"));
        let routing =
            if any || single { routing_from_pb(profile.routing_policy)? } else { before.routing.clone() };
        mask.finish()?;
        let changed = self.store.update_profile(name, ProfileSpec { description, routing }).await?;
        let metadata = pb::UpdateAppProfileMetadata {};
        self.operations.done(changed.name.as_str(), &metadata, &profile_to_pb(&changed)).await
    }
}

#[tonic::async_trait]
impl BigtableInstanceAdmin for InstanceAdminApi {
    async fn create_instance(
        &self,
        request: Request<pb::CreateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.create(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn get_instance(
        &self,
        request: Request<pb::GetInstanceRequest>,
    ) -> Result<Response<pb::Instance>, Status> {
        let get = |name: &str| self.store.catalog().instance(&InstanceName::parse(name)?);
        get(&request.into_inner().name).map(|found| Response::new(instance_to_pb(&found))).map_err(status)
    }

    async fn list_instances(
        &self,
        request: Request<pb::ListInstancesRequest>,
    ) -> Result<Response<pb::ListInstancesResponse>, Status> {
        let project = ProjectName::parse(&request.into_inner().parent).map_err(status)?;
        let found = self.store.catalog().instances(project.project());
        let instances = found.iter().map(|instance| instance_to_pb(instance)).collect();
        Ok(Response::new(pb::ListInstancesResponse { instances, ..Default::default() }))
    }

    async fn update_instance(
        &self,
        request: Request<pb::Instance>,
    ) -> Result<Response<pb::Instance>, Status> {
        self.replace(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn partial_update_instance(
        &self,
        request: Request<pb::PartialUpdateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.update(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn delete_instance(
        &self,
        request: Request<pb::DeleteInstanceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = InstanceName::parse(&request.into_inner().name).map_err(status)?;
        self.store.delete_instance(&name).await.map(Response::new).map_err(status)
    }

    async fn create_cluster(
        &self,
        request: Request<pb::CreateClusterRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.add_cluster(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn get_cluster(
        &self,
        request: Request<pb::GetClusterRequest>,
    ) -> Result<Response<pb::Cluster>, Status> {
        let get = async |name: &str| {
            self.cluster(&*self.store.catalog().cluster(&ClusterName::parse(name)?)?).await
        };
        get(&request.into_inner().name).await.map(Response::new).map_err(status)
    }

    async fn list_clusters(
        &self,
        request: Request<pb::ListClustersRequest>,
    ) -> Result<Response<pb::ListClustersResponse>, Status> {
        let clusters = self.list_clusters_of(&request.into_inner().parent).await.map_err(status)?;
        Ok(Response::new(pb::ListClustersResponse { clusters, ..Default::default() }))
    }

    async fn update_cluster(&self, request: Request<pb::Cluster>) -> Result<Response<Operation>, Status> {
        self.resize(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn partial_update_cluster(
        &self,
        request: Request<pb::PartialUpdateClusterRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.change_cluster(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn delete_cluster(
        &self,
        request: Request<pb::DeleteClusterRequest>,
    ) -> Result<Response<()>, Status> {
        let name = ClusterName::parse(&request.into_inner().name).map_err(status)?;
        self.store.delete_cluster(&name).await.map(Response::new).map_err(status)
    }

    async fn create_app_profile(
        &self,
        request: Request<pb::CreateAppProfileRequest>,
    ) -> Result<Response<pb::AppProfile>, Status> {
        let create = async |request: pb::CreateAppProfileRequest| {
            let instance = InstanceName::parse(&request.parent)?;
            let name = AppProfileName::new(instance.project(), instance.instance(), &request.app_profile_id)?;
            let profile = request.app_profile.unwrap_or_default();
            let routing = routing_from_pb(profile.routing_policy)?;
            let spec = ProfileSpec { description: profile.description, routing };
            Ok(profile_to_pb(&*self.store.create_profile(name, spec).await?))
        };
        create(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn get_app_profile(
        &self,
        request: Request<pb::GetAppProfileRequest>,
    ) -> Result<Response<pb::AppProfile>, Status> {
        let get = |name: &str| self.store.catalog().profile(&AppProfileName::parse(name)?);
        get(&request.into_inner().name).map(|found| Response::new(profile_to_pb(&found))).map_err(status)
    }

    async fn list_app_profiles(
        &self,
        request: Request<pb::ListAppProfilesRequest>,
    ) -> Result<Response<pb::ListAppProfilesResponse>, Status> {
        let list = |parent: &str| {
            let instance = InstanceName::parse(parent)?;
            self.store.catalog().instance(&instance)?;
            Ok(self.store.catalog().profiles(&instance))
        };
        let found = list(&request.into_inner().parent).map_err(status)?;
        let app_profiles = found.iter().map(|profile| profile_to_pb(profile)).collect();
        Ok(Response::new(pb::ListAppProfilesResponse { app_profiles, ..Default::default() }))
    }

    async fn update_app_profile(
        &self,
        request: Request<pb::UpdateAppProfileRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.change_profile(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn delete_app_profile(
        &self,
        request: Request<pb::DeleteAppProfileRequest>,
    ) -> Result<Response<()>, Status> {
        let name = AppProfileName::parse(&request.into_inner().name).map_err(status)?;
        self.store.delete_profile(&name).await.map(Response::new).map_err(status)
    }

    async fn get_iam_policy(
        &self,
        _: Request<iam::GetIamPolicyRequest>,
    ) -> Result<Response<iam::Policy>, Status> {
        Err(status(Error::unimplemented(NO_IAM)))
    }

    async fn set_iam_policy(
        &self,
        _: Request<iam::SetIamPolicyRequest>,
    ) -> Result<Response<iam::Policy>, Status> {
        Err(status(Error::unimplemented(NO_IAM)))
    }

    async fn test_iam_permissions(
        &self,
        _: Request<iam::TestIamPermissionsRequest>,
    ) -> Result<Response<iam::TestIamPermissionsResponse>, Status> {
        Err(status(Error::unimplemented(NO_IAM)))
    }
}
