//! `kms`: Encrypt of 1 KiB on ours, on a mock of a KMS in Python, and on a bare tonic server that gives back what
//! it gets.
//!
//! Invariant: all in one run, one after the other; ours has its audit log on, durable before each answer.

use serde_json::{Value, json};

use super::{args, measure, number, phases};
use crate::failure::Result;
use crate::process::Watch;
use crate::python::Python;
use crate::report;
use crate::server::{Folders, Server};
use crate::workspace::{Binaries, Workspace};

/// The mock's rate, so many times, is the least.
const MOCK_GOAL: f64 = 3.0;
/// The least part of the bare server's rate, at [`ECHO_TASKS`] tasks.
const ECHO_GOAL: f64 = 0.5;
const ECHO_TASKS: u64 = 64;

/// Runs it all.
pub(super) fn run(workspace: &Workspace, binaries: &Binaries, quick: bool) -> Result<Value> {
    let watch = Watch::new("a KMS in Python");
    let python = Python::prepare_bench(workspace, &watch)?;
    watch.done();
    let seconds = if quick { "2" } else { "5" };
    let run = |kind: &str, server: &Server| {
        let pid = server.pid().to_string();
        let list = ["encrypt", "--kind", kind, "--name", kind, "--seconds", seconds, "--pid", &pid];
        let mut list = args(&list);
        list.extend(args(&["--endpoint", &server.endpoint]));
        measure(workspace, binaries, &format!("encrypt, {kind}"), &list)
    };

    let mut mock = python.command();
    mock.arg(workspace.root.join("clients/python/bench/aws_mock.py"));
    let mock = Server::spawn(mock, &workspace.log("bench-kms-mock"))?;
    let theirs = run("aws", &mock)?;
    drop(mock);

    let folders = Folders::anew(&workspace.target.join("xtask/bench-server"))?;
    let mut server = Server::start(&binaries.claviger, &folders, &[], &workspace.log("bench-server"))?;
    let ours = run("kms", &server)?;
    server.stop()?;

    let mut echo = std::process::Command::new(&binaries.bench);
    echo.arg("encrypt-echo");
    let echo = Server::spawn(echo, &workspace.log("bench-echo"))?;
    let limit = run("echo", &echo)?;
    drop(echo);

    let result = json!({ "mock": theirs, "claviger": ours, "echo": limit });
    show(&result);
    Ok(result)
}

fn show(result: &Value) {
    let heading = [
        "encrypt 1 KiB, tasks",
        "mock/s",
        "claviger/s",
        "ratio",
        "goal",
        "tonic/s",
        "part",
        "goal",
        "p50 | p99 us",
        "CPU us",
    ];
    let mut rows = vec![args(&heading)];
    let verdict = |held: bool| if held { "ok" } else { "MISSED" };
    for ours in phases(result, "claviger") {
        let tasks = number(&ours, "tasks");
        let same = |peer: &str| {
            let found = phases(result, peer).into_iter().find(|other| number(other, "tasks") == tasks);
            found.map_or(0.0, |other| number(&other, "rate"))
        };
        let (rate, mock, echo) = (number(&ours, "rate"), same("mock"), same("echo"));
        let (ratio, part) = (rate / mock, rate / echo);
        let judged = tasks as u64 == ECHO_TASKS;
        rows.push(vec![
            format!("{tasks:.0}"),
            report::count(mock as u64),
            report::count(rate as u64),
            format!("{ratio:.1}x"),
            format!(">= {MOCK_GOAL}x {}", verdict(ratio >= MOCK_GOAL)),
            report::count(echo as u64),
            format!("{part:.2}"),
            if judged { format!(">= {ECHO_GOAL} {}", verdict(part >= ECHO_GOAL)) } else { String::new() },
            format!("{:.0} | {:.0}", number(&ours, "p50_us"), number(&ours, "p99_us")),
            format!("{:.1}", number(&ours, "cpu_us_per_call")),
        ]);
    }
    print!("{}", report::table(&rows));
    println!(
        "mock: moto, AWS's KMS in Python, over HTTP; tonic: a server that gives back what it gets; ours checks the \
         caller's role and has its audit entry on the disk before it answers"
    );
}
