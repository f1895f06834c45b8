//! Beam's own Python worker against our services, over a socket. These need a Python with Apache Beam, whose
//! path is in `CLAVIGER_BEAM_PYTHON`: `cargo test -p claviger-server fn_api -- --ignored`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use claviger_beam_proto::fn_execution::{ProcessBundleDescriptor, StateRequest, StateResponse};
use claviger_beam_proto::pipeline::{
    ApiServiceDescriptor, ArtifactFilePayload, ArtifactInformation, ArtifactStagingToRolePayload,
    DockerPayload, Environment, ExternalPayload, ProcessPayload,
};
use claviger_core::{Clock, Error, ErrorKind, Result, SystemClock};
use claviger_harness::{
    ArtifactSource, Bundle, BundleSpec, HarnessConfig, Harnesses, Limits, LogEntry, LogSink, ProcessConfig,
    StateHandler, Worker, WorkerSpec,
};
use futures::stream::{self, BoxStream, StreamExt as _};
use prost::Message as _;
use prost_types::Struct;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server as TonicServer;

use super::{FnApi, WorkerPools};

struct Files(Vec<(ArtifactInformation, Bytes)>);

#[async_trait]
impl ArtifactSource for Files {
    async fn list(&self) -> Result<Vec<ArtifactInformation>> {
        Ok(self.0.iter().map(|(information, _)| information.clone()).collect())
    }

    async fn open(&self, artifact: &ArtifactInformation) -> Result<BoxStream<'static, Result<Bytes>>> {
        let found = self.0.iter().find(|(information, _)| information == artifact);
        let bytes = found.map(|(_, bytes)| bytes.clone()).ok_or_else(|| Error::not_found("no such file"))?;
        Ok(stream::iter([Ok(bytes)]).boxed())
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<LogEntry>>);

impl LogSink for Log {
    fn log(&self, entry: LogEntry) {
        self.0.lock().expect("the log").push(entry);
    }
}

struct NoState;

#[async_trait]
impl StateHandler for NoState {
    async fn handle(&self, _: &StateRequest) -> Result<StateResponse> {
        Err(Error::internal("a stage without state asked for some"))
    }
}

struct Server {
    harnesses: Arc<Harnesses>,
    scratch: tempfile::TempDir,
    log: Arc<Log>,
    descriptor: Arc<ProcessBundleDescriptor>,
}

fn python() -> PathBuf {
    std::env::var_os("CLAVIGER_BEAM_PYTHON").expect("CLAVIGER_BEAM_PYTHON names a Python with Beam").into()
}

impl Server {
    async fn start() -> Self {
        Self::start_with(Some(python()), "/no/cache".into()).await
    }

    async fn start_with(beam_python: Option<PathBuf>, python_cache: PathBuf) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let stage = scratch.path().join("stage");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/beam/fn_api/tests/stage.py");
        let made = Command::new(python()).arg(script).arg(&stage).status().expect("a stage");
        assert!(made.success());
        let descriptor = std::fs::read(&stage).expect("a stage");
        let harnesses = Harnesses::new(HarnessConfig {
            endpoint,
            clock,
            pools: Arc::new(WorkerPools),
            processes: ProcessConfig {
                scratch: Some(scratch.path().into()),
                owner: "test".into(),
                python_cache,
                beam_python,
                variables: Default::default(),
                spare_workers: 0,
            },
            limits: Limits::default(),
        });
        let mut routes = Routes::builder();
        FnApi::new(harnesses.clone()).add_to(&mut routes);
        let connections = stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.and_then(|(connection, _)| {
                connection.set_nodelay(true)?;
                Ok(connection)
            });
            Some((accepted, listener))
        });
        let serving = TonicServer::builder().add_routes(routes.routes());
        tokio::spawn(async move { serving.serve_with_incoming(connections).await });
        let descriptor = ProcessBundleDescriptor::decode(descriptor.as_slice()).expect("a stage");
        Self { harnesses, scratch, log: Arc::default(), descriptor: descriptor.into() }
    }

    async fn try_worker(&self, environment: Environment, files: Files) -> Result<Arc<Worker>> {
        let spec = WorkerSpec {
            job_id: "job".into(),
            environment,
            options: Struct::default(),
            artifacts: Arc::new(files),
            logs: self.log.clone(),
            connect_timeout: Duration::from_secs(60),
        };
        self.harnesses.start(spec).await
    }

    async fn run(&self, worker: &Worker, elements: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let descriptor = self.descriptor.clone();
        let spec = BundleSpec { descriptor, state: Arc::new(NoState), cache_tokens: Vec::new() };
        let bundle = worker.process(spec).await?;
        let (sent, taken) = tokio::join!(send(&bundle, elements), take(&bundle));
        // The reason is in the outputs when sending failed because the bundle did.
        let taken = taken?;
        sent?;
        let response = bundle.result().await?;
        assert!(!response.monitoring_infos.is_empty());
        Ok(taken)
    }
}

async fn send(bundle: &Bundle, elements: &[&[u8]]) -> Result<()> {
    for element in elements {
        let mut coded = BytesMut::new();
        // The time 0, one global window, a pane of no interest, a length below 128.
        coded.put_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x0f]);
        coded.put_u8(u8::try_from(element.len()).expect("a short element"));
        coded.put_slice(element);
        bundle.send("source", coded.freeze()).await?;
    }
    bundle.close_inputs().await
}

async fn take(bundle: &Bundle) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while let Some(output) = bundle.next().await? {
        assert_eq!((output.transform_id.as_str(), output.timer_family), ("sink", None));
        let mut data = &output.data[..];
        while let Some((_, rest)) = data.split_at_checked(13) {
            let (length, rest) = varint(rest);
            let (value, rest) = rest.split_at(length);
            all.push(value.to_vec());
            data = rest;
        }
    }
    Ok(all)
}

fn varint(bytes: &[u8]) -> (usize, &[u8]) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).expect("an end") + 1;
    let value = bytes[..end].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    (value, &bytes[end..])
}

fn environment(urn: &str, payload: Vec<u8>) -> Environment {
    Environment { urn: urn.into(), payload: payload.into(), ..Environment::default() }
}

fn docker() -> Environment {
    let container_image = "apache/beam_python3.11_sdk:2.77.0".into();
    environment("beam:env:docker:v1", DockerPayload { container_image }.encode_to_vec())
}

/// The pool that a SDK in LOOPBACK mode runs.
struct Loopback(Child);

impl Loopback {
    fn start() -> (Self, Environment) {
        let program = "from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer as S\n\
                       address, server = S.start()\n\
                       print(address, flush=True)\n\
                       input()";
        let mut child = Command::new(python())
            .args(["-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a pool");
        let mut url = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut url).expect("an address");
        let endpoint = Some(ApiServiceDescriptor { url: url.trim().into(), authentication: None });
        let payload = ExternalPayload { endpoint, params: BTreeMap::new() };
        (Self(child), environment("beam:env:external:v1", payload.encode_to_vec()))
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CLAVIGER_BEAM_PYTHON: `cargo xtask test` sets it"]
async fn a_loopback_worker_runs_bundles_and_tells_of_errors() {
    let server = Server::start().await;
    let (_pool, environment) = Loopback::start();
    let worker = server.try_worker(environment, Files(Vec::new())).await.expect("a worker");
    let out = server.run(&worker, &[b"a", b"b"]).await.expect("a bundle");
    assert_eq!(out, [b"A", b"B"]);
    let error = server.run(&worker, &[b"a", b"raise"]).await.expect_err("raised");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("no such luck"), "{error}");
    let out = server.run(&worker, &[b"big", b"c"]).await.expect("a bundle");
    assert_eq!((out[0].len(), out[1].as_slice()), (100_000_000, &b"C"[..]));
    // Bundles at the same time.
    let many = (0..8).map(|_| server.run(&worker, &[b"x", b"y"]));
    for out in futures::future::join_all(many).await {
        assert_eq!(out.expect("a bundle"), [b"X", b"Y"]);
    }
    worker.stop().await;
    let error = server.run(&worker, &[b"a"]).await.expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CLAVIGER_BEAM_PYTHON: `cargo xtask test` sets it"]
async fn an_official_image_becomes_a_process_that_has_the_staged_files_and_dies_aloud() {
    let server = Server::start().await;
    let files = vec![staged("staged_module.py", b"VALUE = b'from a staged file'")];
    let worker = server.try_worker(docker(), Files(files)).await.expect("a worker");
    let out = server.run(&worker, &[b"staged", b"b"]).await.expect("a bundle");
    assert_eq!(out, [&b"from a staged file"[..], b"B"]);
    let logged = server.log.0.lock().expect("the log").len();
    assert!(logged > 0, "the worker's log came");
    let error = server.run(&worker, &[b"die"]).await.expect_err("died");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains(worker.id()) && error.message().contains("signal: 9"), "{error}");
    worker.stop().await;
    let left = server.scratch.path().read_dir().expect("a directory").flatten().map(|entry| entry.path());
    let left: Vec<_> = left.filter(|path| !path.ends_with("stage")).collect();
    assert!(left.is_empty(), "what is left of the worker: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CLAVIGER_BEAM_PYTHON: `cargo xtask test` sets it"]
async fn a_package_of_the_job_is_installed_for_its_workers_alone() {
    let server = Server::start().await;
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let wheel = wheel(dir.path());
    let name = wheel.file_name().expect("a name").to_string_lossy().into_owned();
    let files = vec![
        staged(&name, &std::fs::read(&wheel).expect("a wheel")),
        staged("extra_packages.txt", name.as_bytes()),
    ];
    let worker = server.try_worker(docker(), Files(files)).await.expect("a worker");
    let out = server.run(&worker, &[b"staged"]).await.expect("a bundle");
    assert_eq!(out, [&b"from a wheel"[..]]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CLAVIGER_BEAM_PYTHON: `cargo xtask test` sets it"]
async fn a_package_that_cannot_be_installed_is_named() {
    let server = Server::start().await;
    let files = vec![
        staged("broken-1.0-py3-none-any.whl", b"no wheel"),
        staged("extra_packages.txt", b"broken-1.0-py3-none-any.whl\n"),
    ];
    let error = server.try_worker(docker(), Files(files)).await.expect_err("refused");
    assert!(error.message().contains("broken-1.0-py3-none-any.whl"), "{error}");
    assert!(error.message().contains("could not be installed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CLAVIGER_BEAM_PYTHON, and installs Apache Beam: `cargo xtask test` does"]
async fn the_python_of_an_image_is_installed_once() {
    let cache = tempfile::tempdir().expect("a directory");
    let server = Server::start_with(None, cache.path().join("cache")).await;
    for _ in 0..2 {
        let worker = server.try_worker(docker(), Files(Vec::new())).await.expect("a worker");
        assert_eq!(server.run(&worker, &[b"a"]).await.expect("a bundle"), [b"A"]);
        worker.stop().await;
    }
    let log = server.log.0.lock().expect("the log");
    assert_eq!(log.iter().filter(|entry| entry.message.contains("being installed")).count(), 1);
}

/// A wheel with the module `staged_module`.
fn wheel(dir: &Path) -> PathBuf {
    let program = "import sys, zipfile\n\
        path = sys.argv[1] + '/staged_module-1.0-py3-none-any.whl'\n\
        info = 'staged_module-1.0.dist-info/'\n\
        with zipfile.ZipFile(path, 'w') as z:\n\
        \x20 z.writestr('staged_module.py', \"VALUE = b'from a wheel'\")\n\
        \x20 z.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: staged-module\\nVersion: 1.0\\n')\n\
        \x20 z.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        \x20 z.writestr(info + 'RECORD', '')\n";
    let made = Command::new(python()).args(["-c", program]).arg(dir).status().expect("a wheel");
    assert!(made.success());
    dir.join("staged_module-1.0-py3-none-any.whl")
}

fn staged(name: &str, bytes: &[u8]) -> (ArtifactInformation, Bytes) {
    let information = ArtifactInformation {
        type_urn: "beam:artifact:type:file:v1".into(),
        type_payload: ArtifactFilePayload { path: name.into(), sha256: String::new() }.encode_to_vec().into(),
        role_urn: "beam:artifact:role:staging_to:v1".into(),
        role_payload: ArtifactStagingToRolePayload { staged_name: name.into() }.encode_to_vec().into(),
    };
    (information, Bytes::copy_from_slice(bytes))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CLAVIGER_BEAM_PYTHON: `cargo xtask test` sets it"]
async fn a_damaged_staged_file_is_named_and_keeps_the_worker_from_starting() {
    let server = Server::start().await;
    let (mut information, bytes) = staged("data.bin", b"damaged");
    let payload = ArtifactFilePayload { path: "data.bin".into(), sha256: "00".repeat(32) };
    information.type_payload = payload.encode_to_vec().into();
    let error = server.try_worker(docker(), Files(vec![(information, bytes)])).await.expect_err("refused");
    assert!(error.message().contains("data.bin") && error.message().contains("SHA-256"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CLAVIGER_BEAM_PYTHON: `cargo xtask test` sets it"]
async fn a_worker_in_user_code_is_stopped_in_time() {
    let server = Server::start().await;
    let worker = server.try_worker(docker(), Files(Vec::new())).await.expect("a worker");
    let running = server.run(&worker, &[b"sleep"]);
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        worker.stop().await;
    };
    let (ran, ()) = tokio::join!(running, stopping);
    assert_eq!(ran.expect_err("stopped").kind(), ErrorKind::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CLAVIGER_BEAM_PYTHON: `cargo xtask test` sets it"]
async fn a_process_environment_gets_the_arguments_of_the_container_contract() {
    let server = Server::start().await;
    let script = server.scratch.path().join("boot.sh");
    let text = "#!/bin/sh\necho \"arguments: $@\" >&2\necho \"colour: $COLOUR, root: $CLAVIGER_BEAM_PYTHON.\" >&2\nexit 7\n";
    std::fs::write(&script, text).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&script, mode).expect("set");
    let payload = ProcessPayload {
        command: script.to_string_lossy().into_owned(),
        env: [("COLOUR".to_owned(), "blue".to_owned())].into(),
        ..ProcessPayload::default()
    };
    let environment = environment("beam:env:process:v1", payload.encode_to_vec());
    let error = server.try_worker(environment, Files(Vec::new())).await.expect_err("it exits");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for part in [
        "exit status: 7",
        "--id=job-",
        "--control_endpoint=127.0.0.1:",
        "--provision_endpoint=127.0.0.1:",
        "colour: blue, root: .",
    ] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
}
