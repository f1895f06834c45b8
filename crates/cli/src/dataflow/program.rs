//! The user's Python program that makes a pipeline, as a process of ours.
//!
//! Invariant: what it writes comes out as it is, line by line, with no bar in between. It ends with us.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;

use claviger_proto::google::dataflow::v1beta3::Job;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::run::{Request, Runner};
use crate::failure::Failure;
use crate::output::{say_raw, write_bytes};
use crate::progress::Progress;

/// A line that is longer is cut, bytes.
const LINE_BYTES: u64 = 64 << 10;

/// A running program.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended(ExitStatus);

/// The options of Apache Beam that lead to the server.
fn beam_options(request: &Request<'_>) -> Vec<String> {
    let options = request.options;
    let address = request.url.trim_start_matches("http://");
    let mut line = Vec::new();
    let mut add = |name: &str, value: &str| line.push(format!("--{name}={value}"));
    add("job_name", &options.name);
    add("project", request.project);
    match options.runner {
        Runner::Portable => {
            add("runner", "PortableRunner");
            add("job_endpoint", address);
            // The server runs Beam's default image as a process.
            add("environment_type", if request.is_loopback() { "LOOPBACK" } else { "DOCKER" });
            if let Some(region) = &request.region {
                add("region", region);
            }
        }
        Runner::Dataflow => {
            add("runner", "DataflowRunner");
            // Beam speaks HTTP in clear to this name only.
            let port = address.rsplit_once(':').map_or("80", |(_, port)| port);
            add("dataflow_endpoint", &format!("http://localhost:{port}"));
            add("region", request.some_region());
        }
    }
    if let Some(key) = &request.kms_key {
        add("dataflow_kms_key", key);
    }
    for (name, value) in
        [("temp_location", &options.temp_location), ("staging_location", &options.staging_location)]
    {
        if let Some(value) = value {
            add(name, value);
        }
    }
    for (name, value) in &options.option {
        add(name, value);
    }
    if options.runner == Runner::Dataflow {
        line.push("--no_auth".to_owned());
    }
    if request.leaves() {
        line.push("--no_wait_until_finish".to_owned());
    }
    line
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no such file, or the interpreter cannot be run.
    pub(super) fn start(request: &Request<'_>) -> Result<Self, Failure> {
        let options = request.options;
        let file = options.py_file.as_deref().unwrap_or(Path::new(""));
        if !file.is_file() {
            return Err(Failure::local(format!("there is no file {}", file.display())));
        }
        let child = Command::new(&options.python)
            .arg(file)
            .args(beam_options(request))
            // The program's own come last: the last of an option counts.
            .args(&options.arguments)
            .envs(crate::env::for_programs(request.url, request.project))
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let child = child.map_err(|error| {
            Failure::advised(
                format!("cannot run {}: {error}", options.python.display()),
                "name an interpreter that has Apache Beam with --python",
            )
        })?;
        Ok(Self { child })
    }

    /// Passes on what it writes until it ends.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) async fn pump(&mut self, bar: Rc<Progress>, to_stdout: bool) -> Result<Ended, Failure> {
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        let results =
            lines(
                out,
                |line| {
                    if to_stdout { bar.aside(|| write_bytes(line)) } else { bar.aside(|| told(line)) }
                },
            );
        let logs = lines(err, |line| bar.aside(|| told(line)));
        let (results, logs) = tokio::join!(results, logs);
        results.and(logs)?;
        let status = self.child.wait().await;
        status.map(Ended).map_err(|error| Failure::local(format!("the program was lost: {error}")))
    }
}

fn told(line: &[u8]) -> Result<(), Failure> {
    say_raw(&String::from_utf8_lossy(line));
    Ok(())
}

async fn lines(
    source: Option<impl AsyncRead + Unpin>,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(source) = source else { return Ok(()) };
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut source).take(LINE_BYTES).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => write(&line)?,
            Err(error) => {
                return Err(Failure::local(format!("cannot read what the program writes: {error}")));
            }
        }
    }
}

impl Ended {
    /// Fails when the program did.
    ///
    /// # Errors
    /// The program's exit status.
    pub(super) fn well(&self) -> Result<(), Failure> {
        if self.0.success() {
            Ok(())
        } else {
            Err(Failure::local(format!("the program ended with {}", self.0)))
        }
    }

    /// Why there is no job.
    pub(super) fn without_job(&self, name: &str) -> Failure {
        if !self.0.success() {
            return Failure::local(format!("the program ended with {} before it submitted a job", self.0));
        }
        Failure::advised(
            format!("the program ended without submitting a job of the name {name}"),
            "it must make its pipeline with PipelineOptions of its command line, and leave runner and job name to them",
        )
    }

    /// Why a job that runs cannot end well.
    pub(super) fn too_early(&self, job: &Job) -> Failure {
        Failure::local(format!(
            "the program ended with {} while job {} [{}] needed it; the job is cancelled",
            self.0, job.name, job.id
        ))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::run::Options;
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn given(line: &str, region: Option<&str>, key: Option<&str>) -> Vec<String> {
        let line = Line::try_parse_from(line.split_whitespace()).unwrap();
        beam_options(&Request {
            options: &line.options,
            project: "p",
            url: "http://127.0.0.1:9801",
            region: region.map(str::to_owned),
            kms_key: key.map(str::to_owned),
        })
    }

    #[test]
    fn the_portable_runner_is_led_to_the_job_service() {
        let line = given("run wc --py-file wc.py --option save_main_session=x", Some("us-east1"), Some("K"));
        assert_eq!(
            line,
            [
                "--job_name=wc",
                "--project=p",
                "--runner=PortableRunner",
                "--job_endpoint=127.0.0.1:9801",
                "--environment_type=LOOPBACK",
                "--region=us-east1",
                "--dataflow_kms_key=K",
                "--save_main_session=x",
            ]
        );
        let process = given("run wc --py-file wc.py --env process --async", None, None);
        assert!(process.contains(&"--environment_type=DOCKER".to_owned()), "{process:?}");
        assert!(process.contains(&"--no_wait_until_finish".to_owned()), "{process:?}");
        assert!(!process.iter().any(|option| option.starts_with("--region")), "{process:?}");
    }

    #[test]
    fn the_dataflow_runner_is_led_to_rest_on_this_machine() {
        let line = given("run wc --py-file wc.py --runner dataflow --temp-location gs://b/t", None, None);
        for option in [
            "--runner=DataflowRunner",
            "--dataflow_endpoint=http://localhost:9801",
            "--region=us-central1",
            "--temp_location=gs://b/t",
            "--no_auth",
        ] {
            assert!(line.contains(&option.to_owned()), "{option} is not in {line:?}");
        }
    }

    #[tokio::test]
    async fn lines_come_whole_and_the_last_needs_no_end() {
        let mut seen = Vec::new();
        let source = &b"a\nb b\n\nrest"[..];
        lines(Some(source), |line| {
            seen.push(line.to_vec());
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(seen, [&b"a\n"[..], b"b b\n", b"\n", b"rest"]);
    }
}
