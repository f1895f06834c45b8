//! `claviger serve`: the server's configuration from flags, variables and a file, and its process.
//!
//! Invariant: a flag wins over its variable, the variable over the file's key, the key over the default. The
//! name of each is made from the flag's: `--key-check-interval`, `CLAVIGER_KEY_CHECK_INTERVAL`,
//! `key_check_interval`.

use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use claviger_server::{HsmTokenConfig, KmsElsewhere, RootKms, RootToken, ServeConfig, TlsFiles};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// What is logged when `CLAVIGER_LOG` says nothing else. `claviger` stands for all of our crates.
// SlateDB calls it an error that it cannot write to a table whose key has gone, which is the point; what fails
// otherwise is reported by whoever asked for it.
const DEFAULT_LOG: &str = "warn,claviger=info,slatedb=warn,slatedb::dispatcher=off";
/// How long what still runs when all is written may take to end.
const END_WITHIN: Duration = Duration::from_secs(5);
/// The longest configuration file, bytes.
const MAX_FILE: u64 = 1 << 20;

const HELP: &str = "\
Each option has a variable, shown with it, and a key in the file of --config: its
name with '_' for '-'. An option wins over its variable, the variable over the
file, the file over the default. CLAVIGER_LOG filters the log on standard error,
as in CLAVIGER_LOG=info,claviger_kms=debug.

When the server can serve it prints one line: claviger ready http://HOST:PORT.
SIGTERM and Ctrl-C end it cleanly.

Examples:
  claviger serve
  claviger serve --data-dir /srv/claviger --kms-dir /secure/claviger-keys \\
      --root-key-file /run/secrets/root
  claviger serve --listen 127.0.0.1:0 --key-check-interval 1s
  claviger serve --services kms --listen 0.0.0.0:9700 --tls-cert kms.pem --tls-key kms.key \\
      --client-ca ca.pem --data-server principal:data-1.example.com
  claviger serve --kms https://kms.example.com:9700 --kms-ca ca.pem --kms-cert d.pem --kms-key d.key";

/// `claviger serve`.
#[derive(Debug, Default, Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// A TOML file with any of the other options [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    told: Told,
}

/// What can be told to a server, on the command line or in a file; nothing is needed.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    /// Where sealed data goes [default: ./claviger-data]
    #[arg(long, value_name = "DIR", env = "CLAVIGER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where the KMS keeps its keys, sealed; apart from the data [default: DATA_DIR-keys]
    #[arg(long, value_name = "DIR", env = "CLAVIGER_KMS_DIR")]
    kms_dir: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:9700]
    #[arg(long, value_name = "HOST:PORT", env = "CLAVIGER_LISTEN")]
    listen: Option<String>,
    /// A file, in TOML, of who may call: service accounts, identity providers, administrators and roles [default: on
    /// loopback, everybody as the administrator]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_CALLERS")]
    callers: Option<PathBuf>,
    /// The services to run, parted by commas: kms, bigtable, storage, dataflow [default: all]
    #[arg(long, value_name = "LIST", env = "CLAVIGER_SERVICES", value_delimiter = ',')]
    services: Option<Vec<String>>,
    /// A KMS elsewhere: https://HOST:PORT, or http:// on this machine [default: the one in this process]
    #[arg(long, value_name = "URL", env = "CLAVIGER_KMS")]
    kms: Option<String>,
    /// Certificates, in PEM, that the KMS elsewhere is known by [default: those that the machine trusts]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_KMS_CA")]
    kms_ca: Option<PathBuf>,
    /// The certificate that is shown to the KMS elsewhere, in PEM, with those that vouch for it [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_KMS_CERT")]
    kms_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_KMS_KEY")]
    kms_key: Option<PathBuf>,
    /// A file whose first line is the bearer token for the KMS elsewhere, read at each use [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_KMS_TOKEN_FILE")]
    kms_token_file: Option<PathBuf>,
    /// This server's certificate for TLS, in PEM, with those that vouch for it [default: no TLS, loopback only]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// The authorities, in PEM, that vouch for clients' certificates; with them nobody comes in without one [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// Who may use this server's KMS for the data that they keep, as principal:data-1.example.com; parted by commas
    /// [default: nobody]
    #[arg(long, value_name = "PRINCIPAL", env = "CLAVIGER_DATA_SERVER", value_delimiter = ',')]
    data_server: Option<Vec<String>>,
    /// Who is an administrator by their certificate, as user:ada@example.com; parted by commas [default: nobody]
    #[arg(long, value_name = "PRINCIPAL", env = "CLAVIGER_ADMIN", value_delimiter = ',')]
    admin: Option<Vec<String>>,
    /// An object store for the data; not built yet [default: the disk]
    #[arg(long, value_name = "URL", env = "CLAVIGER_STORE")]
    store: Option<String>,
    /// How often each key in use is checked [default: 5m]
    #[arg(long, value_name = "DURATION", env = "CLAVIGER_KEY_CHECK_INTERVAL")]
    key_check_interval: Option<String>,
    /// How long cached keys serve while the KMS is silent [default: 1h]
    #[arg(long, value_name = "DURATION", env = "CLAVIGER_KMS_GRACE")]
    kms_grace: Option<String>,
    /// The time between the lock of one cluster of an instance and the next; not built yet [default: 1m]
    #[arg(long, value_name = "DURATION", env = "CLAVIGER_KEY_CASCADE_INTERVAL")]
    key_cascade_interval: Option<String>,
    /// How long a resource may be inaccessible before it is removed; not built yet [default: 30d]
    #[arg(long, value_name = "DURATION", env = "CLAVIGER_INACCESSIBLE_RETENTION")]
    inaccessible_retention: Option<String>,
    /// The shortest destroy-scheduled-duration that a key may have [default: 1d]
    #[arg(long, value_name = "DURATION", env = "CLAVIGER_KMS_MIN_DESTROY_DURATION")]
    kms_min_destroy_duration: Option<String>,
    /// A file of 32 bytes that opens the KMS [default: one that is made in KMS_DIR]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_ROOT_KEY_FILE")]
    root_key_file: Option<PathBuf>,
    /// A file whose first line opens the KMS, in place of a key file [no default]
    #[arg(
        long,
        value_name = "FILE",
        env = "CLAVIGER_ROOT_PASSPHRASE_FILE",
        conflicts_with = "root_key_file"
    )]
    root_passphrase_file: Option<PathBuf>,
    /// A key of another KMS that opens the KMS: projects/P/locations/L/keyRings/R/cryptoKeys/K [no default]
    #[arg(long, value_name = "NAME", env = "CLAVIGER_ROOT_KMS_KEY")]
    root_kms_key: Option<String>,
    /// Where that KMS is: https://HOST:PORT, or http:// on this machine [default: cloudkms.googleapis.com]
    #[arg(long, value_name = "URL", env = "CLAVIGER_ROOT_KMS_ENDPOINT")]
    root_kms_endpoint: Option<String>,
    /// Certificates, in PEM, that the other KMS is known by [default: those of the machine]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_ROOT_KMS_CA_FILE")]
    root_kms_ca_file: Option<PathBuf>,
    /// A file whose first line is the bearer token for the other KMS, read at each use [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_ROOT_KMS_TOKEN_FILE")]
    root_kms_token_file: Option<PathBuf>,
    /// The PKCS #11 module of a token whose key opens the KMS, as in /usr/lib/softhsm/libsofthsm2.so [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_ROOT_PKCS11_MODULE")]
    root_pkcs11_module: Option<PathBuf>,
    /// The label of the token [default: claviger]
    #[arg(long, value_name = "LABEL", env = "CLAVIGER_ROOT_PKCS11_TOKEN")]
    root_pkcs11_token: Option<String>,
    /// The label of the AES key in the token; it is made there when it is first needed [default: claviger-root]
    #[arg(long, value_name = "LABEL", env = "CLAVIGER_ROOT_PKCS11_KEY")]
    root_pkcs11_key: Option<String>,
    /// A file whose first line is the PIN of the token; a token needs one [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_ROOT_PKCS11_PIN_FILE")]
    root_pkcs11_pin_file: Option<PathBuf>,
    /// The PKCS #11 module of a token for keys with the protection level HSM, as in
    /// /usr/lib/softhsm/libsofthsm2.so [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_HSM_MODULE")]
    hsm_module: Option<PathBuf>,
    /// The label of that token [default: claviger]
    #[arg(long, value_name = "LABEL", env = "CLAVIGER_HSM_TOKEN")]
    hsm_token: Option<String>,
    /// A file whose first line is the PIN of that token; it needs one [no default]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_HSM_PIN_FILE")]
    hsm_pin_file: Option<PathBuf>,
    /// Certificates, in PEM, that external key managers without a pinned one are trusted by [default: the machine's]
    #[arg(long, value_name = "FILE", env = "CLAVIGER_EKM_CA_FILE")]
    ekm_ca_file: Option<PathBuf>,
    /// Let external key managers without a pinned certificate be on this machine or in a private network [default:
    /// false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "CLAVIGER_EKM_PRIVATE_ADDRESSES",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    ekm_private_addresses: Option<bool>,
    /// Memory for decrypted blocks, as in 256MiB [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "CLAVIGER_CACHE_BYTES")]
    cache_bytes: Option<Size>,
    /// Memory that the shuffles of all jobs share, as in 1GiB; the rest goes to the disk, sealed [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "CLAVIGER_SHUFFLE_MEMORY")]
    shuffle_memory: Option<Size>,
    /// Where the Python environments of workers are made, one for each version of Python and Apache Beam; no
    /// user's data are in them [default: DATA_DIR-workers]
    #[arg(long, value_name = "DIR", env = "CLAVIGER_WORKER_DIR")]
    worker_dir: Option<PathBuf>,
    /// Where running workers have their files, staged ones among them, in clear: a directory in memory [default:
    /// one in /dev/shm]
    #[arg(long, value_name = "DIR", env = "CLAVIGER_WORKER_SCRATCH")]
    worker_scratch: Option<PathBuf>,
    /// A Python interpreter with Apache Beam for workers, in place of environments made for them [no default]
    #[arg(long, value_name = "PATH", env = "CLAVIGER_BEAM_PYTHON")]
    beam_python: Option<PathBuf>,
    /// Worker processes started before there is a job for them, 0 or 1; one waits for ten minutes after a job, with
    /// about 200 MB of memory [default: 1]
    #[arg(long, value_name = "NUMBER", env = "CLAVIGER_SPARE_WORKERS")]
    spare_workers: Option<usize>,
    /// The project of jobs that name none [default: claviger]
    #[arg(long, value_name = "PROJECT", env = "CLAVIGER_DEFAULT_PROJECT")]
    default_project: Option<String>,
    /// The region of jobs that name none [default: us-central1]
    #[arg(long, value_name = "REGION", env = "CLAVIGER_DEFAULT_REGION")]
    default_region: Option<String>,
}

/// A size: a number of bytes in TOML, or text such as `256MiB`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "NumberOrText")]
struct Size(u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for Size {
    type Error = String;
    fn try_from(told: NumberOrText) -> Result<Self, String> {
        match told {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        crate::flags::bytes(text).map(Self)
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the configuration is wrong, or the server cannot start.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let config = configuration(options)?;
    start_log()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local(format!("no runtime: {error}")))?;
    let served = runtime.block_on(async {
        let stop = stop_signal()?;
        claviger_server::serve(config, stop).await.map_err(Failure::from)
    });
    // All is written by now; a token that does not answer must not hold up the end.
    runtime.shutdown_timeout(END_WITHIN);
    served
}

/// Begins to log to standard error, as CLAVIGER_LOG says.
///
/// # Errors
/// When the filter cannot be read.
pub(crate) fn start_log() -> Result<(), Failure> {
    let filter = match std::env::var("CLAVIGER_LOG") {
        Ok(told) if !told.is_empty() => EnvFilter::try_new(&told)
            .map_err(|error| Failure::local(format!("CLAVIGER_LOG '{told}' is no filter: {error}")))?,
        _ => EnvFilter::new(DEFAULT_LOG),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say so on standard error, and panic when that fails as well: on a full disk, most often.
        .log_internal_errors(false)
        .try_init()
        .map_err(|error| Failure::local(format!("cannot log: {error}")))
}

/// Ready when the process is told to stop. The handlers stand when this returns, not at the first poll.
///
/// # Errors
/// When the signals cannot be taken.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let handler =
        |kind| signal(kind).map_err(|error| Failure::local(format!("cannot take signals: {error}")));
    let (mut terminate, mut interrupt) =
        (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Options and file and defaults, in that order.
fn configuration(options: &Options) -> Result<ServeConfig, Failure> {
    let file = match &options.config {
        Some(path) => from_file(path)?,
        None => Told::default(),
    };
    merged(&options.told, &file)
}

fn from_file(path: &Path) -> Result<Told, Failure> {
    let text = String::from_utf8(crate::flags::read_file(path, MAX_FILE)?)
        .map_err(|_| Failure::local(format!("{} is not text in UTF-8", path.display())))?;
    toml::from_str(&text).map_err(|error| {
        Failure::local(format!("{}: {}", path.display(), error.to_string().trim_end().replace('\n', "\n  ")))
    })
}

fn merged(first: &Told, second: &Told) -> Result<ServeConfig, Failure> {
    let default = ServeConfig::default();
    macro_rules! told {
        ($field:ident) => {
            first.$field.clone().or_else(|| second.$field.clone())
        };
    }
    macro_rules! time {
        ($field:ident, $flag:literal) => {
            told!($field).map(|text| duration($flag, &text)).transpose()?.unwrap_or(default.$field)
        };
    }
    // A passphrase on the command line replaces a key file in the configuration file, and the other way round.
    let (root_key_file, root_passphrase_file) =
        if first.root_key_file.is_some() || first.root_passphrase_file.is_some() {
            (first.root_key_file.clone(), first.root_passphrase_file.clone())
        } else {
            (second.root_key_file.clone(), second.root_passphrase_file.clone())
        };
    if root_key_file.is_some() && root_passphrase_file.is_some() {
        return Err(Failure::local("root_key_file and root_passphrase_file exclude each other: give one"));
    }
    let root_kms = told!(root_kms_key).map(|key| RootKms {
        key,
        endpoint: told!(root_kms_endpoint).unwrap_or_else(|| RootKms::ENDPOINT.to_owned()),
        ca_file: told!(root_kms_ca_file),
        token_file: told!(root_kms_token_file),
    });
    let root_pkcs11 = told!(root_pkcs11_module).map(|module| RootToken {
        module,
        token: told!(root_pkcs11_token).unwrap_or_else(|| RootToken::TOKEN.to_owned()),
        key: told!(root_pkcs11_key).unwrap_or_else(|| RootToken::KEY.to_owned()),
        pin_file: told!(root_pkcs11_pin_file),
    });
    let hsm = told!(hsm_module).map(|module| HsmTokenConfig {
        module,
        token: told!(hsm_token).unwrap_or_else(|| RootToken::TOKEN.to_owned()),
        pin_file: told!(hsm_pin_file),
    });
    let kms = told!(kms).map(|url| KmsElsewhere {
        url,
        ca_file: told!(kms_ca),
        cert_file: told!(kms_cert),
        key_file: told!(kms_key),
        token_file: told!(kms_token_file),
    });
    let tls = match (told!(tls_cert), told!(tls_key), told!(client_ca)) {
        (Some(cert_file), Some(key_file), client_ca_file) => {
            Some(TlsFiles { cert_file, key_file, client_ca_file })
        }
        (None, None, None) => None,
        (None, None, Some(_)) => {
            return Err(Failure::local("--client-ca needs TLS: give --tls-cert and --tls-key"));
        }
        _ => return Err(Failure::local("--tls-cert and --tls-key belong together: give both")),
    };
    let mut all = default.services;
    // A KMS elsewhere takes the place of the one here.
    all.retain(|name| kms.is_none() || name != "kms");
    let services = told!(services).unwrap_or(all);
    if let Some(wrong) = services.iter().find(|name| !ServeConfig::SERVICES.contains(&name.as_str())) {
        let known = ServeConfig::SERVICES.join(", ");
        return Err(Failure::local(format!("--services: there is no service '{wrong}'; there are {known}")));
    }
    let spare_workers = told!(spare_workers).unwrap_or(default.spare_workers);
    if spare_workers > 1 {
        return Err(Failure::local(format!("--spare-workers {spare_workers}: there is none or one, 0 or 1")));
    }
    Ok(ServeConfig {
        data_dir: told!(data_dir).unwrap_or(default.data_dir),
        kms_dir: told!(kms_dir),
        callers: told!(callers),
        listen: told!(listen).map(|text| address(&text)).transpose()?.unwrap_or(default.listen),
        services,
        kms,
        tls,
        data_servers: told!(data_server).unwrap_or_default(),
        admins: told!(admin).unwrap_or_default(),
        store_url: told!(store),
        key_check_interval: time!(key_check_interval, "--key-check-interval"),
        kms_grace: time!(kms_grace, "--kms-grace"),
        key_cascade_interval: time!(key_cascade_interval, "--key-cascade-interval"),
        inaccessible_retention: time!(inaccessible_retention, "--inaccessible-retention"),
        kms_min_destroy_duration: time!(kms_min_destroy_duration, "--kms-min-destroy-duration"),
        root_key_file,
        root_passphrase_file,
        root_kms,
        root_pkcs11,
        hsm,
        ekm_ca_file: told!(ekm_ca_file),
        ekm_private_addresses: told!(ekm_private_addresses).unwrap_or(default.ekm_private_addresses),
        cache_bytes: told!(cache_bytes).map_or(default.cache_bytes, |size| size.0),
        shuffle_memory: told!(shuffle_memory).map_or(default.shuffle_memory, |size| size.0),
        worker_dir: told!(worker_dir),
        worker_scratch: told!(worker_scratch),
        beam_python: told!(beam_python),
        spare_workers,
        default_project: told!(default_project).unwrap_or(default.default_project),
        default_region: told!(default_region).unwrap_or(default.default_region),
    })
}

fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    claviger_core::duration::parse(text)
        .map_err(|error| Failure::local(format!("{flag}: {}", error.message())))
}

fn address(text: &str) -> Result<SocketAddr, Failure> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = |why: String| Failure::local(format!("--listen '{text}' is not HOST:PORT: {why}"));
    let mut found = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    found.next().ok_or_else(|| wrong("the host has no address".into()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::try_parse_from(line.split_whitespace()).unwrap().options
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("claviger.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        (folder, path)
    }

    #[test]
    fn nothing_told_is_the_documented_default() {
        let config = configuration(&options("serve")).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("./claviger-data"));
        assert_eq!(config.kms_dir(), PathBuf::from("./claviger-data-keys"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:9700");
        assert_eq!(config.key_check_interval, Duration::from_secs(300));
        assert_eq!(config.kms_grace, Duration::from_secs(3600));
        assert_eq!(config.inaccessible_retention, Duration::from_secs(30 * 86_400));
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let (_folder, path) = file(
            "data_dir = '/srv/d'\nlisten = '127.0.0.1:1'\nkms_grace = '2h'\ncache_bytes = '1GiB'\nservices = ['kms']\n",
        );
        let config = configuration(&options(&format!(
            "serve --config {path} --listen localhost:2 --key-check-interval 300ms"
        )))
        .unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.data_dir, PathBuf::from("/srv/d"));
        assert_eq!(config.kms_grace, Duration::from_secs(7200));
        assert_eq!(config.key_check_interval, Duration::from_millis(300));
        assert_eq!(config.cache_bytes, 1 << 30);
        assert_eq!(config.services, ["kms"]);
    }

    #[test]
    fn a_passphrase_on_the_command_line_replaces_the_key_file_of_the_file() {
        let (_folder, path) = file("root_key_file = '/k'\n");
        let config =
            configuration(&options(&format!("serve --config {path} --root-passphrase-file /p"))).unwrap();
        assert_eq!((config.root_key_file, config.root_passphrase_file), (None, Some("/p".into())));
        let (_folder, path) = file("root_key_file = '/k'\nroot_passphrase_file = '/p'\n");
        assert!(configuration(&options(&format!("serve --config {path}"))).is_err());
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (line, part) in [
            ("serve --kms-grace soon", "--kms-grace: 'soon' is not a duration"),
            (
                "serve --services kms,mail",
                "there is no service 'mail'; there are kms, bigtable, storage, dataflow",
            ),
            ("serve --listen nonsense", "--listen 'nonsense' is not HOST:PORT"),
            ("serve --spare-workers 2", "--spare-workers 2: there is none or one, 0 or 1"),
            ("serve --config /no/such/file", "cannot read /no/such/file"),
        ] {
            let text = configuration(&options(line)).unwrap_err().text();
            assert!(text.contains(part), "{line}: {text}");
        }
        let (_folder, path) = file("kms_graze = '1h'\n");
        let text = configuration(&options(&format!("serve --config {path}"))).unwrap_err().text();
        assert!(text.contains("kms_graze") && text.contains("kms_grace"), "{text}");
    }

    #[test]
    fn every_option_has_the_variable_and_the_key_that_its_name_gives() {
        use clap::CommandFactory;
        for argument in Line::command().get_arguments() {
            let Some(flag) = argument.get_long().filter(|flag| *flag != "help") else { continue };
            let key = flag.replace('-', "_");
            let variable = argument.get_env().unwrap_or_else(|| panic!("--{flag} has no variable"));
            assert_eq!(variable.to_str(), Some(format!("CLAVIGER_{}", key.to_uppercase()).as_str()));
            if flag == "config" {
                continue;
            }
            let value = match flag {
                // One is not without the other.
                "tls-cert" => "'1s'\ntls_key = '1s'",
                "tls-key" => "'1s'\ntls_cert = '1s'",
                "client-ca" => "'1s'\ntls_cert = '1s'\ntls_key = '1s'",
                "data-server" | "admin" => "['user:ada@example.com']",
                "services" => "['kms']",
                "cache-bytes" | "shuffle-memory" | "spare-workers" => "1",
                "listen" => "'127.0.0.1:1'",
                "ekm-private-addresses" => "true",
                _ => "'1s'",
            };
            let (_folder, path) = file(&format!("{key} = {value}\n"));
            configuration(&options(&format!("serve --config {path}")))
                .unwrap_or_else(|f| panic!("{key}: {f:?}"));
        }
    }
}
