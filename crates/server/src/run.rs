//! Puts the services together and runs them.
//!
//! Invariant: the ready line is printed once requests are answered, and a stop makes all durable first. While the KMS is
//! sealed nothing but its directory is open, and a line says so.

mod check;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use claviger_bigtable::Bigtable;
use claviger_buckets::Buckets;
use claviger_cmek::Manager;
use claviger_core::{Caller, Clock, Error, ErrorKind, Result, SystemClock};
use claviger_dataflow::{CloudFiles, Dataflow, Executor};
use claviger_harness::{HarnessConfig, Harnesses, ProcessConfig};
use claviger_kms::agents::Service;
use claviger_kms::hsm::HsmKeys;
use claviger_kms::{Kms, KmsConfig, OpenedRoot, RootWrap};
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
use crate::data_servers::{ChangeLog, Sources};
use crate::elsewhere::{self, Elsewhere, PlainKms, Reached, Remote};
use crate::http::{Door, Front, Secure};
use crate::keys::{self, Authority, Directory, Here};
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
/// an address beyond loopback without TLS, a KMS elsewhere that refuses.
pub async fn serve(config: ServeConfig, shutdown: impl Future<Output = ()>) -> Result<()> {
    let config = check::check(config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let secure = Secure::new(&config, clock.clone())?;
    let scheme = if secure.is_some() { "https" } else { "http" };
    let listener = TcpListener::bind(config.listen).await.map_err(|e| {
        Error::new(ErrorKind::FailedPrecondition, format!("cannot listen on {}: {e}", config.listen))
    })?;
    let address = listener.local_addr().map_err(|e| Error::internal("no local address").because(e))?;
    let callers = Callers::open(&config, address, &clock)?;
    let watching = callers.watch();
    let (stop, stopped) = watch::channel(false);
    let port = Port { listener, secure, callers, stopped, url: format!("{scheme}://{address}") };
    let mut shutdown = std::pin::pin!(shutdown);
    let Some((services, serving)) = open(&config, port, address, clock, shutdown.as_mut(), &stop).await?
    else {
        return Ok(());
    };
    let mut background = services.spawn();
    background.extend(watching);
    announce(&format!("claviger ready {scheme}://{address}"));
    shutdown.await;
    tracing::info!("stopping");
    stop.send_replace(true);
    // Jobs that run have connections of their workers and watchers, which end with them; so have data servers.
    let _ = tokio::join!(serving, services.stop_streams());
    for task in background {
        task.abort();
    }
    services.close().await
}

/// Where requests come in.
struct Port {
    listener: TcpListener,
    secure: Option<Secure>,
    callers: Callers,
    stopped: watch::Receiver<bool>,
    url: String,
}

type Serving = tokio::task::JoinHandle<std::io::Result<()>>;

impl Port {
    fn serve(self, door: Door) -> Serving {
        tokio::spawn(http::serve(self.listener, door, self.secure, self.stopped))
    }
}

/// Opens all and lets requests in; nothing, when it was told to stop before that.
async fn open(
    config: &ServeConfig,
    port: Port,
    address: SocketAddr,
    clock: Arc<dyn Clock>,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    stop: &watch::Sender<bool>,
) -> Result<Option<(Services, Serving)>> {
    let endpoint = address.to_string();
    let Some(told) = &config.kms else {
        let Begin { store, wraps, root, hsm } = seal::begin(config, &clock).await?;
        let start = Start { config, endpoint, store, clock: clock.clone(), hsm, plain: None };
        return Box::pin(start.here(root, wraps, At::Port(port), shutdown, stop)).await;
    };
    let api = SealApi::elsewhere(told.url.clone(), clock.clone());
    let door = Door::new(api.clone(), port.callers.clone());
    let url = port.url.clone();
    let serving = port.serve(door.clone());
    let reached = tokio::select! {
        reached = elsewhere::reach(told, clock.clone()) => reached?,
        () = &mut shutdown => {
            stop.send_replace(true);
            let _ = serving.await;
            return Ok(None);
        }
    };
    match reached {
        Reached::Claviger(kms) => {
            let authority = Arc::new(Remote(kms.clone()));
            let services = Services::open(config, &endpoint, Home::Elsewhere(kms), authority, clock);
            let services = Box::pin(services).await?;
            door.open(Front::new(&services, config, api)?);
            Ok(Some((services, serving)))
        }
        Reached::Plain(plain) => {
            let Begin { store, wraps, root, hsm } = seal::begin(config, &clock).await?;
            let start = Start { config, endpoint, store, clock: clock.clone(), hsm, plain: Some(plain) };
            Box::pin(start.here(root, wraps, At::Door(door, serving, url), shutdown, stop)).await
        }
    }
}

/// Where requests come in, and whether they are answered already.
enum At {
    Port(Port),
    Door(Door, Serving, String),
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
    /// Where the customers' keys are used, when that is not here.
    plain: Option<Box<PlainKms>>,
}

impl Start<'_> {
    /// Opens a server with a KMS in this process, once that is unsealed.
    async fn here(
        self,
        root: Root,
        wraps: Vec<Arc<dyn RootWrap>>,
        at: At,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
        stop: &watch::Sender<bool>,
    ) -> Result<Option<(Services, Serving)>> {
        let clock = self.clock.clone();
        match root {
            Root::Opened(root) => {
                let api = SealApi::starting(wraps, clock);
                match at {
                    At::Port(port) => {
                        let door = Door::new(api.clone(), port.callers.clone());
                        let services = self.open(*root, None, api, &door).await?;
                        Ok(Some((services, port.serve(door))))
                    }
                    At::Door(door, serving, _) => {
                        door.closed_by(api.clone());
                        let services = self.open(*root, None, api, &door).await?;
                        Ok(Some((services, serving)))
                    }
                }
            }
            Root::Sealed(sealed) => {
                let (api, mut unsealed) = SealApi::sealed(sealed, wraps, clock.clone());
                let (door, serving, url) = match at {
                    At::Port(port) => {
                        let door = Door::new(api.clone(), port.callers.clone());
                        let url = port.url.clone();
                        (door.clone(), port.serve(door), url)
                    }
                    At::Door(door, serving, url) => {
                        door.closed_by(api.clone());
                        (door, serving, url)
                    }
                };
                announce(&format!("claviger sealed {url}"));
                let opened = tokio::select! {
                    unsealed = wait(&api, &mut unsealed, clock.as_ref()) => match unsealed {
                        Some(Unsealed { root, by }) => self.open(root, Some(by), api, &door).await.map(Some),
                        None => Err(Error::internal("the seal can no longer be opened")),
                    },
                    () = &mut shutdown => Ok(None),
                };
                match opened {
                    Ok(Some(services)) => Ok(Some((services, serving))),
                    other => {
                        stop.send_replace(true);
                        let _ = serving.await;
                        other.map(|_| None)
                    }
                }
            }
        }
    }

    /// Opens everything, with the opened root of the KMS, and then the door. `by` is who unsealed it.
    async fn open(self, root: OpenedRoot, by: Option<Caller>, api: SealApi, door: &Door) -> Result<Services> {
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
        let policies = Box::pin(orgpolicy::open(&kms, self.clock.clone())).await?;
        let (changes, sources) = ChangeLog::new(&kms, &policies);
        let here = Here { kms, policies };
        let authority: Arc<dyn Authority> = match self.plain {
            None => Arc::new(here.clone()),
            Some(plain) => plain.beside(here.clone()),
        };
        let home = Home::Here { here, changes, sources: Mutex::new(Some(sources)) };
        let services = Services::open(self.config, &self.endpoint, home, authority, self.clock);
        let services = Box::pin(services).await?;
        door.open(Front::new(&services, self.config, api)?);
        Ok(services)
    }
}

#[expect(clippy::print_stdout, reason = "the ready line is for whoever started the process")]
fn announce(line: &str) {
    use std::io::Write as _;
    println!("{line}");
    let _ = std::io::stdout().flush();
}

/// Where the keys are.
pub(crate) enum Home {
    /// In this process.
    Here {
        here: Here,
        changes: Arc<ChangeLog>,
        /// Until the log runs.
        sources: Mutex<Option<Sources>>,
    },
    /// At a Claviger elsewhere.
    Elsewhere(Arc<Elsewhere>),
}

/// Everything that runs.
pub(crate) struct Services {
    pub(crate) home: Home,
    pub(crate) authority: Arc<dyn Authority>,
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
        home: Home,
        authority: Arc<dyn Authority>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let data = if config.services.iter().any(|service| service != "kms") {
            Some(Box::pin(Data::open(config, endpoint, authority.clone(), clock.clone())).await?)
        } else {
            None
        };
        Ok(Self { home, authority, data, clock })
    }

    /// Starts what runs beside requests.
    fn spawn(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let mut tasks = Vec::new();
        match &self.home {
            Home::Here { here, changes, sources } => {
                let kms = here.kms.clone();
                tasks.push(tokio::spawn(async move { kms.run().await }));
                let sources = sources.lock().unwrap_or_else(PoisonError::into_inner).take();
                tasks.extend(sources.map(|sources| tokio::spawn(changes.clone().run(sources))));
            }
            Home::Elsewhere(kms) => tasks.push(tokio::spawn(kms.clone().follow())),
        }
        if let Some(data) = &self.data {
            tasks.push(tokio::spawn(data.keys.clone().run()));
            tasks.extend(data.bigtable.clone().map(|store| tokio::spawn(store.close_idle_tablets())));
            tasks.extend(data.buckets.clone().map(|buckets| tokio::spawn(buckets.run())));
        }
        tasks
    }

    /// Ends what would keep connections open.
    async fn stop_streams(&self) {
        if let Home::Here { changes, .. } = &self.home {
            changes.close();
        }
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
        match &self.home {
            Home::Here { here, .. } => {
                let policies = here.policies.close().await;
                here.kms.close().await.and(policies)
            }
            Home::Elsewhere(_) => Ok(()),
        }
    }
}

impl Data {
    async fn open(
        config: &ServeConfig,
        endpoint: &str,
        authority: Arc<dyn Authority>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let disk = Arc::new(open_dir(&config.data_dir).await?);
        let files: Arc<dyn ObjectStore> = disk.clone();
        let (key, agent) = keys::managed(authority.as_ref(), Service::Platform, PLATFORM_REGION).await?;
        // Where tables or buckets are, a catalog was: an empty one in its place would have them removed as
        // left over.
        let mut had_catalog = false;
        for scopes in SCOPES {
            let found = files.list_with_delimiter(Some(&Path::from(scopes))).await;
            had_catalog |= !found.map_err(claviger_sealed::from_store)?.common_prefixes.is_empty();
        }
        let platform_key = claviger_cmek::platform::open(
            authority.keys().as_ref(),
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
            authority.keys(),
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
        let directory = |service| Arc::new(Directory { authority: authority.clone(), service });
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
                directory: directory(Service::Dataflow),
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
