//! `claviger audit`: the audit log as evidence. Checkpoints to hold, copies to keep, and the checks that nothing was
//! altered, cut or reordered since.
//!
//! Invariant: a check believes the key, the checkpoints and the witnesses that it is given, and nothing that a server
//! or a copy says of itself.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use claviger_audit::tlog::{
    CHECKPOINT_PATH, Evidence, KeyKind, Report, SignedCheckpoint, Source, Task, VerifierKey, prove, verify,
    verify_hashes,
};
use serde_json::json;

use self::folder::Folder;
use self::server::Server;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::progress::Progress;

mod export;
mod folder;
mod server;

/// The file of the server's key.
const KEY: &str = "key";
/// The newest checkpoint that a witness cosigned.
const COSIGNED: &str = "cosigned-checkpoint";

const EXAMPLES: &str = "\
Examples:
  claviger audit key > log.key
  claviger audit checkpoint > held.txt
  claviger audit verify --checkpoint held.txt --key log.key
  claviger audit export copy/
  claviger audit verify --from copy/ --checkpoint held.txt --key log.key
  claviger audit prove 17 --to entry-17.tlog-proof
  claviger audit check entry-17.tlog-proof --key log.key
  claviger audit cosign --checkpoint cosigned.txt --witness witness.key

Keep log.key and held.txt where the server's operator cannot change them: every check stands on them.";

/// `claviger audit ...`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Command {
    /// Print the newest checkpoint of the log, signed, to be held
    #[command(after_help = EXAMPLES)]
    Checkpoint(CheckpointArgs),
    /// Print the verifier key of the log, to be held
    Key,
    /// Copy the log to a folder, or bring a copy up to date, and check it
    Export(ExportArgs),
    /// Check that nothing was altered, cut or reordered since checkpoints that you hold
    Verify(VerifyArgs),
    /// Make a file that proves one entry to anyone, without the log
    Prove(ProveArgs),
    /// Check a file that proves one entry, and print the entry
    Check(CheckArgs),
    /// Hand in a witness's cosignature of a checkpoint
    Cosign(CosignArgs),
}

/// `claviger audit checkpoint`.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// The newest one that a witness has cosigned, with its cosignatures
    #[arg(long)]
    cosigned: bool,
}

/// `claviger audit export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The folder; a copy that is there is brought up to date
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The log's verifier key, or a file that holds it; the server is asked for it when it is left out
    #[arg(long, value_name = "VKEY")]
    key: Option<String>,
}

/// `claviger audit verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Check the copy in this folder; the server's own log is checked when it is left out
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// A checkpoint that you hold; with several, a change of the log is bounded more closely
    #[arg(long, value_name = "FILE", required = true)]
    checkpoint: Vec<PathBuf>,
    /// The log's verifier key, or a file that holds it
    #[arg(long, value_name = "VKEY")]
    key: String,
    /// The verifier key, or a file that holds it, of a witness that must have cosigned your checkpoints
    #[arg(long, value_name = "VKEY")]
    witness: Vec<String>,
    /// A copy of earlier, to name the first changed entry even if the log's hashes were changed with it
    #[arg(long, value_name = "DIR", conflicts_with = "hashes_only")]
    earlier: Option<PathBuf>,
    /// Check the tree's hashes alone: quick, but says nothing of the entries that are shown
    #[arg(long)]
    hashes_only: bool,
}

/// `claviger audit prove`.
#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// The number of the entry, from 1; insertId has it in 'claviger logging read'
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    number: u64,
    /// Take the entry from the copy in this folder, not from the server
    #[arg(long, value_name = "DIR", requires = "key")]
    from: Option<PathBuf>,
    /// The checkpoint to prove it by; the newest when it is left out
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// The log's verifier key, or a file that holds it; the server is asked for it when it is left out
    #[arg(long, value_name = "VKEY")]
    key: Option<String>,
    /// Write the proof to a file
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// `claviger audit check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The log's verifier key, or a file that holds it
    #[arg(long, value_name = "VKEY")]
    key: String,
    /// The verifier key, or a file that holds it, of a witness that must have cosigned the checkpoint
    #[arg(long, value_name = "VKEY")]
    witness: Vec<String>,
}

/// `claviger audit cosign`.
#[derive(Debug, Args)]
pub(crate) struct CosignArgs {
    /// The checkpoint with the witness's cosignature
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// The witness's verifier key, or a file that holds it
    #[arg(long, value_name = "VKEY")]
    witness: String,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses; what a check finds.
pub(crate) async fn run(global: Global, command: Command) -> Result<(), Failure> {
    let out = Output { format: global.format };
    match command {
        Command::Checkpoint(given) => {
            let file = if given.cosigned { COSIGNED } else { CHECKPOINT_PATH };
            output::write_bytes(&Server::new(&global)?.file(file).await?)
        }
        Command::Key => output::write_bytes(&Server::new(&global)?.file(KEY).await?),
        Command::Export(given) => {
            let server = Server::new(&global)?;
            let key = log_key(given.key.as_deref(), &server).await?;
            let _progress = Progress::spinner(global.quiet, "Copying the audit log");
            let report = export::run(&server, &key, &Folder::new(given.folder)).await?;
            conclude(out, &key, &report)
        }
        Command::Verify(given) => check_log(&global, given).await,
        Command::Prove(given) => prove_entry(&global, given).await,
        Command::Check(given) => {
            let evidence = Evidence::parse(&read(&given.file)?)?;
            let signed = evidence.check(&key(&given.key)?)?;
            for witness in keys(&given.witness)? {
                if signed.cosigned(&witness)?.is_none() {
                    return Err(Failure::local(format!(
                        "the checkpoint is not cosigned by {}",
                        witness.name()
                    )));
                }
            }
            output::say(&format!(
                "Entry {} is in the log [{}] of {} entries.",
                evidence.index + 1,
                signed.checkpoint.origin,
                signed.checkpoint.size
            ));
            match serde_json::from_slice(&evidence.entry) {
                Ok(entry) => out.one_value(&entry),
                Err(_) => output::write_bytes(&evidence.entry),
            }
        }
        Command::Cosign(given) => {
            let note = String::from_utf8(read(&given.checkpoint)?)
                .map_err(|_| Failure::local("the checkpoint is not UTF-8"))?;
            let witness = key(&given.witness)?;
            let kept = Server::new(&global)?.cosign(&note, &witness).await?;
            output::say(&format!("Kept the cosignature of [{}].", witness.name()));
            output::write_bytes(&kept)
        }
    }
}

async fn check_log(global: &Global, given: VerifyArgs) -> Result<(), Failure> {
    let log = key(&given.key)?;
    let mut held = Vec::new();
    for file in &given.checkpoint {
        let opened = SignedCheckpoint::open(&read(file)?, &log);
        held.push(opened.map_err(|e| Failure::local(format!("{}: {}", file.display(), e.message())))?);
    }
    let witnesses = keys(&given.witness)?;
    let earlier = given.earlier.map(Folder::new);
    let source: Box<dyn Source> = match given.from {
        Some(folder) => Box::new(Folder::new(folder)),
        None => {
            let server = Server::new(global)?;
            let told = log_key(None, &server).await?;
            if told != log {
                return Err(Failure::local(format!(
                    "the server's log is another: it is signed by {told}, and not by the key that was given"
                )));
            }
            Box::new(server)
        }
    };
    let task = Task {
        log: &log,
        held: &held,
        witnesses: &witnesses,
        earlier: earlier.as_ref().map(|folder| folder as &dyn Source),
    };
    let progress = Progress::spinner(global.quiet, "Checking the audit log");
    let report = if given.hashes_only {
        verify_hashes(source.as_ref(), &task).await?
    } else {
        verify(source.as_ref(), &task).await?
    };
    drop(progress);
    conclude(Output { format: global.format }, &log, &report)
}

/// Writes what a check showed; fails when something is wrong.
fn conclude(out: Output, log: &VerifierKey, report: &Report) -> Result<(), Failure> {
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    let newest = report.newest.as_ref();
    out.one_value(&json!({
        "log": log.name(),
        "entries": newest.map(|newest| newest.size),
        "rootHash": newest.map(|newest| newest.root.to_string()),
        "provenEntries": report.proven,
        "findings": findings,
    }))?;
    if findings.is_empty() {
        output::say(&format!("Entries 1 to {} are what was logged.", report.proven));
        return Ok(());
    }
    Err(Failure::local(format!("the audit log does not hold: {}", findings.join("\n  "))))
}

async fn prove_entry(global: &Global, given: ProveArgs) -> Result<(), Failure> {
    let server = Server::new(global)?;
    let log = log_key(given.key.as_deref(), &server).await?;
    let source: Box<dyn Source> = match given.from {
        Some(folder) => Box::new(Folder::new(folder)),
        None => Box::new(server),
    };
    let note = match &given.checkpoint {
        Some(file) => read(file)?,
        None => source
            .get(CHECKPOINT_PATH)
            .await?
            .ok_or_else(|| Failure::local("there is no checkpoint in this copy"))?
            .to_vec(),
    };
    let signed = SignedCheckpoint::open(&note, &log)?;
    let evidence = prove(source.as_ref(), given.number - 1, &signed).await?;
    evidence.check(&log)?;
    match &given.to {
        Some(file) => write(file, evidence.to_string().as_bytes())?,
        None => output::write_text(&evidence.to_string())?,
    }
    output::say(&format!(
        "Entry {} is in the log [{}] of {} entries.",
        given.number,
        log.name(),
        signed.checkpoint.size
    ));
    Ok(())
}

/// The key that was given, or the one that the server tells.
async fn log_key(given: Option<&str>, server: &Server) -> Result<VerifierKey, Failure> {
    match given {
        Some(given) => key(given),
        None => Ok(VerifierKey::parse(&String::from_utf8_lossy(&server.file(KEY).await?))?),
    }
}

/// A key: as it is, or in a file.
fn key(given: &str) -> Result<VerifierKey, Failure> {
    let parsed = VerifierKey::parse(given);
    match (&parsed, std::fs::read_to_string(given)) {
        (Err(_), Ok(text)) => Ok(VerifierKey::parse(text.trim_end())?),
        _ => Ok(parsed?),
    }
}

/// The keys of witnesses.
fn keys(given: &[String]) -> Result<Vec<VerifierKey>, Failure> {
    let keys = given.iter().map(|given| key(given)).collect::<Result<Vec<_>, _>>()?;
    match keys.iter().find(|key| key.kind() != KeyKind::Witness) {
        Some(wrong) => Err(Failure::usage(format!("--witness: {} is the key of a log", wrong.name()))),
        None => Ok(keys),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::local(format!("cannot read {}: {error}", file.display())))
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(file, bytes)
        .map_err(|error| Failure::local(format!("cannot write {}: {error}", file.display())))
}
