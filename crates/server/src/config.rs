//! What a server is told at its start.
//!
//! Invariant: nothing here reads a flag, a file or the environment; the command line does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The configuration of a server. [`ServeConfig::default`] gives the documented defaults.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where sealed data goes.
    pub data_dir: PathBuf,
    /// Where the KMS keeps its state; `<data_dir>-keys` when none is named.
    pub kms_dir: Option<PathBuf>,
    /// The file of callers (see `claviger_callers`). Without one, whoever reaches the server is its administrator.
    pub callers: Option<PathBuf>,
    /// Where to listen. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The services to run, by name; see [`ServeConfig::SERVICES`].
    pub services: Vec<String>,
    /// A KMS elsewhere, in place of one in this process.
    pub kms: Option<KmsElsewhere>,
    /// What this server shows of itself; without, it speaks in the clear, on loopback.
    pub tls: Option<TlsFiles>,
    /// Who may use the KMS of this server as a server of data does, as IAM members.
    pub data_servers: Vec<String>,
    /// Who is an administrator of this server when they show a certificate, as IAM members.
    pub admins: Vec<String>,
    /// An object store in place of the disk. Not built yet.
    pub store_url: Option<String>,
    /// How often each key in use is checked.
    pub key_check_interval: Duration,
    /// How long cached keys serve while the KMS is silent.
    pub kms_grace: Duration,
    /// The time between the lock of one cluster of an instance and the next. For replication, not built yet.
    pub key_cascade_interval: Duration,
    /// How long a resource may be inaccessible before it is removed. Not built yet.
    pub inaccessible_retention: Duration,
    /// The shortest `destroy_scheduled_duration` that a key may have.
    pub kms_min_destroy_duration: Duration,
    /// The file that opens the KMS.
    pub root_key_file: Option<PathBuf>,
    /// The file whose first line opens the KMS.
    pub root_passphrase_file: Option<PathBuf>,
    /// A key of another KMS that seals this one's root.
    pub root_kms: Option<RootKms>,
    /// A key in a PKCS #11 token that seals this KMS's root.
    pub root_pkcs11: Option<RootToken>,
    /// The token of keys with the protection level HSM.
    pub hsm: Option<HsmTokenConfig>,
    /// The certificates that external key managers without a pinned one are trusted by, in PEM; the machine's when none
    /// is named.
    pub ekm_ca_file: Option<PathBuf>,
    /// Whether such managers may be on this machine or in a private network.
    pub ekm_private_addresses: bool,
    /// Bytes of decrypted blocks kept in memory.
    pub cache_bytes: u64,
    /// Bytes of memory that the shuffles of all jobs share.
    pub shuffle_memory: u64,
    /// Where the Python environments of workers are made, one for each version; `<data_dir>-workers` when none
    /// is named. Only public packages are in them.
    pub worker_dir: Option<PathBuf>,
    /// Where running workers have their files, staged ones among them, in clear; the machine's memory when none
    /// is named.
    pub worker_scratch: Option<PathBuf>,
    /// A Python interpreter with Apache Beam, in place of environments made for it.
    pub beam_python: Option<PathBuf>,
    /// Worker processes that are started before there is a job for them, 0 or 1. One takes about 200 MB of memory
    /// for ten minutes after a job, and saves the next job of the same Python its start.
    pub spare_workers: usize,
    /// The project of jobs that name none.
    pub default_project: String,
    /// The region of jobs that name none.
    pub default_region: String,
}

/// A KMS elsewhere and what is shown to it.
#[derive(Clone, Debug, Default)]
pub struct KmsElsewhere {
    /// Where it is: `https://HOST[:PORT]`, or `http://` on this machine.
    pub url: String,
    /// The certificates that it is known by, in PEM; those that the machine trusts when none is named.
    pub ca_file: Option<PathBuf>,
    /// This server's certificate and those that vouch for it, in PEM.
    pub cert_file: Option<PathBuf>,
    /// The key of this server's certificate, in PEM.
    pub key_file: Option<PathBuf>,
    /// A file whose first line is sent as a bearer token, read at each use.
    pub token_file: Option<PathBuf>,
}

/// What a server shows of itself, and whom it lets in.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Its certificate and those that vouch for it, in PEM.
    pub cert_file: PathBuf,
    /// The key of its certificate, in PEM.
    pub key_file: PathBuf,
    /// The authorities that vouch for clients, in PEM. With them no one comes in without a certificate.
    pub client_ca_file: Option<PathBuf>,
}

/// A key of another KMS that has the gRPC API of Cloud KMS.
#[derive(Clone, Debug)]
pub struct RootKms {
    /// Its full name.
    pub key: String,
    /// Where the KMS is: `https://HOST[:PORT]`, or `http://` on this machine.
    pub endpoint: String,
    /// The certificates that are trusted, in PEM; the machine's when none is named.
    pub ca_file: Option<PathBuf>,
    /// A file whose first line is sent as a bearer token, read at each use.
    pub token_file: Option<PathBuf>,
}

impl RootKms {
    /// The KMS that is asked when none is named.
    pub const ENDPOINT: &str = "https://cloudkms.googleapis.com";
}

/// A key in a PKCS #11 token.
#[derive(Clone, Debug)]
pub struct RootToken {
    /// The module, which is loaded into this process.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub key: String,
    /// A file whose first line is the PIN. There is no opening without one.
    pub pin_file: Option<PathBuf>,
}

impl RootToken {
    /// The label of the token when none is named.
    pub const TOKEN: &str = "claviger";
    /// The label of the key when none is named.
    pub const KEY: &str = "claviger-root";
}

/// A token behind PKCS #11 that keeps keys with the protection level HSM.
#[derive(Clone, Debug)]
pub struct HsmTokenConfig {
    /// The module, which is loaded into this process.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// A file whose first line is the PIN. There is no use of the token without one.
    pub pin_file: Option<PathBuf>,
}

impl ServeConfig {
    /// The services there are.
    pub const SERVICES: [&str; 4] = ["kms", "bigtable", "storage", "dataflow"];

    /// Where the KMS keeps its state: beside the data, never in it.
    #[must_use]
    pub fn kms_dir(&self) -> PathBuf {
        self.kms_dir.clone().unwrap_or_else(|| self.beside("-keys"))
    }

    /// Where the Python environments of workers are made.
    #[must_use]
    pub fn worker_dir(&self) -> PathBuf {
        self.worker_dir.clone().unwrap_or_else(|| self.beside("-workers"))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut beside = self.data_dir.clone().into_os_string();
        beside.push(ending);
        beside.into()
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            data_dir: "./claviger-data".into(),
            kms_dir: None,
            callers: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 9700)),
            services: Self::SERVICES.map(str::to_owned).to_vec(),
            kms: None,
            tls: None,
            data_servers: Vec::new(),
            admins: Vec::new(),
            store_url: None,
            key_check_interval: Duration::from_secs(5 * 60),
            kms_grace: Duration::from_secs(60 * 60),
            key_cascade_interval: Duration::from_secs(60),
            inaccessible_retention: Duration::from_secs(30 * 24 * 60 * 60),
            kms_min_destroy_duration: Duration::from_secs(24 * 60 * 60),
            root_key_file: None,
            root_passphrase_file: None,
            root_kms: None,
            root_pkcs11: None,
            hsm: None,
            ekm_ca_file: None,
            ekm_private_addresses: false,
            cache_bytes: 256 * 1024 * 1024,
            shuffle_memory: 256 * 1024 * 1024,
            worker_dir: None,
            worker_scratch: None,
            beam_python: None,
            spare_workers: 1,
            default_project: "claviger".to_owned(),
            default_region: "us-central1".to_owned(),
        }
    }
}
