//! `claviger seal` and `claviger unseal`: what opens the server's keys, and opening them.
//!
//! Invariant: no secret is an argument or a variable: passphrases and shares come from standard input or the terminal,
//! key files are named. Shares go to standard output once and are kept nowhere.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use claviger_crypto::SecretBytes;
use serde_json::{Value, json};

use self::secret::{Input, is_share};
use self::server::Server;
use crate::args::Global;
use crate::failure::Failure;
use crate::flags;
use crate::output::{self, Cell, Column, Format, Output};
use crate::progress::Progress;

mod secret;
mod server;

/// The longest key file, bytes.
const MAX_KEY_FILE: u64 = 4096;

const COLUMNS: [Column; 4] = [
    Column::new("ID", Cell::Path("id")),
    Column::new("KIND", Cell::Path("kind")),
    Column::new("DETAIL", Cell::Path("detail")),
    Column::new("CREATED", Cell::Path("createTime")),
];

const EXAMPLES: &str = "\
Any one seal opens the keys. Add the new one first, then remove the old one, or do
both at once with --replace.

Examples:
  claviger seal status
  claviger seal add passphrase
  claviger seal add passphrase --replace 2
  claviger seal add key-file /media/stick/root.key
  claviger seal add cloud-kms
  claviger seal shares --shares 5 --threshold 3
  claviger seal remove 1";

const UNSEAL_EXAMPLES: &str = "\
The passphrase, or shares line by line, are asked for at a terminal, or read from
standard input. A share begins with clvs1-. Shares may be given at different times
and places: the server keeps them until there are enough.

Examples:
  claviger unseal
  pass show claviger | claviger unseal
  claviger unseal --key-file /media/stick/root.key";

/// `claviger seal ...`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Command {
    /// Show whether the server is sealed, and what opens it
    Status,
    /// List what opens the server's keys
    List,
    /// Add what opens the server's keys, or replace it
    #[command(subcommand, after_help = EXAMPLES)]
    Add(Add),
    /// Remove what opens the server's keys; the last one stays
    #[command(after_help = EXAMPLES)]
    Remove {
        /// The seal's id, as 'claviger seal list' shows it
        #[arg(value_name = "ID")]
        id: u32,
    },
    /// Make shares, of which a few people together open the server's keys, and print them once
    #[command(after_help = EXAMPLES)]
    Shares {
        /// How many shares
        #[arg(long, value_name = "N")]
        shares: u8,
        /// How many of them are needed
        #[arg(long, value_name = "N")]
        threshold: u8,
        #[command(flatten)]
        replace: Replace,
    },
}

/// `claviger seal add ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Add {
    /// A passphrase, which is asked for, or the first line of standard input
    Passphrase(Replace),
    /// A file of 32 bytes: as they are, in hexadecimal or in Base64
    KeyFile {
        /// The file; the server reads one with --root-key-file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        replace: Replace,
    },
    /// A key file in the server's own key directory, so that it starts by itself
    LocalKey(Replace),
    /// The key of another KMS that the server was started with: --root-kms-key
    CloudKms(Replace),
    /// The key in a PKCS #11 token that the server was started with: --root-pkcs11-module
    Pkcs11(Replace),
}

/// What a new seal replaces.
#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// Remove this seal in the same moment
    #[arg(long = "replace", value_name = "ID")]
    id: Option<u32>,
}

/// `claviger unseal`.
#[derive(Debug, Args)]
#[command(after_help = UNSEAL_EXAMPLES)]
pub(crate) struct Unseal {
    /// A file of 32 bytes that opens the server's keys
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Let the server forget the shares that it was given
    #[arg(long, conflicts_with = "key_file")]
    forget_shares: bool,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(global: Global, command: Command) -> Result<(), Failure> {
    let (server, out) = (Server::new(&global)?, Output { format: global.format });
    match command {
        Command::Status => status(&server, out).await,
        Command::List => out.values(seals(&server.status().await?), &COLUMNS),
        Command::Add(add) => {
            let (mut body, replace) = match add {
                Add::Passphrase(replace) => {
                    let text = Input::of(global.quiet).new_passphrase()?;
                    (json!({ "passphrase": utf8(&text)? }), replace)
                }
                Add::KeyFile { file, replace } => (json!({ "keyFile": key_file(&file)? }), replace),
                Add::LocalKey(replace) => (json!({ "localKey": true }), replace),
                Add::CloudKms(replace) => (json!({ "wrappedBy": "cloud-kms" }), replace),
                Add::Pkcs11(replace) => (json!({ "wrappedBy": "pkcs11" }), replace),
            };
            put(&mut body, replace);
            let added = server.post("seals", &body).await?;
            let seal = added.get("seal").cloned().unwrap_or_default();
            out.done_value(&seal, &format!("Added seal [{}].", output::plain(&id(&seal))))?;
            warn_of_local_key(&server).await
        }
        Command::Remove { id } => {
            output::confirm(
                global.quiet,
                &format!("Seal {id} will not open the server's keys any more. Remove it?"),
            )?;
            server.delete(&format!("seals/{id}")).await?;
            output::say(&format!("Removed seal [{id}]."));
            Ok(())
        }
        Command::Shares { shares, threshold, replace } => {
            let mut body = json!({ "shares": { "count": shares, "threshold": threshold } });
            put(&mut body, replace);
            let added = server.post("seals", &body).await?;
            let seal = added.get("seal").cloned().unwrap_or_default();
            output::say(&format!(
                "Added seal [{}]. The shares are shown this once: give each to another person. Any {threshold} of them open the server's keys.",
                output::plain(&id(&seal))
            ));
            match out.format {
                Format::Table => {
                    let lines = added.get("shares").and_then(Value::as_array).into_iter().flatten();
                    let lines: Vec<_> = lines.map(|share| format!("{}\n", output::plain(share))).collect();
                    output::write_text(&lines.concat())?;
                }
                Format::Json | Format::Yaml => out.one_value(&added)?,
            }
            warn_of_local_key(&server).await
        }
    }
}

/// Runs `claviger unseal`.
///
/// # Errors
/// What the server refuses; a server that ends while it starts.
pub(crate) async fn unseal(global: Global, given: Unseal) -> Result<(), Failure> {
    let server = Server::new(&global)?;
    if given.forget_shares {
        server.post("unseal", &json!({ "forgetShares": true })).await?;
        output::say("The server has forgotten the shares.");
        return Ok(());
    }
    if let Some(file) = given.key_file {
        let told = server.post("unseal", &json!({ "keyFile": key_file(&file)? })).await?;
        return opened(&server, &global, &told).await;
    }
    // Before a secret is asked for: whether anyone wants it.
    if server.status().await?.get("state").and_then(Value::as_str) != Some("sealed") {
        return Err(Failure::local("the server is not sealed"));
    }
    let mut input = Input::of(global.quiet);
    let mut prompt = "Passphrase or share: ".to_owned();
    let mut last = None;
    while let Some(text) = input.next(&prompt)? {
        let share = is_share(&text);
        let told = server
            .post(
                "unseal",
                &if share { json!({ "share": utf8(&text)? }) } else { json!({ "passphrase": utf8(&text)? }) },
            )
            .await?;
        if !share || told.get("state").and_then(Value::as_str) != Some("sealed") {
            return opened(&server, &global, &told).await;
        }
        let progress = progress(&told);
        prompt = format!("Share ({progress}): ");
        last = Some(progress);
    }
    match last {
        Some(progress) => {
            output::say(&format!("The server has {progress}. It stays sealed until there are enough."));
            Ok(())
        }
        None => Err(Failure::local("standard input holds neither a passphrase nor a share")),
    }
}

/// Waits until a server that was unsealed is ready.
async fn opened(server: &Server, global: &Global, told: &Value) -> Result<(), Failure> {
    let by = told.get("openedBy").cloned().unwrap_or_default();
    let spinner = Progress::spinner(global.quiet, "Starting");
    server.until_ready().await?;
    spinner.clear();
    let sentence = format!("The server is open: seal [{}] was opened.", output::plain(&id(&by)));
    Output { format: global.format }.done_value(&by, &sentence)
}

async fn status(server: &Server, out: Output) -> Result<(), Failure> {
    let status = server.status().await?;
    if out.format != Format::Table {
        return out.one_value(&status);
    }
    let state = status.get("state").map(output::plain).unwrap_or_default();
    let shares = match status.get("shares") {
        Some(_) => format!(", {}", progress(&status)),
        None => String::new(),
    };
    output::write_text(&format!("The server is {state}{shares}.\n"))?;
    out.values(seals(&status), &COLUMNS)
}

/// As in "2 of 3 shares: 1, 4".
fn progress(told: &Value) -> String {
    let given = told.pointer("/shares/given").and_then(Value::as_array).cloned().unwrap_or_default();
    let needed = told.pointer("/shares/needed").map(output::plain).unwrap_or_default();
    let numbers: Vec<_> = given.iter().map(output::plain).collect();
    format!("{} of {needed} shares: {}", given.len(), numbers.join(", "))
}

/// A new seal is of little use while a key in the clear lies beside the keys.
async fn warn_of_local_key(server: &Server) -> Result<(), Failure> {
    let seals = seals(&server.status().await?);
    let kind = |seal: &Value| seal.get("kind").map(output::plain).unwrap_or_default();
    if seals.iter().any(|seal| kind(seal) != "local-key")
        && let Some(local) = seals.iter().find(|seal| kind(seal) == "local-key")
    {
        output::say(&format!(
            "The file root.key in the key directory still opens it: 'claviger seal remove {}' removes that.",
            output::plain(&id(local))
        ));
    }
    Ok(())
}

fn seals(status: &Value) -> Vec<Value> {
    status.get("seals").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn id(seal: &Value) -> Value {
    seal.get("id").cloned().unwrap_or_default()
}

fn put(body: &mut Value, replace: Replace) {
    if let (Some(id), Some(body)) = (replace.id, body.as_object_mut()) {
        body.insert("replace".to_owned(), id.into());
    }
}

fn key_file(file: &std::path::Path) -> Result<String, Failure> {
    let contents = SecretBytes::new(flags::read_file(file, MAX_KEY_FILE)?);
    Ok(BASE64.encode(contents.expose()))
}

fn utf8(text: &SecretBytes) -> Result<&str, Failure> {
    std::str::from_utf8(text.expose()).map_err(|_| Failure::local("the secret is not text in UTF-8"))
}
