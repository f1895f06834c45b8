//! `claviger ekm`: a small external key manager, and the switches of one that runs.
//!
//! Invariant: keys stay in the manager; only their names and states are shown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use claviger_core::SystemClock;
use claviger_crypto::SecretBytes;
use claviger_ekm::manager::{self, ManagerConfig, Policy, admin};
use claviger_ekm::token::{ISSUER, KeySet};
use claviger_kms::RootSecret;
use http::Method;
use serde_json::{Value, json};

use crate::args::Global;
use crate::failure::Failure;
use crate::flags::read_file;
use crate::output::{Cell, Column, Output};
use crate::serve;

/// The longest file that a manager is given, bytes.
const MAX_FILE: u64 = 1 << 20;

const SERVE_HELP: &str = "\
Keys are at https://HOST:PORT/v0/keys/KEY. A KMS may use them that shows a token signed with one of the keys in
--jwks: for a Claviger server the file that 'curl SERVER/ekm/v1/certs' gives. The policy is TOML: callers, reasons and
cache for all keys, and for each in [keys.KEY].

Examples:
  claviger ekm serve --dir ./ekm-keys --listen 127.0.0.1:9710 --host localhost \\
      --tls-cert ekm.pem --tls-key ekm.key --jwks certs.json
  claviger ekm keys create k1
  claviger ekm keys disable k1
  claviger ekm fault hang";

const KEY_COLUMNS: [Column; 3] = [
    Column::new("KEY", Cell::Path("key")),
    Column::new("STATE", Cell::Path("state")),
    Column::new("PATH", Cell::Path("path")),
];

/// `claviger ekm ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a key manager, in the place of a partner's
    #[command(after_help = SERVE_HELP)]
    Serve(Box<Serve>),
    /// The keys of a running key manager
    #[command(subcommand)]
    Keys(Keys),
    /// Let a running key manager fail, to see what comes of it
    Fault {
        /// What goes wrong
        #[arg(value_enum)]
        kind: FaultKind,
        /// How late answers come, for slow
        #[arg(long, value_name = "N", default_value_t = 1000)]
        millis: u64,
        #[command(flatten)]
        at: At,
    },
}

/// `claviger ekm serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where the keys are kept, sealed
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where KMSs ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9710")]
    listen: SocketAddr,
    /// Where the switches are, on this machine
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
    /// The certificates that are shown, in PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: PathBuf,
    /// Their private key, in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
    /// The hosts that key URIs name, parted by commas: tokens must be for one of them
    #[arg(long = "host", value_name = "HOST", value_delimiter = ',', required = true)]
    hosts: Vec<String>,
    /// The keys of the KMSs that may ask, as a set of JSON Web Keys
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// Who the tokens must say has signed them
    #[arg(long, value_name = "URL", default_value = ISSUER)]
    issuer: String,
    /// Who may use which key for which reason [default: all]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A file of 32 bytes that opens the keys [default: one that is made in DIR]
    #[arg(long, value_name = "FILE")]
    root_key_file: Option<PathBuf>,
    /// A file whose first line opens the keys
    #[arg(long, value_name = "FILE", conflicts_with = "root_key_file")]
    root_passphrase_file: Option<PathBuf>,
}

/// Where the switches are unless a manager was told otherwise.
const DEFAULT_ADMIN: &str = "127.0.0.1:9711";

/// Which manager.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Where the switches of the key manager are
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
}

/// `claviger ekm keys ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Create a key
    Create(One),
    /// List all keys
    List(At),
    /// Let a key be used again
    Enable(One),
    /// Refuse the use of a key until it is enabled
    Disable(One),
    /// Schedule a key for destruction: it is refused at once, and lost for ever when the time is over
    Destroy(One),
}

/// One key of a manager.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The key
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    at: At,
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FaultKind {
    /// Nothing
    None,
    /// Each use is refused
    Refuse,
    /// Each request fails
    Error,
    /// No request is answered
    Hang,
    /// Each answer cannot be read
    Garbage,
    /// Each answer comes late
    Slow,
}

/// Runs a command.
///
/// # Errors
/// What keeps a manager from starting; what a running one refuses.
pub(crate) fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local(format!("no runtime: {error}")))?;
    let out = Output { format: global.format };
    runtime.block_on(Box::pin(async move {
        match command {
            Command::Serve(options) => serve(&options).await,
            Command::Keys(command) => keys(out, command).await,
            Command::Fault { kind, millis, at } => {
                let name = kind.to_possible_value().map(|value| value.get_name().to_owned());
                let body = json!({ "fault": name.unwrap_or_default(), "millis": millis });
                let told = admin::ask(at.admin, Method::PUT, "/fault", &body).await?;
                out.done_value(&told, "The key manager was told.")
            }
        }
    }))
}

async fn keys(out: Output, command: Keys) -> Result<(), Failure> {
    let (one, verb, sentence) = match command {
        Keys::List(at) => {
            let listed = admin::ask(at.admin, Method::GET, "/keys", &Value::Null).await?;
            let listed = listed.as_array().cloned().unwrap_or_default();
            return out.values(listed, &KEY_COLUMNS);
        }
        Keys::Create(one) => {
            let made = admin::ask(one.at.admin, Method::POST, "/keys", &json!({ "key": one.key })).await?;
            return out.done_value(&made, &format!("Created key [{}].", one.key));
        }
        Keys::Enable(one) => (one, "enable", "Enabled"),
        Keys::Disable(one) => (one, "disable", "Disabled"),
        Keys::Destroy(one) => (one, "destroy", "Scheduled for destruction:"),
    };
    let path = format!("/keys/{}:{verb}", one.key);
    let changed = admin::ask(one.at.admin, Method::POST, &path, &Value::Null).await?;
    out.done_value(&changed, &format!("{sentence} key [{}].", one.key))
}

async fn serve(options: &Serve) -> Result<(), Failure> {
    let config = configuration(options)?;
    serve::start_log()?;
    let stop = serve::stop_signal()?;
    let running = manager::start(config, Arc::new(SystemClock::new())).await?;
    let host = options.hosts.first().map_or("localhost", String::as_str);
    let port = running.address.port();
    crate::output::write_text(&format!(
        "claviger ekm ready https://{host}:{port}{} admin {}\n",
        manager::KEY_PATH,
        running.admin
    ))?;
    stop.await;
    Ok(running.stop().await?)
}

fn configuration(options: &Serve) -> Result<ManagerConfig, Failure> {
    let text = |file: &Path| {
        String::from_utf8(read_file(file, MAX_FILE)?)
            .map_err(|_| Failure::local(format!("{} is not text in UTF-8", file.display())))
    };
    let root = match (&options.root_key_file, &options.root_passphrase_file) {
        (Some(file), _) => RootSecret::KeyFile(SecretBytes::new(read_file(file, MAX_FILE)?)),
        (None, Some(file)) => {
            let whole = SecretBytes::new(read_file(file, MAX_FILE)?);
            let line = whole.expose().split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
            RootSecret::Passphrase(SecretBytes::new(line.to_vec()))
        }
        (None, None) => RootSecret::Local,
    };
    Ok(ManagerConfig {
        listen: options.listen,
        admin: options.admin,
        tls_chain_pem: text(&options.tls_cert)?,
        tls_key_pem: SecretBytes::new(read_file(&options.tls_key, MAX_FILE)?),
        dir: options.dir.clone(),
        root,
        signers: KeySet::parse(&read_file(&options.jwks, MAX_FILE)?)?,
        issuer: options.issuer.clone(),
        hosts: options.hosts.clone(),
        policy: match &options.policy {
            Some(file) => Policy::parse(&text(file)?)?,
            None => Policy::default(),
        },
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Cli;

    #[test]
    fn the_lines_of_the_manual_are_understood_and_others_are_not() {
        let parse = |line: &str| Cli::try_parse_from(["claviger"].into_iter().chain(line.split_whitespace()));
        for line in [
            "ekm serve --dir d --host localhost --tls-cert c --tls-key k --jwks j --policy p --admin 127.0.0.1:0",
            "ekm keys create k1",
            "ekm keys list --admin 127.0.0.1:9",
            "ekm keys destroy k1",
            "ekm fault slow --millis 20",
            "ekm fault none",
            "kms ekm-connections create c --location l --hostname h:1 --server-certificates-files a,b",
            "kms ekm-connections list --location l",
            "kms ekm-connections update c --location l --hostname h",
            "kms ekm-connections verify projects/p/locations/l/ekmConnections/c",
            "kms keys create k --keyring r --location l --purpose encryption --protection-level external-vpc \
             --crypto-key-backend c --skip-initial-version-creation",
            "kms keys versions create --key k --keyring r --location l --primary --ekm-connection-key-path v0/keys/k",
            "kms keys versions create --key k --keyring r --location l --external-key-uri https://h/v0/keys/k",
            "kms keys update k --keyring r --location l --allowed-access-reasons customer-initiated-access",
            "kms keys update k --keyring r --location l --remove-key-access-justifications-policy",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "ekm serve --dir d",
            "ekm fault sometimes",
            "ekm keys create",
            "kms ekm-connections update c --location l",
            "kms ekm-connections create c --location l --hostname h",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
