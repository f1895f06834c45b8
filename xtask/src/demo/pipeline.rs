//! The flights as a Beam pipeline: from a bucket under the key, by the unmodified DataflowRunner, into a table.
//!
//! Invariant: the job is watched while it runs, so what is shown of the disk then was read before its files went;
//! its results are compared in full with those of a runner that has nothing of ours.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::disk::{self, Snapshot};
use super::program::Program;
use super::{BUCKET, Demo, INSTANCE, LOCATION, PROJECT, short, text, timed};
use crate::failure::{Doing, Failure, Result};
use crate::process::{self, Watch};
use crate::report;

/// Where the job writes, and where Beam's direct runner writes the same.
const DELAYS: &str = "delays";
const DIRECT: &str = "delays-direct";
/// How often it is looked for the first shuffle on the disk, which may be there for a second only.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two scans, which take time from the job.
const SCAN_EVERY: Duration = Duration::from_secs(1);
/// How long the job may take until it is submitted, and until it has ended.
const SUBMITTED_WITHIN: Duration = Duration::from_secs(120);
const DONE_WITHIN: Duration = Duration::from_secs(900);

/// What was seen of the disk while a job ran.
#[derive(Debug, Default)]
struct Looks {
    scans: u64,
    files: u64,
    bytes: u64,
    hits: Vec<String>,
    /// The most bytes of shuffles in one scan.
    shuffled: u64,
}

/// A line that the pipeline prints at its end.
struct End {
    state: String,
    metrics: Value,
    after: Duration,
}

impl Demo {
    /// Runs the pipeline and shows what it did.
    pub(super) fn pipeline(&mut self, key: &str, flights: u64) -> Result<()> {
        for service in ["storage", "dataflow"] {
            self.authorize(key, service)?;
        }
        self.stage(key)?;
        for table in [DELAYS, DIRECT] {
            let command = json!({"do": "create_table", "instance": INSTANCE, "table": table,
                                 "families": ["route", "delay", "fleet"]});
            self.ask("a table for delays", command)?;
        }
        let started = Instant::now();
        let watch = Watch::new("starting the pipeline with the DataflowRunner");
        let mut program = self.submit(key)?;
        let told = program.next(SUBMITTED_WITHIN);
        watch.done();
        let job = match told? {
            Some(line) => text(&line, "job")?,
            None => return Err(program.failed("the pipeline was not submitted in time")),
        };
        self.show("DataflowRunner, unmodified, --dataflow_kms_key: submitted", true, job.clone());
        let title = "the job runs; reading every byte of shuffles and buckets meanwhile";
        let ((end, looks), _) = timed(title, |watch| self.look_while_it_runs(&mut program, started, watch))?;
        // The planted flight is one more.
        let read = end.metrics.get("flights_read").and_then(Value::as_u64).unwrap_or(0);
        let rate = report::count((read as f64 / end.after.as_secs_f64()) as u64);
        let measured = format!("{}, {}, {rate} flights/s", end.state, report::time(end.after));
        self.show("the job joined, grouped and wrote the flights", end.state == "DONE", measured);
        let needles = self.needles.all().len();
        let measured = format!(
            "{} hits in {} scans of {} files, {}, with up to {} of shuffles",
            looks.hits.len(),
            looks.scans,
            report::count(looks.files),
            report::bytes(looks.bytes),
            report::bytes(looks.shuffled)
        );
        let held = looks.hits.is_empty() && looks.scans > 0 && looks.shuffled > 0;
        self.show(&format!("plaintext found while the job ran ({needles} needles)"), held, measured);
        for hit in looks.hits.iter().take(5) {
            println!("      {hit}");
        }
        self.describe(&job, key)?;
        self.compare(&end, flights)?;
        self.audited(&job, key)
    }

    /// The object in the bucket cannot be read without the key.
    pub(super) fn object_refused(&mut self, key: &str) -> Result<()> {
        let seen =
            self.ask("reading", json!({"do": "try_object", "bucket": BUCKET, "name": "planes.csv"}))?;
        let code = seen.get("code").and_then(Value::as_str).unwrap_or("the object came back").to_owned();
        let message = seen.get("message").and_then(Value::as_str).unwrap_or_default();
        let held = code.starts_with("HTTP 4") && message.contains(key);
        self.show("nor does an object of the bucket", held, code);
        Ok(())
    }

    fn stage(&mut self, key: &str) -> Result<()> {
        let command = json!({"do": "stage", "folder": self.input(), "bucket": BUCKET, "key": key,
                             "planted": self.needles.planted()});
        let seen = self.ask("filling a bucket", command)?;
        let number = |field: &str| seen.get(field).and_then(Value::as_u64).unwrap_or(0);
        let versions: Vec<&str> = seen
            .get("versions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let all_under_it =
            matches!(versions.as_slice(), [one] if one.starts_with(&format!("{key}/cryptoKeyVersions/")));
        let held = all_under_it && seen.get("default_key").and_then(Value::as_str) == Some(key);
        let measured =
            format!("gs://{BUCKET}: {} objects, {}", number("objects"), report::bytes(number("bytes")));
        self.show("a bucket with that default key: flights, planes, airports", held, measured);
        let needles = self.needles.all();
        let plain = timed("the plain files", |watch| disk::search(self.input().as_ref(), &needles, watch))?.0;
        let found = |needle: &str| plain.hits.iter().any(|hit| hit.starts_with(&format!("'{needle}'")));
        let held = found(&self.needles.key) && found(&self.needles.value);
        let measured = format!("{} hits in {} files", report::count(plain.hits.len() as u64), plain.files);
        self.show("the search finds what was planted in the plain files", held, measured);
        Ok(())
    }

    /// Where the pipeline's files are for the direct runner.
    fn input(&self) -> String {
        self.log.with_file_name("input").display().to_string()
    }

    /// The pipeline's program, which reads `input` and writes to `table`.
    fn delays(&self, input: &str, table: &str, options: &[String]) -> Result<Command> {
        let mut command = self.beam.command();
        let demo = self.root.join("clients/python/demo");
        command.arg(demo.join("anonymous.py")).arg(demo.join("delays.py"));
        command.args(["--input", input, "--instance", INSTANCE, "--table", table, "--project", PROJECT]);
        command.args(options).envs(self.variables()?);
        Ok(command)
    }

    fn submit(&self, key: &str) -> Result<Program> {
        let port = self.server.address().rsplit(':').next().unwrap_or_default();
        let options = [
            "--runner=DataflowRunner".to_owned(),
            // Beam speaks HTTP in clear to this name only.
            format!("--dataflow_endpoint=http://localhost:{port}"),
            "--no_auth".to_owned(),
            format!("--region={LOCATION}"),
            format!("--temp_location=gs://{BUCKET}/tmp"),
            "--job_name=delays".to_owned(),
            "--sdk_location=container".to_owned(),
            format!("--dataflow_kms_key={key}"),
            format!("--{}={}", self.needles.qualifier, self.needles.value),
        ];
        let command = self.delays(&format!("gs://{BUCKET}"), DELAYS, &options)?;
        Program::start(command, &self.log.with_file_name("pipeline.log"))
    }

    /// What leads Google's and Beam's tools to the server, as `claviger env` says it.
    fn variables(&self) -> Result<Vec<(String, String)>> {
        let told = self.claviger(&["env", "--shell", "json"])?;
        let pairs = told.as_object().into_iter().flatten();
        Ok(pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect())
    }

    /// The job as `gcloud` describes it, or our own command where that is missing.
    fn describe(&mut self, job: &str, key: &str) -> Result<()> {
        let (tool, shown) = match process::which("gcloud") {
            Some(gcloud) => {
                let mut command = Command::new(gcloud);
                command.args(["dataflow", "jobs", "describe", job, "--full", "--format=json"]);
                command.arg(format!("--region={LOCATION}")).envs(self.variables()?);
                // A folder of its own: the user's settings stay as they are, and do not count.
                command.env("CLOUDSDK_CONFIG", self.log.with_file_name("gcloud"));
                let (output, _) =
                    timed("gcloud dataflow jobs describe", |_| command.output().doing("cannot run gcloud"))?;
                if !output.status.success() {
                    let words = String::from_utf8_lossy(&output.stderr).into_owned();
                    return Err(Failure::new(format!("gcloud dataflow jobs describe: {words}")));
                }
                ("gcloud", serde_json::from_slice(&output.stdout).doing("gcloud's answer")?)
            }
            None => {
                let args = ["dataflow", "jobs", "describe", job, "--full", "--format", "json"];
                ("claviger", self.claviger(&args)?)
            }
        };
        let shown_key = shown.pointer("/environment/serviceKmsKeyName").and_then(Value::as_str);
        // What was planted as an option is really there, so that the search has something to find.
        let planted = shown.pointer("/environment/sdkPipelineOptions").unwrap_or(&Value::Null).to_string();
        let held = shown_key == Some(key) && planted.contains(&self.needles.value);
        let title = format!("{tool} dataflow jobs describe shows the key");
        let name = shown_key.and_then(|name| name.rsplit('/').next()).unwrap_or("no key");
        self.show(&title, held, name.to_owned());
        Ok(())
    }

    /// Searches the disk again and again until the program has ended.
    fn look_while_it_runs(
        &self,
        program: &mut Program,
        started: Instant,
        watch: &Watch,
    ) -> Result<(End, Looks)> {
        let needles = self.needles.all();
        let [jobs, buckets] = ["dataflow", "buckets"].map(|name| self.folders.data.join(name));
        let mut looks = Looks::default();
        let line = loop {
            let wait = if looks.scans == 0 { LOOK_EVERY } else { SCAN_EVERY };
            if let Some(line) = program.next(wait)? {
                break line;
            }
            if started.elapsed() > DONE_WITHIN {
                return Err(program.failed("the pipeline did not end in time"));
            }
            let before = Snapshot::take(&jobs)?.of_shuffles();
            if before == 0 {
                continue;
            }
            let found = [disk::search(&jobs, &needles, watch)?, disk::search(&buckets, &needles, watch)?];
            looks.hits.extend(found.iter().flat_map(|found| found.hits.clone()));
            // What is still there was there all the time: a job's files go when it ends.
            let after = Snapshot::take(&jobs)?.of_shuffles();
            if after > 0 {
                looks.scans += 1;
                looks.shuffled = looks.shuffled.max(before.min(after));
                looks.files += found.iter().map(|found| found.files).sum::<u64>();
                looks.bytes += found.iter().map(|found| found.bytes).sum::<u64>();
                watch.say(&format!("{} scans, {} of shuffles", looks.scans, report::bytes(looks.shuffled)));
            }
        };
        let end = End {
            state: text(&line, "state")?,
            metrics: line.get("metrics").cloned().unwrap_or_default(),
            after: started.elapsed(),
        };
        Ok((end, looks))
    }

    /// Runs the same program by Beam's own runner on files outside the server, and compares.
    fn compare(&mut self, end: &End, flights: u64) -> Result<()> {
        let options = ["--runner=FnApiRunner".to_owned()];
        let command = self.delays(&self.input(), DIRECT, &options)?;
        let log = self.log.with_file_name("direct.log");
        let (direct, took) = timed("the same pipeline by Beam's direct runner", |_| {
            let mut program = Program::start(command, &log)?;
            loop {
                match program.next(DONE_WITHIN)? {
                    Some(line) if line.get("state").is_some() => return Ok(line),
                    Some(_) => {}
                    None => return Err(program.failed("the direct runner did not end in time")),
                }
            }
        })?;
        let command = json!({"do": "compare", "instance": INSTANCE, "table": DELAYS, "other": DIRECT,
                             "planted": self.needles.planted()});
        let seen = self.ask("comparing with Beam's direct runner", command)?;
        let number = |field: &str| seen.get(field).and_then(Value::as_u64).unwrap_or(0);
        let held = number("flights") == flights + 1 && number("planted") == 1;
        let measured = format!(
            "{} rows of {} flights; it took {}",
            report::count(number("rows")),
            report::count(number("flights")),
            report::time(took)
        );
        self.show("all cells as by Beam's direct runner and a plain loop", held, measured);
        let expected = direct.get("metrics").cloned().unwrap_or_default();
        let read = end.metrics.get("flights_read").and_then(Value::as_u64);
        let held = end.metrics == expected && read == Some(flights + 1);
        let known = |field: &str| end.metrics.get(field).map(Value::to_string).unwrap_or_default();
        let measured = format!(
            "flights_read {}, minutes_late [count, sum, min, max] {}",
            known("flights_read"),
            known("minutes_late")
        );
        self.show("the job's metrics are those of the direct runner", held, measured);
        let latest = |field: &str| {
            seen.pointer(&format!("/latest/{field}")).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        println!(
            "      the latest: {} to {}, {}: {} minutes in the mean of {} flights, {} seats, mostly {}",
            latest("from"),
            latest("to"),
            latest("key").rsplit('#').next().unwrap_or_default(),
            latest("mean"),
            latest("flights"),
            latest("seats"),
            latest("maker")
        );
        Ok(())
    }

    /// The audit log, filtered by the job: who used which key, for what.
    fn audited(&mut self, job: &str, key: &str) -> Result<()> {
        let filter = format!("labels.job_id=\"{job}\"");
        const WHAT: &str = "the audit log of that job: its uses of the key";
        let entries = match self.claviger(&["logging", "read", &filter, "--format", "json"]) {
            Ok(entries) => entries.as_array().cloned().unwrap_or_default(),
            Err(failure) => {
                self.show(WHAT, false, short(&failure.to_string()));
                return Ok(());
            }
        };
        let of = |entry: &Value, path: &str| {
            entry.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let all_of_it = entries.iter().all(|entry| {
            of(entry, "/labels/job_id") == job
                && of(entry, "/protoPayload/resourceName") == key
                && of(entry, "/protoPayload/authenticationInfo/principalEmail")
                    .contains("@dataflow-service-producer-prod.")
                && entry.pointer("/protoPayload/status/code").and_then(Value::as_u64).unwrap_or(0) == 0
        });
        let methods: BTreeSet<String> =
            entries.iter().map(|entry| of(entry, "/protoPayload/methodName")).collect();
        // Its own key was wrapped, and unwrapped to see that it can be.
        let held = all_of_it && ["Encrypt", "Decrypt"].iter().all(|method| methods.contains(*method));
        let names = methods.into_iter().collect::<Vec<_>>().join(", ");
        let who = entries
            .first()
            .map(|entry| of(entry, "/protoPayload/authenticationInfo/principalEmail"))
            .unwrap_or_default();
        let measured = short(&format!("{} uses ({names}) by {who}", entries.len()));
        self.show(WHAT, held, measured);
        Ok(())
    }
}
