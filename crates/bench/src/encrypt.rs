//! Encrypt of 1 KiB: how many a second a KMS does, how long one takes, and what it costs.
//!
//! Invariant: each answer is checked before it counts. Over gRPC: its key version and that it is no plaintext;
//! the first and the last of each phase are decrypted again. A peer's is checked for its status and a ciphertext.

mod aws;
mod echo;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use claviger_proto::google::cloud::kms::v1::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse,
};
use prost::Message;
use serde::Serialize;

use crate::failure::{Doing, Failure, Result};
use crate::setup::Admin;
use crate::usage::Tree;
use crate::wire::{Connection, RpcPath, frame};

pub(crate) use echo::{Options as EchoOptions, run as echo};

/// The plaintext's size.
const PLAINTEXT_BYTES: usize = 1024;
/// HTTP/2 connections, as many as the load generator for tables has.
const CONNECTIONS: usize = 4;
/// Calls before the figures: the first ones open files and wake threads.
const WARM_UP: Duration = Duration::from_millis(300);

/// What to drive.
#[derive(Args)]
pub(crate) struct Options {
    /// The endpoint, as http://host:port
    #[arg(long)]
    endpoint: String,
    /// What kind of server is there
    #[arg(long, value_enum, default_value_t = Kind::Kms)]
    kind: Kind,
    /// What to call it in the result
    #[arg(long, default_value = "server")]
    name: String,
    /// The server's process, for its CPU and memory
    #[arg(long)]
    pid: Option<u32>,
    /// Tasks that call at once, a phase for each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    tasks: Vec<usize>,
    /// Seconds of each phase
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How a server is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// The Cloud KMS API over gRPC; a key is made
    Kms,
    /// The same, but the server gives back what it gets (`encrypt-echo`)
    Echo,
    /// The API of AWS's KMS over HTTP, which mocks of it speak; a key is made
    Aws,
}

#[derive(Serialize)]
struct Outcome {
    name: String,
    plaintext_bytes: usize,
    phases: Vec<Measured>,
    peak_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Measured {
    tasks: usize,
    calls: u64,
    seconds: f64,
    rate: f64,
    p50_us: u32,
    p99_us: u32,
    cpu_us_per_call: Option<f64>,
}

/// A server under load; each task has one of its own.
enum Target {
    Grpc(Box<Grpc>),
    Aws(aws::Target),
}

struct Grpc {
    connection: Connection,
    encrypt: RpcPath,
    request: Bytes,
    /// The key whose versions must have done it; an echo names none.
    key: Option<String>,
    last: Bytes,
}

impl Target {
    /// One call.
    ///
    /// # Errors
    /// When it failed or its answer is wrong.
    async fn call(&mut self) -> Result<()> {
        match self {
            Self::Grpc(target) => target.call().await,
            Self::Aws(target) => target.encrypt().await,
        }
    }

    /// Decrypts what came last.
    ///
    /// # Errors
    /// When it is not what was encrypted.
    async fn check(&self) -> Result<()> {
        match self {
            Self::Grpc(target) => target.check().await,
            Self::Aws(_) => Ok(()),
        }
    }
}

impl Grpc {
    async fn call(&mut self) -> Result<()> {
        let answer = self.connection.unary(&self.encrypt, self.request.clone()).await?;
        let answer = EncryptResponse::decode(answer).doing("Encrypt's answer")?;
        if let Some(key) = &self.key {
            let of_key = answer.name.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('/'));
            if !of_key || answer.ciphertext.len() <= PLAINTEXT_BYTES {
                return Err(Failure::new("Encrypt's answer is not of the key, or too short"));
            }
        }
        self.last = answer.ciphertext;
        Ok(())
    }

    async fn check(&self) -> Result<()> {
        let Some(key) = &self.key else { return Ok(()) };
        let request =
            DecryptRequest { name: key.clone(), ciphertext: self.last.clone(), ..DecryptRequest::default() };
        let method = RpcPath::new("/google.cloud.kms.v1.KeyManagementService/Decrypt");
        let answer = self.connection.unary(&method, frame(&request)).await?;
        let answer = DecryptResponse::decode(answer).doing("Decrypt's answer")?;
        if answer.plaintext == plaintext() {
            Ok(())
        } else {
            Err(Failure::new("a ciphertext opens to other bytes"))
        }
    }
}

fn plaintext() -> Bytes {
    (0..PLAINTEXT_BYTES).map(|n| (n % 251) as u8).collect()
}

/// Runs the phases.
///
/// # Errors
/// When the endpoint fails or gives a wrong answer.
pub(crate) fn run(options: &Options) -> Result<()> {
    let outcome = crate::runtime(1)?.block_on(drive(options))?;
    crate::write_json(&outcome, options.json.as_deref())
}

async fn drive(options: &Options) -> Result<Outcome> {
    let authority = options.endpoint.trim_start_matches("http://").trim_end_matches('/');
    let key = match options.kind {
        Kind::Kms => {
            let admin = Admin::connect(authority).await?;
            let ring = admin.create_key_ring("bench", "encrypt").await?;
            Some(admin.create_key(&ring, "key").await?)
        }
        Kind::Echo => None,
        Kind::Aws => Some(aws::create_key(authority).await?),
    };
    let mut connections = Vec::new();
    if options.kind != Kind::Aws {
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(authority).await?);
        }
    }
    let make = |number: usize| match (connections.get(number % CONNECTIONS), &key) {
        (Some(connection), _) => Target::Grpc(Box::new(grpc(connection, key.clone()))),
        (None, key) => Target::Aws(aws::Target::new(authority, key.as_deref().unwrap_or_default())),
    };
    let tree = options.pid.map(Tree::of);
    let mut phases = Vec::new();
    phase(&make, 16, WARM_UP).await?;
    for &tasks in &options.tasks {
        let before = tree.map(Tree::cpu);
        let started = Instant::now();
        let mut took = phase(&make, tasks, Duration::from_secs_f64(options.seconds)).await?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu = tree.zip(before).map(|(tree, before)| tree.cpu().saturating_sub(before));
        took.sort_unstable();
        let percentile = |share: f64| crate::percentile(&took, share);
        let calls = took.len() as u64;
        let one = Measured {
            tasks,
            calls,
            seconds,
            rate: calls as f64 / seconds,
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            cpu_us_per_call: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / calls.max(1) as f64),
        };
        println!(
            "encrypt {:>3} tasks {:>9.0} calls/s   p50 {:>6} us   p99 {:>6} us   server {:>6.1} us/call",
            one.tasks,
            one.rate,
            one.p50_us,
            one.p99_us,
            one.cpu_us_per_call.unwrap_or_default()
        );
        phases.push(one);
    }
    Ok(Outcome {
        name: options.name.clone(),
        plaintext_bytes: PLAINTEXT_BYTES,
        phases,
        peak_bytes: tree.map(Tree::peak_bytes),
    })
}

fn grpc(connection: &Connection, key: Option<String>) -> Grpc {
    let request = EncryptRequest {
        name: key.clone().unwrap_or_default(),
        plaintext: plaintext(),
        ..EncryptRequest::default()
    };
    Grpc {
        connection: connection.clone(),
        encrypt: RpcPath::new("/google.cloud.kms.v1.KeyManagementService/Encrypt"),
        request: frame(&request),
        key,
        last: Bytes::new(),
    }
}

/// Has so many tasks call for so long; gives the microseconds of each call.
async fn phase(make: &impl Fn(usize) -> Target, tasks: usize, length: Duration) -> Result<Vec<u32>> {
    let started = Arc::new(Instant::now());
    let mut running = tokio::task::JoinSet::new();
    for number in 0..tasks {
        let (started, mut target) = (started.clone(), make(number));
        running.spawn(async move {
            let mut took = Vec::new();
            while took.is_empty() || started.elapsed() < length {
                let asked = Instant::now();
                target.call().await?;
                took.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
                if took.len() == 1 {
                    target.check().await?;
                }
            }
            target.check().await?;
            Ok::<_, Failure>(took)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = running.join_next().await {
        all.extend(ended.doing("a task ended badly")??);
    }
    Ok(all)
}
