//! `claviger bigtable instances`.
//!
//! Invariant: an instance's keys are named when its clusters are made, and never change.

use std::collections::HashMap;
use std::fmt::Write as _;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use claviger_core::names::InstanceName;
use claviger_proto::google::bigtable::admin::v2::{
    Cluster, CreateInstanceRequest, DeleteInstanceRequest, GetInstanceRequest, Instance,
    ListInstancesRequest, PartialUpdateInstanceRequest, StorageType, instance,
};
use prost_types::FieldMask;

use super::clusters::ClusterConfig;
use crate::client::Session;
use crate::failure::Failure;
use crate::names::KeyOptions;
use crate::output::{Cell, Column, confirm, say};
use crate::{flags, names};

const COLUMNS: [Column; 5] = [
    Column::new("NAME", Cell::Id("name")),
    Column::new("DISPLAY_NAME", Cell::Path("displayName")),
    Column::new("STATE", Cell::Path("state")),
    Column::new("LABELS", Cell::Path("labels")),
    Column::new("CREATED", Cell::Path("createTime")),
];

const CREATE_EXAMPLES: &str = "\
Examples:
  claviger bigtable instances create aviary --cluster-config id=aviary-c1,zone=us-east1-b
  claviger bigtable instances create aviary --cluster aviary-c1 --zone us-east1-b \\
      --kms-key projects/p/locations/us-east1/keyRings/ring/cryptoKeys/k

The key must be in the region of the zone, and Bigtable's service agent must be
allowed to use it:
  claviger kms keys authorize KEY --service bigtable";

/// `claviger bigtable instances ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an instance with its clusters
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<Create>),
    /// List the instances of a project
    List,
    /// Show an instance
    Describe(One),
    /// Change an instance's display name or labels
    Update(Update),
    /// Delete instances with all their tables; the keys of their data are destroyed
    Delete {
        /// The instances: ids, or their full names
        #[arg(value_name = "INSTANCE", required = true)]
        instances: Vec<String>,
    },
}

/// One instance.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The instance: an id, or its full name
    #[arg(value_name = "INSTANCE")]
    instance: String,
}

impl One {
    fn name(&self, session: &Session) -> Result<InstanceName, Failure> {
        names::instance(&session.project, &self.instance)
    }
}

/// What clusters store on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Storage {
    /// Fast
    Ssd,
    /// Cheap
    Hdd,
}

impl From<Storage> for StorageType {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Ssd => Self::Ssd,
            Storage::Hdd => Self::Hdd,
        }
    }
}

/// The edition of an instance.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Edition {
    /// Enterprise
    Enterprise,
    /// Enterprise Plus
    EnterprisePlus,
}

/// `claviger bigtable instances create`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("clusters").required(true).args(["cluster_config", "cluster"]))]
pub(crate) struct Create {
    #[command(flatten)]
    one: One,
    /// What people see [default: the id]
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// A cluster, as id=ID,zone=ZONE[,nodes=N][,kms-key=KEY][,autoscaling-min-nodes=N,...]; give it once for each
    #[arg(long, value_name = "id=ID,zone=ZONE,...", value_parser = cluster_config)]
    cluster_config: Vec<ClusterConfig>,
    /// The id of the one cluster, in place of --cluster-config
    #[arg(long, value_name = "ID", requires = "zone")]
    cluster: Option<String>,
    /// The zone of that cluster, such as us-east1-b
    #[arg(long, value_name = "ZONE", requires = "cluster")]
    zone: Option<String>,
    /// The nodes of that cluster
    #[arg(long, visible_alias = "num-nodes", value_name = "N", default_value_t = 1)]
    nodes: i32,
    #[command(flatten)]
    key: KeyOptions,
    /// What the clusters store on
    #[arg(long, visible_alias = "cluster-storage-type", value_enum, ignore_case = true, default_value_t = Storage::Ssd)]
    storage_type: Storage,
    /// The edition
    #[arg(long, value_enum, ignore_case = true)]
    edition: Option<Edition>,
    /// Labels, as KEY=VALUE,...
    #[arg(long, value_name = "KEY=VALUE", value_parser = flags::pair, value_delimiter = ',')]
    labels: Vec<(String, String)>,
    /// Do not wait until it is ready
    #[arg(long)]
    r#async: bool,
}

/// `claviger bigtable instances update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    one: One,
    /// What people see
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    #[command(flatten)]
    labels: crate::kms::LabelChanges,
    /// Do not wait until it is done
    #[arg(long)]
    r#async: bool,
}

fn cluster_config(text: &str) -> Result<ClusterConfig, String> {
    ClusterConfig::parse(text)
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(options) => create(session, &options).await,
        Command::List => list(session).await,
        Command::Describe(one) => {
            let instance = get(session, &one.name(session)?).await?;
            session.out.one(&instance)
        }
        Command::Update(options) => update(session, &options).await,
        Command::Delete { instances } => delete(session, &instances).await,
    }
}

async fn create(session: &Session, options: &Create) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let mut clusters: HashMap<String, Cluster> = HashMap::new();
    let short = options.cluster.clone().zip(options.zone.clone());
    let short = match short {
        Some((id, zone)) => {
            let key = options.key.name(&session.project)?.map(|key| key.to_string());
            Some(ClusterConfig::new(id, zone, options.nodes, key))
        }
        None => None,
    };
    for config in options.cluster_config.iter().chain(&short) {
        let cluster = config.cluster(name.project(), options.storage_type)?;
        if clusters.insert(config.id.clone(), cluster).is_some() {
            return Err(Failure::usage(format!("cluster [{}] is given twice", config.id)));
        }
    }
    let edition = match options.edition {
        None => instance::Edition::Unspecified,
        Some(Edition::Enterprise) => instance::Edition::Enterprise,
        Some(Edition::EnterprisePlus) => instance::Edition::EnterprisePlus,
    };
    let request = CreateInstanceRequest {
        parent: name.project_name().to_string(),
        instance_id: name.instance().to_owned(),
        instance: Some(Instance {
            display_name: options.display_name.clone().unwrap_or_else(|| name.instance().to_owned()),
            labels: options.labels.iter().cloned().collect(),
            edition: edition.into(),
            ..Default::default()
        }),
        clusters,
    };
    let operation = session.instances().create_instance(request).await?.into_inner();
    let doing = format!("Creating instance [{}]", name.instance());
    session
        .finish::<Instance>(operation, options.r#async, &doing, &format!("Created instance [{name}]."))
        .await
}

async fn list(session: &Session) -> Result<(), Failure> {
    let parent = format!("projects/{}", session.project);
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListInstancesRequest { parent: parent.clone(), page_token };
        let page = session.instances().list_instances(request).await?.into_inner();
        found.extend(page.instances);
        warn_of_missing(&page.failed_locations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return session.out.list(&found, &COLUMNS);
        }
    }
}

/// Says when a list is not whole.
pub(super) fn warn_of_missing(locations: &[String]) {
    if !locations.is_empty() {
        let mut text = "warning: these locations did not answer, so the list is not whole:".to_owned();
        for location in locations {
            let _ = write!(text, " {location}");
        }
        say(&text);
    }
}

async fn get(session: &Session, name: &InstanceName) -> Result<Instance, Failure> {
    let request = GetInstanceRequest { name: name.to_string() };
    Ok(session.instances().get_instance(request).await?.into_inner())
}

async fn update(session: &Session, options: &Update) -> Result<(), Failure> {
    let name = options.one.name(session)?;
    let mut instance = get(session, &name).await?;
    let mut paths = Vec::new();
    if let Some(display_name) = &options.display_name {
        instance.display_name.clone_from(display_name);
        paths.push("display_name".to_owned());
    }
    if options.labels.any() {
        options.labels.apply(&mut instance.labels);
        paths.push("labels".to_owned());
    }
    if paths.is_empty() {
        return Err(Failure::usage("nothing to update: name a display name or labels"));
    }
    let request =
        PartialUpdateInstanceRequest { instance: Some(instance), update_mask: Some(FieldMask { paths }) };
    let operation = session.instances().partial_update_instance(request).await?.into_inner();
    let doing = format!("Updating instance [{}]", name.instance());
    session
        .finish::<Instance>(operation, options.r#async, &doing, &format!("Updated instance [{name}]."))
        .await
}

async fn delete(session: &Session, instances: &[String]) -> Result<(), Failure> {
    for instance in instances {
        let name = names::instance(&session.project, instance)?;
        confirm(session.quiet, &format!("Delete instance [{name}] with all its tables?"))?;
        session.instances().delete_instance(DeleteInstanceRequest { name: name.to_string() }).await?;
        say(&format!("Deleted instance [{name}]."));
    }
    Ok(())
}
