//! Puts the services together and runs them.
//!
//! Invariant: the ready line is printed once requests are answered, and a stop makes all durable first.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use claviger_bigtable::{Bigtable, KeyDirectory};
use claviger_cmek::Manager;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Clock, Error, ErrorKind, Result, SystemClock};
use claviger_crypto::SecretBytes;
use claviger_kms::agents::Service;
use claviger_kms::{KeyService, Kms};
use claviger_sealed::{LocalStore, Records, SealedOptions, SealedStore};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::ServeConfig;
use crate::http::Front;
use crate::operations::Operations;
use crate::{api, http};

/// The platform's own key, wrapped; see `claviger_cmek::platform`.
const PLATFORM_KEY: &str = "platform.key";
/// The sealed store of the catalog and of the wrapped keys.
const PLATFORM: &str = "platform";
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
    let services = Services::open(&config, clock.clone()).await?;
    let front = Front::new(&services)?;
    let (stop, stopped) = watch::channel(false);
    let background = services.spawn();
    let serving = tokio::spawn(http::serve(listener, front, stopped));
    announce(&format!("claviger ready http://{address}"));
    shutdown.await;
    tracing::info!("stopping");
    stop.send_replace(true);
    let _ = serving.await;
    for task in background {
        task.abort();
    }
    services.close().await
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
                ServeConfig::SERVICES.join(" and ")
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
    pub(crate) data: Option<Data>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What serves data.
pub(crate) struct Data {
    pub(crate) bigtable: Arc<Bigtable>,
    pub(crate) operations: Arc<Operations>,
    keys: Arc<Manager>,
    records: Arc<Records>,
    platform: Arc<SealedStore>,
}

impl Services {
    async fn open(config: &ServeConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let kms = api::open_kms(config, clock.clone()).await?;
        let data = if config.services.iter().any(|service| service == "bigtable") {
            Some(Data::open(config, kms.clone(), clock.clone()).await?)
        } else {
            None
        };
        Ok(Self { kms, data, clock })
    }

    /// Starts what runs beside requests.
    fn spawn(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let kms = self.kms.clone();
        let mut tasks = vec![tokio::spawn(async move { kms.run().await })];
        if let Some(data) = &self.data {
            tasks.push(tokio::spawn(data.keys.clone().run()));
            tasks.push(tokio::spawn(data.bigtable.clone().close_idle_tablets()));
        }
        tasks
    }

    async fn close(&self) -> Result<()> {
        if let Some(data) = &self.data {
            data.bigtable.close().await;
            data.keys.close().await?;
            data.records.close().await?;
            data.platform.close().await?;
        }
        self.kms.close().await
    }
}

impl Data {
    async fn open(config: &ServeConfig, kms: Arc<Kms>, clock: Arc<dyn Clock>) -> Result<Self> {
        let disk = Arc::new(open_dir(&config.data_dir).await?);
        let files: Arc<dyn ObjectStore> = disk.clone();
        let (key, agent) = managed(&kms, Service::Platform, PLATFORM_REGION).await?;
        // Where tables are, a catalog was: an empty one in its place would have them removed as left over.
        let tablets = files.list_with_delimiter(Some(&Path::from("bigtable"))).await;
        let has_tablets = !tablets.map_err(claviger_sealed::from_store)?.common_prefixes.is_empty();
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
                SealedOptions { must_exist: has_tablets, lazy_deletes: true, ..SealedOptions::default() },
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
        let bigtable = Bigtable::open(claviger_bigtable::Config {
            files,
            records: records.clone(),
            keys: keys.clone(),
            directory: Arc::new(Directory(kms)),
            clock: clock.clone(),
            cache_bytes: config.cache_bytes,
            room: Arc::new(move || disk.check_room()),
        })
        .await?;
        let operations = Operations::open(records.clone(), clock).await?;
        Ok(Self { bigtable, operations, keys, records, platform })
    }
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

/// Service agents and managed keys, from the KMS of this process.
struct Directory(Arc<Kms>);

#[async_trait]
impl KeyDirectory for Directory {
    async fn agent(&self, project: &str) -> Result<Caller> {
        self.0.service_agent(Service::Bigtable, project).await
    }

    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)> {
        managed(&self.0, Service::Bigtable, region).await
    }

    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()> {
        let probe = SecretBytes::new(b"claviger".to_vec());
        // Both halves: a key that only encrypts would lock its data in.
        let aad = b"claviger key trial";
        let sealed = self.0.encrypt(caller, key, &probe, aad).await?;
        self.0.decrypt(caller, key, &sealed.ciphertext, aad).await.map(drop)
    }
}
