//! Processes that wait to become workers, with a program in place of Python that says what it was started as.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claviger_beam_proto::pipeline::{DockerPayload, Environment, ProcessPayload};
use claviger_core::{Clock, ManualClock, SystemClock, Timestamp};
use claviger_harness::{Limits, Worker};
use prost::Message as _;

use crate::processes::{dirs, eventually, runs, script};
use crate::support::{Sdk, World, settle};

/// A spare that keeps to what was agreed.
const GOOD: &str = r#"echo before; echo before >&2
read -r line || exit 0
mark=$(echo "$line" | sed 's/.*"mark":"\([^"]*\)".*/\1/')
printf '\n%s\n' "$mark"; printf '\n%s\n' "$mark" >&2
echo after"#;

/// Writes a program that is started in place of Python. Each start is a line of the file `started`, and a worker
/// has a file `here` in its directory.
fn python(scratch: &Path, path: &Path, spare: &str, fresh: &str) {
    let log = scratch.join("started").display().to_string();
    let text = format!(
        "if [ \"$2\" = --spare ]; then\necho spare $$ >> {log}\n{spare}\nelse\necho fresh $$ >> {log}\n{fresh}\nfi\n: > here\ncat > /dev/null"
    );
    script(path, &text);
}

fn world_of(spare: &str, clock: Arc<dyn Clock>, spare_workers: usize) -> World {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("python");
    python(scratch.path(), &path, spare, "");
    // Nothing of the program listens: it is made to end at once.
    let limits = Limits { stop_grace: Duration::ZERO, ..Limits::default() };
    World::of_python(limits, clock, scratch, Some(path), spare_workers)
}

fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn image(version: &str) -> Environment {
    let container_image = format!("apache/beam_python3.11_sdk:{version}");
    let payload = DockerPayload { container_image }.encode_to_vec();
    Environment { urn: "beam:env:docker:v1".into(), payload: payload.into(), ..Environment::default() }
}

/// What was started so far: as what, and the process's number.
fn started(world: &World) -> Vec<(String, String)> {
    let text = fs::read_to_string(world.scratch.path().join("started")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(kind, pid)| (kind.to_owned(), pid.to_owned())).collect()
}

fn kinds(world: &World) -> Vec<String> {
    started(world).into_iter().map(|(kind, _)| kind).collect()
}

/// The number of a process, once so many were started.
async fn nth(world: &World, number: usize) -> String {
    eventually(|| started(world).get(number - 1).map(|(_, pid)| pid.clone())).await
}

fn names(world: &World) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    dirs(world).iter().map(name).collect()
}

fn spares(world: &World) -> usize {
    names(world).iter().filter(|name| name.starts_with("spare-")).count()
}

/// The worker that runs and that is none of `known`.
async fn next(world: &World, known: &[String]) -> String {
    let new = |dir: &PathBuf| {
        let name = dir.file_name()?.to_string_lossy().into_owned();
        let new = name.starts_with("job-") && !known.contains(&name) && dir.join("here").exists();
        new.then_some(name)
    };
    eventually(|| dirs(world).iter().find_map(new)).await
}

/// A worker that connects as soon as it runs.
async fn start(world: &World, environment: Environment) -> (Arc<Worker>, Sdk) {
    let known = names(world);
    let connect = async { Sdk::connect(&world.harnesses, &next(world, &known).await) };
    let (worker, sdk) = tokio::join!(world.harnesses.start(world.spec(environment)), connect);
    (worker.expect("a worker"), sdk)
}

/// A worker that did its work, and what follows it.
async fn run(world: &World, environment: Environment) {
    let (worker, _sdk) = start(world, environment).await;
    worker.stop().await;
    settle().await;
}

#[tokio::test]
async fn a_worker_is_the_spare_that_the_one_before_left_and_no_two_are_the_same_process() {
    let world = world_of(GOOD, system(), 1);
    run(&world, image("2.77.0")).await;
    let spare = nth(&world, 2).await;
    assert_eq!(kinds(&world), ["fresh", "spare"]);
    let (worker, _sdk) = start(&world, image("2.77.0")).await;
    assert!(runs(&spare));
    assert_eq!(names(&world), [worker.id()], "its directory is the worker's now");
    let lines = || -> Vec<(String, String)> {
        let log = world.log.0.lock().expect("the log");
        log.iter().map(|entry| (entry.worker_id.clone(), entry.message.clone())).collect()
    };
    eventually(|| (!lines().is_empty()).then_some(())).await;
    assert_eq!(lines(), [(worker.id().to_owned(), "after".to_owned())], "and its output from then on");
    worker.stop().await;
    assert!(!runs(&spare), "it was one worker, once");
    let third = nth(&world, 3).await;
    assert_eq!(kinds(&world), ["fresh", "spare", "spare"]);
    assert_ne!(spare, third);
}

#[tokio::test]
async fn a_spare_that_is_of_no_use_costs_a_worker_nothing() {
    for (what, spare) in [
        ("it died", "exit 3"),
        ("it dies when it is told", "read -r line; exit 3"),
        ("it does not listen", "exec < /dev/null; touch \"$0.deaf\"; sleep 1000"),
        ("it does not answer", "read -r line; sleep 1000"),
    ] {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let world = world_of(spare, clock.clone(), 1);
        run(&world, image("2.77.0")).await;
        let spare = nth(&world, 2).await;
        match what {
            "it died" => eventually(|| (spares(&world) == 0).then_some(())).await,
            "it does not listen" => {
                eventually(|| world.scratch.path().join("python.deaf").exists().then_some(())).await;
            }
            _ => {}
        }
        let connect = async {
            if what == "it does not answer" {
                eventually(|| (spares(&world) == 0).then_some(())).await;
                settle().await;
                clock.advance(Duration::from_secs(10));
            }
            let id = next(&world, &[]).await;
            (Sdk::connect(&world.harnesses, &id), nth(&world, 3).await)
        };
        let (worker, (_sdk, fresh)) =
            tokio::join!(world.harnesses.start(world.spec(image("2.77.0"))), connect);
        worker.unwrap_or_else(|error| panic!("{what}: {error}")).stop().await;
        assert_eq!(kinds(&world).get(..3).expect("three"), ["fresh", "spare", "fresh"], "{what}");
        assert!(!runs(&spare) && !runs(&fresh), "{what}");
    }
}

#[tokio::test]
async fn a_spare_that_nobody_takes_ends_after_ten_minutes() {
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let world = world_of(GOOD, clock.clone(), 1);
    run(&world, image("2.77.0")).await;
    let spare = nth(&world, 2).await;
    clock.advance(Duration::from_secs(599));
    settle().await;
    assert!(runs(&spare) && spares(&world) == 1);
    clock.advance(Duration::from_secs(1));
    eventually(|| (!runs(&spare) && dirs(&world).is_empty()).then_some(())).await;
    run(&world, image("2.77.0")).await;
    nth(&world, 4).await;
    assert_eq!(kinds(&world), ["fresh", "spare", "fresh", "spare"]);
}

#[tokio::test]
async fn a_spare_ends_with_the_server() {
    let world = world_of(GOOD, system(), 1);
    run(&world, image("2.77.0")).await;
    let spare = nth(&world, 2).await;
    let World { harnesses, scratch, .. } = world;
    drop(harnesses);
    let left = || fs::read_dir(scratch.path()).expect("entries").flatten().any(|entry| entry.path().is_dir());
    eventually(|| (!runs(&spare) && !left()).then_some(())).await;
}

#[tokio::test]
async fn there_is_no_spare_where_none_is_wanted_or_none_would_work() {
    let world = world_of(GOOD, system(), 0);
    run(&world, image("2.77.0")).await;
    assert!(dirs(&world).is_empty(), "none is wanted");

    let world = world_of(GOOD, system(), 1);
    python(world.scratch.path(), &world.scratch.path().join("python"), GOOD, "exit 5");
    world.harnesses.start(world.spec(image("2.77.0"))).await.expect_err("it ended");
    eventually(|| dirs(&world).is_empty().then_some(())).await;
    settle().await;
    assert!(dirs(&world).is_empty(), "the worker never connected");

    let world = world_of(GOOD, system(), 1);
    let path = world.scratch.path().join("boot");
    script(&path, ": > here; cat > /dev/null");
    let command = path.to_string_lossy().into_owned();
    let payload = ProcessPayload { command, ..ProcessPayload::default() }.encode_to_vec();
    let urn = "beam:env:process:v1".into();
    run(&world, Environment { urn, payload: payload.into(), ..Environment::default() }).await;
    assert!(dirs(&world).is_empty(), "a command of a user's is not started for nothing");
}

#[tokio::test]
async fn the_spare_of_another_interpreter_is_left_alone_and_then_replaced() {
    let scratch = tempfile::tempdir().expect("a directory");
    for version in ["2.76.0", "2.77.0"] {
        let home = scratch.path().join(format!("cache/python3.11-beam{version}"));
        fs::create_dir_all(home.join("bin")).expect("made");
        fs::write(home.join("claviger-ready"), version).expect("written");
        python(scratch.path(), &home.join("bin/python"), GOOD, "");
    }
    let limits = Limits { stop_grace: Duration::ZERO, ..Limits::default() };
    let world = World::of_python(limits, system(), scratch, None, 1);
    run(&world, image("2.76.0")).await;
    let first = nth(&world, 2).await;
    let (worker, _sdk) = start(&world, image("2.77.0")).await;
    nth(&world, 3).await;
    assert_eq!(kinds(&world), ["fresh", "spare", "fresh"]);
    assert!(runs(&first));
    worker.stop().await;
    let second = nth(&world, 4).await;
    eventually(|| (!runs(&first) && spares(&world) == 1).then_some(())).await;
    run(&world, image("2.77.0")).await;
    nth(&world, 5).await;
    assert_eq!(kinds(&world), ["fresh", "spare", "fresh", "spare", "spare"]);
    assert!(!runs(&second));
}

#[tokio::test]
async fn no_spare_is_started_while_a_worker_is_on_its_way() {
    let world = world_of(GOOD, system(), 1);
    let (first, _sdk) = start(&world, image("2.77.0")).await;
    let known = names(&world);
    let meanwhile = async {
        let id = next(&world, &known).await;
        nth(&world, 2).await;
        first.stop().await;
        settle().await;
        assert_eq!(names(&world), [id.as_str()]);
        Sdk::connect(&world.harnesses, &id)
    };
    let (second, _sdk) = tokio::join!(world.harnesses.start(world.spec(image("2.77.0"))), meanwhile);
    second.expect("a worker").stop().await;
    nth(&world, 3).await;
    assert_eq!(kinds(&world), ["fresh", "fresh", "spare"]);
}
