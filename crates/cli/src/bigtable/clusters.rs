//! `claviger bigtable clusters`.
//!
//! Invariant: a cluster's key is given when the cluster is made; there is no option to change it.

use clap::{Args, Subcommand};
use claviger_core::names::{ClusterName, CryptoKeyName, LocationName};
use claviger_proto::google::bigtable::admin::v2::cluster::{
    ClusterAutoscalingConfig, ClusterConfig as Scaling, Config, EncryptionConfig, NodeScalingFactor,
};
use claviger_proto::google::bigtable::admin::v2::{
    AutoscalingLimits, AutoscalingTargets, Cluster, CreateClusterRequest, DeleteClusterRequest,
    GetClusterRequest, ListClustersRequest, PartialUpdateClusterRequest,
};
use prost_types::FieldMask;

use super::instances::{Storage, warn_of_missing};
use crate::client::Session;
use crate::failure::Failure;
use crate::flags;
use crate::names::{InInstance, KeyOptions};
use crate::output::{Cell, Column, confirm, say};

const COLUMNS: [Column; 6] = [
    Column::new("NAME", Cell::Id("name")),
    Column::new("ZONE", Cell::Id("location")),
    Column::new("NODES", Cell::Path("serveNodes")),
    Column::new("STORAGE", Cell::Path("defaultStorageType")),
    Column::new("STATE", Cell::Path("state")),
    Column::new("KMS_KEY", Cell::Path("encryptionConfig.kmsKeyName")),
];

/// `claviger bigtable clusters ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a cluster to an instance
    Create(Box<Create>),
    /// List the clusters of an instance, or of all instances
    List {
        #[command(flatten)]
        at: InInstance,
    },
    /// Show a cluster
    Describe(One),
    /// Change the number of a cluster's nodes
    Update(Update),
    /// Delete a cluster
    Delete(One),
}

/// One cluster.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The cluster: an id, or its full name
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    #[command(flatten)]
    at: InInstance,
}

impl One {
    fn name(&self, session: &Session) -> Result<ClusterName, Failure> {
        self.at.cluster(&session.project, &self.cluster)
    }
}

/// How many nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct Autoscaling {
    /// Scale by load: at least so many nodes
    #[arg(long, value_name = "N", requires = "autoscaling_max_nodes")]
    autoscaling_min_nodes: Option<i32>,
    /// Scale by load: at most so many nodes
    #[arg(long, value_name = "N", requires = "autoscaling_min_nodes")]
    autoscaling_max_nodes: Option<i32>,
    /// Scale by load: aim at so many percent of CPU
    #[arg(long, value_name = "PERCENT", requires = "autoscaling_min_nodes")]
    autoscaling_cpu_target: Option<i32>,
    /// Scale by load: aim at so many GiB for each node
    #[arg(long, value_name = "GIB", requires = "autoscaling_min_nodes")]
    autoscaling_storage_target: Option<i32>,
}

impl Autoscaling {
    fn config(self) -> Option<Config> {
        let (min, max) = self.autoscaling_min_nodes.zip(self.autoscaling_max_nodes)?;
        Some(Config::ClusterConfig(Scaling {
            cluster_autoscaling_config: Some(ClusterAutoscalingConfig {
                autoscaling_limits: Some(AutoscalingLimits { min_serve_nodes: min, max_serve_nodes: max }),
                autoscaling_targets: Some(AutoscalingTargets {
                    cpu_utilization_percent: self.autoscaling_cpu_target.unwrap_or_default(),
                    storage_utilization_gib_per_node: self.autoscaling_storage_target.unwrap_or_default(),
                }),
            }),
        }))
    }
}

/// A cluster to make, as `--cluster-config` says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterConfig {
    pub(super) id: String,
    zone: String,
    nodes: Option<i32>,
    key: Option<String>,
    scaling: Autoscaling,
    factor: Option<NodeScalingFactor>,
}

impl ClusterConfig {
    /// A cluster with a number of nodes.
    pub(super) fn new(id: String, zone: String, nodes: i32, key: Option<String>) -> Self {
        Self { id, zone, nodes: Some(nodes), key, ..Self::default() }
    }

    /// Reads `id=ID,zone=ZONE,nodes=N,kms-key=KEY,...`.
    ///
    /// # Errors
    /// A sentence that names the wrong or missing part.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = flags::pair(part)?;
            let number = || value.parse().map_err(|_| format!("{key}={value}: not a whole number"));
            match key.as_str() {
                "id" => config.id = value,
                "zone" => config.zone = value,
                "nodes" => config.nodes = Some(number()?),
                "kms-key" => {
                    let name = CryptoKeyName::parse(&value).map_err(|error| error.message().to_owned())?;
                    config.key = Some(name.to_string());
                }
                "autoscaling-min-nodes" => config.scaling.autoscaling_min_nodes = Some(number()?),
                "autoscaling-max-nodes" => config.scaling.autoscaling_max_nodes = Some(number()?),
                "autoscaling-cpu-target" => config.scaling.autoscaling_cpu_target = Some(number()?),
                "autoscaling-storage-target" => config.scaling.autoscaling_storage_target = Some(number()?),
                "node-scaling-factor" => config.factor = Some(scaling_factor(&value)?),
                _ => {
                    return Err(format!(
                        "there is no '{key}' in a cluster; there are id, zone, nodes, kms-key, autoscaling-min-nodes, \
                         autoscaling-max-nodes, autoscaling-cpu-target, autoscaling-storage-target and node-scaling-factor"
                    ));
                }
            }
        }
        if config.id.is_empty() || config.zone.is_empty() {
            return Err("a cluster needs id=ID and zone=ZONE".into());
        }
        if config.scaling.autoscaling_min_nodes.is_some() != config.scaling.autoscaling_max_nodes.is_some() {
            return Err("autoscaling-min-nodes and autoscaling-max-nodes need each other".into());
        }
        Ok(config)
    }

    /// The message.
    ///
    /// # Errors
    /// Usage: the zone is no id.
    pub(super) fn cluster(&self, project: &str, storage: Storage) -> Result<Cluster, Failure> {
        let config = self.scaling.config();
        let storage = claviger_proto::google::bigtable::admin::v2::StorageType::from(storage);
        Ok(Cluster {
            location: location(project, &self.zone)?,
            serve_nodes: if config.is_some() { 0 } else { self.nodes.unwrap_or(1) },
            node_scaling_factor: self.factor.unwrap_or(NodeScalingFactor::Unspecified).into(),
            default_storage_type: storage.into(),
            encryption_config: self.key.clone().map(|kms_key_name| EncryptionConfig { kms_key_name }),
            config,
            ..Default::default()
        })
    }
}

fn location(project: &str, zone: &str) -> Result<String, Failure> {
    let location = LocationName::new(project, zone).map_err(|error| Failure::usage(error.message()))?;
    Ok(location.to_string())
}

fn scaling_factor(text: &str) -> Result<NodeScalingFactor, String> {
    match flags::enum_name(text).trim_start_matches("NODE_SCALING_FACTOR_") {
        "1X" => Ok(NodeScalingFactor::NodeScalingFactor1x),
        "2X" => Ok(NodeScalingFactor::NodeScalingFactor2x),
        _ => Err(format!(
            "'{text}' is no scaling factor; there are node-scaling-factor-1x and node-scaling-factor-2x"
        )),
    }
}

/// `claviger bigtable clusters create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    one: One,
    /// The zone, such as us-east1-c
    #[arg(long, value_name = "ZONE")]
    zone: String,
    /// The number of nodes
    #[arg(long, visible_alias = "nodes", value_name = "N", default_value_t = 1)]
    num_nodes: i32,
    #[command(flatten)]
    scaling: Autoscaling,
    /// How large nodes are: node-scaling-factor-1x or node-scaling-factor-2x
    #[arg(long, value_name = "FACTOR", value_parser = scaling_factor)]
    node_scaling_factor: Option<NodeScalingFactor>,
    /// What the cluster stores on
    #[arg(long, value_enum, ignore_case = true, default_value_t = Storage::Ssd)]
    storage_type: Storage,
    #[command(flatten)]
    key: KeyOptions,
    /// Do not wait until it is ready
    #[arg(long)]
    r#async: bool,
}

/// `claviger bigtable clusters update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    one: One,
    /// The number of nodes
    #[arg(long, visible_alias = "nodes", value_name = "N", conflicts_with = "autoscaling_min_nodes")]
    num_nodes: Option<i32>,
    #[command(flatten)]
    scaling: Autoscaling,
    /// Keep the number of nodes that --num-nodes says
    #[arg(long, requires = "num_nodes")]
    disable_autoscaling: bool,
    /// Do not wait until it is done
    #[arg(long)]
    r#async: bool,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => create(session, &options).await,
        Command::List { at } => list(session, &at).await,
        Command::Describe(one) => {
            let request = GetClusterRequest { name: one.name(session)?.to_string() };
            session.out.one(&session.instances().get_cluster(request).await?.into_inner())
        }
        Command::Update(options) => update(session, &options).await,
        Command::Delete(one) => {
            let name = one.name(session)?;
            confirm(session.quiet, &format!("Delete cluster [{name}]?"))?;
            session.instances().delete_cluster(DeleteClusterRequest { name: name.to_string() }).await?;
            say(&format!("Deleted cluster [{name}]."));
            Ok(())
        }
    }
}

async fn create(session: &Session, options: &Create) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let config = ClusterConfig {
        id: name.cluster().to_owned(),
        zone: options.zone.clone(),
        nodes: Some(options.num_nodes),
        key: options.key.name(&session.project)?.map(|key| key.to_string()),
        scaling: options.scaling,
        factor: options.node_scaling_factor,
    };
    let request = CreateClusterRequest {
        parent: name.instance_name().to_string(),
        cluster_id: name.cluster().to_owned(),
        cluster: Some(config.cluster(name.project(), options.storage_type)?),
    };
    let operation = session.instances().create_cluster(request).await?.into_inner();
    let doing = format!("Creating cluster [{}]", name.cluster());
    session.finish::<Cluster>(operation, options.r#async, &doing, &format!("Created cluster [{name}].")).await
}

async fn list(session: &Session, at: &InInstance) -> Result<(), Failure> {
    // `-` stands for every instance of the project.
    let parent = match &at.instance {
        Some(_) => at.parent(&session.project)?.to_string(),
        None => format!("projects/{}/instances/-", session.project),
    };
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListClustersRequest { parent: parent.clone(), page_token };
        let page = session.instances().list_clusters(request).await?.into_inner();
        found.extend(page.clusters);
        warn_of_missing(&page.failed_locations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return session.out.list(&found, &COLUMNS);
        }
    }
}

async fn update(session: &Session, options: &Update) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let mut cluster = Cluster { name: name.to_string(), ..Default::default() };
    let mut paths = Vec::new();
    if let Some(nodes) = options.num_nodes {
        cluster.serve_nodes = nodes;
        paths.push("serve_nodes");
    }
    if let Some(config) = options.scaling.config() {
        cluster.config = Some(config);
        paths.push("cluster_config.cluster_autoscaling_config");
    } else if options.disable_autoscaling {
        paths.push("cluster_config.cluster_autoscaling_config");
    }
    if paths.is_empty() {
        return Err(Failure::usage("nothing to update: name --num-nodes or the autoscaling options"));
    }
    let update_mask = Some(FieldMask { paths: paths.into_iter().map(str::to_owned).collect() });
    let request = PartialUpdateClusterRequest { cluster: Some(cluster), update_mask };
    let operation = session.instances().partial_update_cluster(request).await?.into_inner();
    let doing = format!("Updating cluster [{}]", name.cluster());
    session.finish::<Cluster>(operation, options.r#async, &doing, &format!("Updated cluster [{name}].")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";

    #[test]
    fn a_cluster_config_names_its_zone_nodes_and_key() {
        let config = ClusterConfig::parse(&format!("id=c1,zone=us-east1-b,nodes=3,kms-key={KEY}")).unwrap();
        let cluster = config.cluster("p", Storage::Hdd).unwrap();
        assert_eq!(config.id, "c1");
        assert_eq!(cluster.location, "projects/p/locations/us-east1-b");
        assert_eq!((cluster.serve_nodes, cluster.default_storage_type), (3, 2));
        assert_eq!(cluster.encryption_config.unwrap().kms_key_name, KEY);
        assert!(cluster.config.is_none());
    }

    #[test]
    fn a_cluster_that_scales_names_no_number_of_nodes() {
        let text =
            "id=c,zone=us-east1-b,autoscaling-min-nodes=1,autoscaling-max-nodes=4,autoscaling-cpu-target=60";
        let cluster = ClusterConfig::parse(text).unwrap().cluster("p", Storage::Ssd).unwrap();
        assert_eq!(cluster.serve_nodes, 0);
        let Some(Config::ClusterConfig(scaling)) = cluster.config else { panic!("no scaling") };
        let scaling = scaling.cluster_autoscaling_config.unwrap();
        assert_eq!(scaling.autoscaling_limits.unwrap().max_serve_nodes, 4);
        assert_eq!(scaling.autoscaling_targets.unwrap().cpu_utilization_percent, 60);
    }

    #[test]
    fn wrong_parts_of_a_cluster_config_are_named() {
        for (text, part) in [
            ("id=c", "needs id=ID and zone=ZONE"),
            ("id=c,zone=z,nodes=many", "nodes=many"),
            ("id=c,zone=z,kms-key=k", CryptoKeyName::SHAPE),
            ("id=c,zone=z,color=red", "there is no 'color'"),
            ("id=c,zone=z,autoscaling-min-nodes=1", "need each other"),
            ("c", "'c' is not KEY=VALUE"),
        ] {
            let why = ClusterConfig::parse(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
