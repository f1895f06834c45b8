//! `cargo xtask bench`: the benchmarks, each with its peer and the ratio in the same run.
//!
//! Invariant: a figure is only compared with one of the same run on the same machine; a peer that is not
//! installed is named as missing, and its ratios are left out rather than guessed.

mod dataflow;
mod kms;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::{Doing, Failure, Result};
use crate::process::{self, Watch};
use crate::report;
use crate::server::{Folders, Server};
use crate::workspace::{Binaries, Workspace};

/// All benchmarks, in the order in which they run.
const NAMES: [&str; 5] = ["ready", "load", "engine", "kms", "dataflow"];

/// The emulator's place inside the Google Cloud CLI.
const EMULATOR: &str = "platform/bigtable-emulator/cbtemulator";

/// What issue 2 asks for: phase, tasks, least ratio to the emulator's rate.
const GOALS: [(&str, u64, f64); 4] =
    [("read", 16, 1.5), ("scan", 1, 2.0), ("mutate-rows", 16, 0.7), ("mutate-row", 64, 0.8)];
/// The most of the emulator's peak memory that ours may take.
const MEMORY_GOAL: f64 = 0.6;

/// What the command line asked for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    names: Vec<String>,
    json: Option<PathBuf>,
    quick: bool,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// When one is not known.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--json" => match args.next() {
                    Some(file) => options.json = Some(file.into()),
                    None => return Err(Failure::new("--json needs a file")),
                },
                name if NAMES.contains(&name) => options.names.push(name.to_owned()),
                other => {
                    return Err(Failure::new(format!(
                        "there is no benchmark '{other}'; there are: {}",
                        NAMES.join(" ")
                    )));
                }
            }
        }
        Ok(options)
    }
}

/// Runs the named benchmarks, or all; `true` when all ran without a wrong answer.
///
/// # Errors
/// When a benchmark failed; a missed goal is no failure, it is shown.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let workspace = Workspace::find()?;
    let watch = Watch::new("building the release");
    let binaries = workspace.build_release(&watch)?;
    watch.done();
    let mut results = serde_json::Map::new();
    for name in NAMES {
        if !options.names.is_empty() && options.names.iter().all(|wanted| wanted != name) {
            continue;
        }
        println!("== {name}");
        let result = match name {
            "ready" => ready(&workspace, &binaries, options)?,
            "load" => load(&workspace, &binaries, options)?,
            "kms" => kms::run(&workspace, &binaries, options.quick)?,
            "dataflow" => dataflow::run(&workspace, &binaries, options.quick)?,
            _ => engine(&workspace, &binaries, options)?,
        };
        results.insert(name.to_owned(), result);
        println!();
    }
    if let Some(file) = &options.json {
        std::fs::write(file, format!("{:#}\n", Value::Object(results)))
            .doing(format!("cannot write {}", file.display()))?;
        println!("written: {}", file.display());
    }
    Ok(true)
}

/// Runs a subcommand of the bench binary and reads the JSON that it writes.
fn measure(workspace: &Workspace, binaries: &Binaries, title: &str, args: &[String]) -> Result<Value> {
    let out = workspace.target.join("xtask/bench.json");
    let _ = std::fs::remove_file(&out);
    let mut command = Command::new(&binaries.bench);
    command.args(args).arg("--json").arg(&out);
    let watch = Watch::new(title);
    let done = process::run(command, &workspace.log("bench"), &watch)?;
    watch.done();
    if !done.success {
        return Err(Failure::new(format!("{title} failed:\n{}", done.tail(20))));
    }
    Ok(serde_json::from_str(&std::fs::read_to_string(&out)?)?)
}

fn args(list: &[&str]) -> Vec<String> {
    list.iter().map(|&arg| arg.to_owned()).collect()
}

fn ready(workspace: &Workspace, binaries: &Binaries, options: &Options) -> Result<Value> {
    let starts = if options.quick { "5" } else { "20" };
    let claviger = binaries.claviger.display().to_string();
    let result = measure(
        workspace,
        binaries,
        "ready",
        &args(&["ready", "--starts", starts, "--claviger", &claviger]),
    )?;
    println!(
        "from the start of the process to the ready line, {starts} empty directories: median {:.0} ms, worst {:.0} ms (goal: at most 300 ms)",
        number(&result, "median_ms"),
        number(&result, "worst_ms")
    );
    Ok(result)
}

fn engine(workspace: &Workspace, binaries: &Binaries, options: &Options) -> Result<Value> {
    let mut list = args(&["engine"]);
    if options.quick {
        list.push("--quick".to_owned());
    }
    let result = measure(workspace, binaries, "engine, with and without sealing", &list)?;
    let mut rows =
        vec![args(&["phase", "plain /s", "sealed /s", "plain CPU us", "sealed CPU us", "CPU more", "goal"])];
    for phase in result.get("phases").and_then(Value::as_array).into_iter().flatten() {
        rows.push(vec![
            phase.get("phase").and_then(Value::as_str).unwrap_or_default().to_owned(),
            report::count(number(phase, "plain_rate") as u64),
            report::count(number(phase, "sealed_rate") as u64),
            format!("{:.2}", number(phase, "plain_cpu_us")),
            format!("{:.2}", number(phase, "sealed_cpu_us")),
            format!("{:+.1}%", number(phase, "cpu_more_percent")),
            format!("<= {:.0}%", number(phase, "goal_percent")),
        ]);
    }
    print!("{}", report::table(&rows));
    Ok(result)
}

/// A process of a peer, ended with the value.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn load(workspace: &Workspace, binaries: &Binaries, options: &Options) -> Result<Value> {
    let run = |name: &str, endpoint: &str, pid: u32, more: &[&str]| {
        let pid = pid.to_string();
        let mut list = args(&["load", "--name", name, "--endpoint", endpoint, "--pid", &pid]);
        list.extend(args(more));
        if options.quick {
            list.push("--quick".to_owned());
        }
        measure(workspace, binaries, &format!("load on {name}"), &list)
    };
    let mut peers = serde_json::Map::new();
    match emulator() {
        Some(program) => {
            let (peer, endpoint) = start_emulator(&program)?;
            peers.insert("emulator".to_owned(), run("emulator", &endpoint, peer.0.id(), &[])?);
        }
        None => println!(
            "Google's emulator is not installed (gcloud components install bigtable): no ratios in this run"
        ),
    }
    let folders = Folders::anew(&workspace.target.join("xtask/bench-server"))?;
    let claviger = binaries.claviger.display().to_string();
    let mut server = Server::start(&binaries.claviger, &folders, &[], &workspace.log("bench-server"))?;
    let ours =
        run("claviger", &server.endpoint, server.pid(), &["--protect", "cmek", "--claviger", &claviger])?;
    peers.insert("claviger".to_owned(), ours);
    server.stop()?;
    let mut limit = Command::new(&binaries.bench);
    // As many rows as the load generator expects, which takes a quarter when it must be quick.
    let rows = if options.quick { "50000" } else { "200000" };
    limit.args(["constant", "--listen", "127.0.0.1:0", "--rows", rows]);
    let limit = Server::spawn(limit, &workspace.log("bench-constant"))?;
    peers.insert("constant".to_owned(), run("constant", &limit.endpoint, limit.pid(), &["--shape-only"])?);
    let peers = Value::Object(peers);
    show_load(&peers);
    Ok(peers)
}

/// Finds Google's emulator through the Google Cloud CLI or in its usual places.
fn emulator() -> Option<PathBuf> {
    let told = process::which("gcloud").and_then(|gcloud| {
        let output =
            Command::new(gcloud).args(["info", "--format=value(installation.sdk_root)"]).output().ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    });
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join("google-cloud-sdk"));
    let usual = ["/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk", "/usr/share/google-cloud-sdk"];
    told.into_iter()
        .chain(home)
        .chain(usual.map(PathBuf::from))
        .map(|root| root.join(EMULATOR))
        .find(|program| program.is_file())
        .or_else(|| process::which("cbtemulator"))
}

fn start_emulator(program: &Path) -> Result<(Peer, String)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new(program)
        .args(["-host", "127.0.0.1", "-port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing("cannot start Google's emulator")?;
    let peer = Peer(child);
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if started.elapsed() > Duration::from_secs(10) {
            return Err(Failure::new("Google's emulator does not answer"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((peer, format!("http://127.0.0.1:{port}")))
}

fn number(value: &Value, field: &str) -> f64 {
    value.get(field).and_then(Value::as_f64).unwrap_or_default()
}

fn phases(peers: &Value, peer: &str) -> Vec<Value> {
    peers.pointer(&format!("/{peer}/phases")).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Prints each phase of ours beside the same one of the peers.
fn show_load(peers: &Value) {
    let heading = [
        "phase",
        "tasks",
        "unit",
        "emulator/s",
        "claviger/s",
        "ratio",
        "goal",
        "limit/s",
        "p50 e|c us",
        "p99 e|c us",
        "CPU us e|c",
    ];
    let mut rows = vec![args(&heading)];
    for ours in phases(peers, "claviger") {
        let name = ours.get("phase").and_then(Value::as_str).unwrap_or_default();
        let tasks = number(&ours, "tasks") as u64;
        let same = |peer: &str| {
            phases(peers, peer).into_iter().find(|other| {
                other.get("phase") == ours.get("phase") && other.get("tasks") == ours.get("tasks")
            })
        };
        let theirs = same("emulator");
        let rate = number(&ours, "rate");
        let ratio = theirs.as_ref().map(|theirs| rate / number(theirs, "rate"));
        let goal =
            GOALS.iter().find(|(phase, at, _)| *phase == name && *at == tasks).map(|(_, _, goal)| *goal);
        let pair = |field: &str| {
            let left =
                theirs.as_ref().map_or("-".to_owned(), |theirs| format!("{:.0}", number(theirs, field)));
            format!("{left} | {:.0}", number(&ours, field))
        };
        let verdict = match (goal, ratio) {
            (Some(goal), Some(ratio)) if ratio >= goal => format!(">= {goal} ok"),
            (Some(goal), Some(_)) => format!(">= {goal} MISSED"),
            (Some(goal), None) => format!(">= {goal}"),
            (None, _) => String::new(),
        };
        let shown = |peer: Option<Value>| {
            peer.map_or("-".to_owned(), |peer| report::count(number(&peer, "rate") as u64))
        };
        rows.push(vec![
            name.to_owned(),
            tasks.to_string(),
            ours.get("unit").and_then(Value::as_str).unwrap_or_default().to_owned(),
            shown(theirs.clone()),
            report::count(rate as u64),
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x")),
            verdict,
            shown(same("constant")),
            pair("p50_us"),
            pair("p99_us"),
            pair("cpu_us_per_unit"),
        ]);
    }
    print!("{}", report::table(&rows));
    let peak =
        |peer: &str| peers.pointer(&format!("/{peer}/peak_bytes")).and_then(Value::as_u64).unwrap_or(0);
    let (theirs, ours) = (peak("emulator"), peak("claviger"));
    if theirs > 0 {
        let ratio = ours as f64 / theirs as f64;
        let verdict = if ratio <= MEMORY_GOAL { "ok" } else { "MISSED" };
        println!(
            "peak memory: emulator {}, claviger {}: {ratio:.2}x (goal: <= {MEMORY_GOAL}x, {verdict})",
            report::bytes(theirs),
            report::bytes(ours)
        );
    } else {
        println!("peak memory: claviger {}", report::bytes(ours));
    }
    println!("ours is durable and sealed under a customer's key; the emulator keeps all in memory, in clear");
}
