//! Puts the services together and runs them.
//!
//! Invariant: the ready line is printed once requests are answered, and a stop makes all durable first. While the KMS is
//! sealed nothing but its directory is open, and a line says so.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use claviger_bigtable::{Bigtable, KeyDirectory};
use claviger_buckets::{Buckets, KeyDirectory as BucketKeyDirectory};
use claviger_cmek::Manager;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Clock, Error, ErrorKind, Result, SystemClock};
use claviger_crypto::SecretBytes;
use claviger_dataflow::{CloudFiles, Dataflow, Executor};
use claviger_harness::{HarnessConfig, Harnesses, ProcessConfig};
use claviger_kms::agents::Service;
use claviger_kms::hsm::HsmKeys;
use claviger_kms::{KeyService, Kms, KmsConfig, OpenedRoot};
use claviger_orgpolicy::Policies;
use claviger_sealed::{LocalStore, Records, SealedOptions, SealedStore};
use claviger_shuffle::Budget;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::auth::Callers;
use crate::beam::fn_api::WorkerPools;
use crate::beam::jobs::Defaults;
use crate::config::ServeConfig;
use crate::http::{Door, Front};
use crate::operations::Operations;
use crate::seal::{self, Begin, Root, SealApi, Unsealed};
use crate::{dataflow, http, orgpolicy};

/// The platform's own key, wrapped; see `claviger_cmek::platform`.
const PLATFORM_KEY: &str = "platform.key";
/// The sealed store of the catalog and of the wrapped keys.
const PLATFORM: &str = "platform";
/// The directories of what scopes protect: where one is, a catalog was.
const SCOPES: [&str; 3] = ["bigtable", "buckets", "dataflow"];
/// The part of the cache for decrypted blocks that buckets' indexes get.
const BUCKETS_CACHE_SHARE: u64 = 8;
/// The region of the platform's own key.
const PLATFORM_REGION: &str = "global";
/// How often a silent KMS is asked again, unless checks are more frequent.
const RETRY: Duration = Duration::from_secs(10);

/// Runs a server until `shutdown` is done.
///
/// # Errors
/// What keeps it from starting: a directory in use, a root key that does not fit, a port that is taken,
/// an address beyond loopback.
pub async fn serve(config: ServeConfig, shutdown: impl Future<Output = ()>) -> Result<()> {
    let config = check(config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let listener = TcpListener::bind(config.listen).await.map_err(|e| {
        Error::new(ErrorKind::FailedPrecondition, format!("cannot listen on {}: {e}", config.listen))
    })?;
    let address = listener.local_addr().map_err(|e| Error::internal("no local address").because(e))?;
    let callers = Callers::open(&config, address, &clock)?;
    let watching = callers.watch();
    let (stop, stopped) = watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    let Begin { store, wraps, root, hsm } = seal::begin(&config, &clock).await?;
    let start = Start { config: &config, endpoint: address.to_string(), store, clock: clock.clone(), hsm };
    let (services, serving) = match root {
        Root::Opened(root) => {
            let api = SealApi::starting(wraps, clock.clone());
            let door = Door::new(api.clone(), callers);
            let services = start.open(*root, None, api, &door).await?;
            (services, tokio::spawn(http::serve(listener, door, stopped)))
        }
        Root::Sealed(sealed) => {
            let (api, mut unsealed) = SealApi::sealed(sealed, wraps, clock.clone());
            let door = Door::new(api.clone(), callers);
            let serving = tokio::spawn(http::serve(listener, door.clone(), stopped));
            announce(&format!("claviger sealed http://{address}"));
            let opened = tokio::select! {
                unsealed = wait(&api, &mut unsealed, clock.as_ref()) => match unsealed {
                    Some(Unsealed { root, by }) => start.open(root, Some(by), api, &door).await.map(Some),
                    None => Err(Error::internal("the seal can no longer be opened")),
                },
                () = &mut shutdown => Ok(None),
            };
            match opened {
                Ok(Some(services)) => (services, serving),
                other => {
                    stop.send_replace(true);
                    let _ = serving.await;
                    return other.map(drop);
                }
            }
        }
    };
    let mut background = services.spawn();
    background.extend(watching);
    announce(&format!("claviger ready http://{address}"));
    shutdown.await;
    tracing::info!("stopping");
    stop.send_replace(true);
    // Jobs that run have connections of their workers and watchers, which end with them.
    let _ = tokio::join!(serving, services.stop_jobs());
    for task in background {
        task.abort();
    }
    services.close().await
}

/// Waits until a request unseals the KMS, or a key elsewhere does, which is asked again and again.
async fn wait(api: &SealApi, unsealed: &mut mpsc::Receiver<Unsealed>, clock: &dyn Clock) -> Option<Unsealed> {
    loop {
        tokio::select! {
            unsealed = unsealed.recv() => return unsealed,
            () = clock.sleep(RETRY) => api.try_wraps().await,
        }
    }
}

/// What is known before the KMS is open.
struct Start<'a> {
    config: &'a ServeConfig,
    endpoint: String,
    store: Arc<LocalStore>,
    clock: Arc<dyn Clock>,
    hsm: Option<Arc<dyn HsmKeys>>,
}

impl Start<'_> {
    /// Opens everything, with the opened root of the KMS, and then the door. `by` is who unsealed it.
    async fn open(
        &self,
        root: OpenedRoot,
        by: Option<Caller>,
        api: SealApi,
        door: &Door,
    ) -> Result<Services> {
        let config = KmsConfig {
            min_destroy_duration: self.config.kms_min_destroy_duration,
            external: Some(crate::ekm::client(self.config, self.clock.clone())?),
            hsm: self.hsm.clone(),
            ..KmsConfig::default()
        };
        let seal = root.opened_by().clone();
        let kms = Kms::open_with(config, root, self.store.clone(), self.clock.clone()).await?;
        if let Some(by) = by {
            kms.note_unseal(&by, &seal).await?;
        }
        api.open(kms.clone());
        let services = Box::pin(Services::open(self.config, &self.endpoint, kms, self.clock.clone())).await?;
        door.open(Front::new(&services, api)?);
        Ok(services)
    }
}

#[expect(clippy::print_stdout, reason = "the ready line is for whoever started the process")]
fn announce(line: &str) {
    use std::io::Write as _;
    println!("{line}");
    let _ = std::io::stdout().flush();
}

/// Refuses what is not built or not safe.
fn check(config: ServeConfig) -> Result<ServeConfig> {
    if !config.listen.ip().is_loopback() {
        return Err(Error::precondition(format!(
            "refusing to listen on {}: beyond loopback a server needs TLS and authentication, which are not built yet; listen on 127.0.0.1",
            config.listen
        )));
    }
    if config.kms_url.is_some() {
        return Err(Error::unimplemented("--kms is not built yet: the KMS runs in this process"));
    }
    if config.store_url.is_some() {
        return Err(Error::unimplemented("--store is not built yet: data goes to --data-dir"));
    }
    for service in &config.services {
        if !ServeConfig::SERVICES.contains(&service.as_str()) {
            return Err(Error::invalid(format!(
                "'{service}' is not a service; there are {}",
                ServeConfig::SERVICES.join(", ")
            )));
        }
    }
    if !config.services.iter().any(|service| service == "kms") {
        return Err(Error::unimplemented(
            "a server without the service kms needs --kms, which is not built yet",
        ));
    }
    Ok(config)
}

/// Everything that runs.
pub(crate) struct Services {
    pub(crate) kms: Arc<Kms>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) data: Option<Data>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What serves data.
pub(crate) struct Data {
    pub(crate) bigtable: Option<Arc<Bigtable>>,
    pub(crate) buckets: Option<Arc<Buckets>>,
    pub(crate) jobs: Option<Jobs>,
    pub(crate) operations: Arc<Operations>,
    keys: Arc<Manager>,
    records: Arc<Records>,
    platform: Arc<SealedStore>,
}

/// What runs pipelines.
pub(crate) struct Jobs {
    pub(crate) dataflow: Arc<Dataflow>,
    pub(crate) harnesses: Arc<Harnesses>,
    pub(crate) defaults: Arc<Defaults>,
    /// Where workers and clients reach us, as `HOST:PORT`.
    pub(crate) endpoint: String,
}

impl Services {
    async fn open(
        config: &ServeConfig,
        endpoint: &str,
        kms: Arc<Kms>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let policies = Box::pin(orgpolicy::open(&kms, clock.clone())).await?;
        let data = if config.services.iter().any(|service| service != "kms") {
            let keys = (kms.clone(), policies.clone());
            Some(Box::pin(Data::open(config, endpoint, keys, clock.clone())).await?)
        } else {
            None
        };
        Ok(Self { kms, policies, data, clock })
    }

    /// Starts what runs beside requests.
    fn spawn(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let kms = self.kms.clone();
        let mut tasks = vec![tokio::spawn(async move { kms.run().await })];
        if let Some(data) = &self.data {
            tasks.push(tokio::spawn(data.keys.clone().run()));
            tasks.extend(data.bigtable.clone().map(|store| tokio::spawn(store.close_idle_tablets())));
            tasks.extend(data.buckets.clone().map(|buckets| tokio::spawn(buckets.run())));
        }
        tasks
    }

    async fn stop_jobs(&self) {
        if let Some(jobs) = self.data.as_ref().and_then(|data| data.jobs.as_ref()) {
            jobs.dataflow.close().await;
        }
    }

    async fn close(&self) -> Result<()> {
        if let Some(data) = &self.data {
            if let Some(bigtable) = &data.bigtable {
                bigtable.close().await;
            }
            if let Some(buckets) = &data.buckets {
                buckets.close().await;
            }
            data.keys.close().await?;
            data.records.close().await?;
            data.platform.close().await?;
        }
        let policies = self.policies.close().await;
        self.kms.close().await.and(policies)
    }
}

impl Data {
    async fn open(
        config: &ServeConfig,
        endpoint: &str,
        (kms, policies): (Arc<Kms>, Arc<Policies>),
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let disk = Arc::new(open_dir(&config.data_dir).await?);
        let files: Arc<dyn ObjectStore> = disk.clone();
        let (key, agent) = managed(&kms, Service::Platform, PLATFORM_REGION).await?;
        // Where tables or buckets are, a catalog was: an empty one in its place would have them removed as
        // left over.
        let mut had_catalog = false;
        for scopes in SCOPES {
            let found = files.list_with_delimiter(Some(&Path::from(scopes))).await;
            had_catalog |= !found.map_err(claviger_sealed::from_store)?.common_prefixes.is_empty();
        }
        let platform_key = claviger_cmek::platform::open(
            kms.as_ref(),
            &key,
            &agent,
            files.clone(),
            &Path::from(PLATFORM_KEY),
            clock.as_ref(),
        )
        .await?;
        let platform = Arc::new(
            SealedStore::open(
                files.clone(),
                Path::from(PLATFORM),
                Arc::new(platform_key),
                clock.clone(),
                SealedOptions { must_exist: had_catalog, lazy_deletes: true, ..SealedOptions::default() },
            )
            .await?,
        );
        let records = Arc::new(Records::open(platform.clone(), "records").await?);
        let keys = Manager::open(
            records.clone(),
            kms.clone(),
            clock.clone(),
            claviger_cmek::Config {
                check_interval: config.key_check_interval,
                grace: config.kms_grace,
                retry_interval: RETRY.min(config.key_check_interval),
                ..claviger_cmek::Config::default()
            },
        )?;
        let serves = |name: &str| config.services.iter().any(|service| service == name);
        let room: Arc<dyn Fn() -> Result<()> + Send + Sync> = Arc::new(move || disk.check_room());
        let directory =
            |service| Arc::new(Directory { kms: kms.clone(), policies: policies.clone(), service });
        let mut bigtable = None;
        if serves("bigtable") {
            let config = claviger_bigtable::Config {
                files: files.clone(),
                records: records.clone(),
                keys: keys.clone(),
                directory: directory(Service::Bigtable),
                clock: clock.clone(),
                cache_bytes: config.cache_bytes,
                room: room.clone(),
            };
            bigtable = Some(Bigtable::open(config).await?);
        }
        let mut buckets = None;
        if serves("storage") {
            let config = claviger_buckets::Config {
                files: files.clone(),
                records: records.clone(),
                keys: keys.clone(),
                directory: directory(Service::Storage),
                clock: clock.clone(),
                cache_bytes: config.cache_bytes / BUCKETS_CACHE_SHARE,
                room: room.clone(),
            };
            buckets = Some(Buckets::open(config).await?);
        }
        let mut jobs = None;
        if serves("dataflow") {
            let harnesses = harnesses(config, endpoint, clock.clone());
            let cloud =
                buckets.clone().map(|buckets| Arc::new(dataflow::Files(buckets)) as Arc<dyn CloudFiles>);
            let opened = Dataflow::open(claviger_dataflow::Config {
                files,
                records: records.clone(),
                keys: keys.clone(),
                directory: Arc::new(dataflow::Directory { kms, policies }),
                cloud,
                harnesses: harnesses.clone(),
                runner: Arc::new(Executor),
                budget: Budget::new(usize::try_from(config.shuffle_memory).unwrap_or(usize::MAX)),
                limits: claviger_dataflow::exec::Limits::default(),
                clock: clock.clone(),
                room,
            });
            let defaults =
                Defaults { project: config.default_project.clone(), region: config.default_region.clone() };
            jobs = Some(Jobs {
                dataflow: opened.await?,
                harnesses,
                defaults: Arc::new(defaults),
                endpoint: endpoint.to_owned(),
            });
        }
        let operations = Operations::open(records.clone(), clock).await?;
        Ok(Self { bigtable, buckets, jobs, operations, keys, records, platform })
    }
}

/// Where workers come from.
fn harnesses(config: &ServeConfig, endpoint: &str, clock: Arc<dyn Clock>) -> Arc<Harnesses> {
    Harnesses::new(HarnessConfig {
        endpoint: endpoint.to_owned(),
        clock,
        pools: Arc::new(WorkerPools),
        processes: ProcessConfig {
            scratch: config.worker_scratch.clone(),
            owner: std::path::absolute(&config.data_dir)
                .unwrap_or_else(|_| config.data_dir.clone())
                .display()
                .to_string(),
            python_cache: config.worker_dir(),
            beam_python: config.beam_python.clone(),
            variables: worker_variables(config, endpoint),
            spare_workers: config.spare_workers,
        },
        limits: claviger_harness::Limits::default(),
    })
}

/// What points the clients in a worker's code at this server. Nobody needs credentials here.
fn worker_variables(config: &ServeConfig, endpoint: &str) -> BTreeMap<String, String> {
    let serves = |name: &str| config.services.iter().any(|service| service == name);
    let mut variables = BTreeMap::from([("NO_GCE_CHECK".to_owned(), "true".to_owned())]);
    if serves("storage") {
        variables.insert("STORAGE_EMULATOR_HOST".to_owned(), format!("http://{endpoint}"));
    }
    if serves("bigtable") {
        variables.insert("BIGTABLE_EMULATOR_HOST".to_owned(), endpoint.to_owned());
    }
    variables
}

/// Takes a directory into use, or says which one it was and why not.
pub(crate) async fn open_dir(dir: &std::path::Path) -> Result<LocalStore> {
    LocalStore::open(dir).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Error::new(error.kind(), format!("{}: {error}{cause}", dir.display())).because(error)
    })
}

/// A key that Claviger manages, and who may use it.
async fn managed(kms: &Kms, service: Service, region: &str) -> Result<(CryptoKeyName, Caller)> {
    let key = kms.managed_key(service, region).await?;
    let agent = kms.service_agent(service, key.project()).await?;
    Ok((key, agent))
}

/// A service's agents and managed keys, from the KMS of this process, and its policies.
struct Directory {
    kms: Arc<Kms>,
    policies: Arc<Policies>,
    service: Service,
}

#[async_trait]
impl KeyDirectory for Directory {
    async fn agent(&self, project: &str) -> Result<Caller> {
        self.kms.service_agent(self.service, project).await
    }

    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)> {
        managed(&self.kms, self.service, region).await
    }

    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()> {
        let probe = SecretBytes::new(b"claviger".to_vec());
        // Both halves: a key that only encrypts would lock its data in.
        let aad = b"claviger key trial";
        let sealed = self.kms.encrypt(caller, key, &probe, aad).await?;
        self.kms.decrypt(caller, key, &sealed.ciphertext, aad).await.map(drop)
    }

    async fn is_external(&self, key: &CryptoKeyName) -> Result<bool> {
        // Whatever the agent may see: it may use the key, or this is not asked.
        Ok(self.kms.get_crypto_key(&Caller::local_admin(), key)?.key.is_external())
    }

    fn admit(&self, project: &str, key: Option<&CryptoKeyName>, operation: &str) -> Result<()> {
        self.policies.protection(project, orgpolicy::names(self.service), key, operation)
    }
}

#[async_trait]
impl BucketKeyDirectory for Directory {
    async fn project_number(&self, project: &str) -> Result<u64> {
        self.kms.project_number(project).await
    }

    async fn agent(&self, project: &str) -> Result<Caller> {
        KeyDirectory::agent(self, project).await
    }

    async fn managed_key(&self, location: &str) -> Result<(CryptoKeyName, Caller)> {
        KeyDirectory::managed_key(self, location).await
    }

    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()> {
        KeyDirectory::try_key(self, caller, key).await
    }

    fn admit(&self, project: &str, key: Option<&CryptoKeyName>, operation: &str) -> Result<()> {
        KeyDirectory::admit(self, project, key, operation)
    }
}
