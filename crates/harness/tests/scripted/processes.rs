//! Workers that are processes of this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claviger_beam_proto::pipeline::{DockerPayload, Environment, ProcessPayload};
use claviger_core::{ErrorKind, SystemClock};
use claviger_harness::Limits;
use prost::Message as _;
use std::sync::Arc;

use crate::support::{Sdk, World};

/// Writes a program of the shell.
pub(crate) fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("set");
}

fn command(world: &World, text: &str) -> Environment {
    let path = world.scratch.path().join("boot.sh");
    script(&path, text);
    let command = path.to_string_lossy().into_owned();
    let payload = ProcessPayload { command, ..ProcessPayload::default() }.encode_to_vec();
    Environment { urn: "beam:env:process:v1".into(), payload: payload.into(), ..Environment::default() }
}

/// The directories of the workers that there are.
pub(crate) fn dirs(world: &World) -> Vec<PathBuf> {
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    let roots = entries(world.scratch.path().into()).filter(|path| path.is_dir());
    roots.flat_map(entries).collect()
}

/// Waits for what another process does.
pub(crate) async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(found) = look() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen");
}

/// Whether a process runs; one that ended and that nobody asked after does not.
pub(crate) fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_process_that_ends_before_it_connects_shows_its_last_words() {
    let world = World::new();
    let environment = command(&world, "echo some words; echo last words >&2; exit 5");
    let error = world.harnesses.start(world.spec(environment)).await.expect_err("it ended");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for part in ["boot.sh", "exit status: 5", "last words", "some words"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    let logged = world.log.0.lock().expect("the log").iter().any(|entry| entry.message == "last words");
    assert!(logged);
    eventually(|| dirs(&world).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_process_that_hangs_is_given_up_and_its_whole_group_is_gone() {
    let limits = Limits { stop_grace: Duration::from_millis(50), ..Limits::default() };
    let world = World::with(limits, Arc::new(SystemClock::new()));
    let script = "trap '' TERM; sleep 1000 & echo $! > pids; echo $$ >> pids; echo ready; wait; sleep 1000";
    let mut spec = world.spec(command(&world, script));
    spec.connect_timeout = Duration::from_millis(500);
    let read = async {
        eventually(|| {
            let text = fs::read_to_string(dirs(&world).first()?.join("pids")).ok()?;
            let pids: Vec<String> = text.lines().map(str::to_owned).collect();
            (pids.len() == 2).then_some(pids)
        })
        .await
    };
    let (started, pids) = tokio::join!(world.harnesses.start(spec), read);
    let error = started.expect_err("it hangs");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.message().contains("its last output:\nready"), "{error}");
    eventually(|| pids.iter().all(|pid| !runs(pid)).then_some(())).await;
    eventually(|| dirs(&world).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_process_that_is_killed_tells_its_bundles_how() {
    let world = World::new();
    // It waits for the end of its input, which stays open while the worker is wanted.
    let environment = command(&world, "cat; exit 9");
    let connect = async {
        let dir = eventually(|| dirs(&world).pop()).await;
        let id = dir.file_name().expect("a name").to_string_lossy().into_owned();
        Sdk::connect(&world.harnesses, &id)
    };
    let (worker, mut sdk) = tokio::join!(world.harnesses.start(world.spec(environment)), connect);
    let worker = worker.expect("a worker");
    let bundle = crate::support::process(&worker, crate::support::stateless()).await.expect("a bundle");
    sdk.bundle().await;
    let parent = std::process::id();
    let of_worker = |pid: &String| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(worker.id()) && stat.contains(&format!(" {parent} "))
    };
    let pids = fs::read_dir("/proc").expect("processes").flatten();
    let pid = pids.map(|e| e.file_name().to_string_lossy().into_owned()).find(of_worker).expect("a process");
    std::process::Command::new("kill").args(["-9", &pid]).status().expect("killed");
    let error = bundle.result().await.expect_err("killed");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("signal: 9") && error.message().contains(worker.id()), "{error}");
}

#[tokio::test]
async fn a_command_that_is_not_there_and_an_image_without_its_python_say_so() {
    let world = World::new();
    let payload = ProcessPayload { command: "/no/such/command".into(), ..ProcessPayload::default() };
    let environment = Environment {
        urn: "beam:env:process:v1".into(),
        payload: payload.encode_to_vec().into(),
        ..Environment::default()
    };
    let error = world.harnesses.start(world.spec(environment)).await.expect_err("refused");
    assert!(error.message().contains("/no/such/command"), "{error}");
    let image = "apache/beam_python3.11_sdk:2.77.0";
    let payload = DockerPayload { container_image: image.into() }.encode_to_vec();
    let environment =
        Environment { urn: "beam:env:docker:v1".into(), payload: payload.into(), ..Environment::default() };
    let error = world.harnesses.start(world.spec(environment)).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(dirs(&world).is_empty());
}
