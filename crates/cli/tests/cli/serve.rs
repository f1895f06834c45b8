//! `claviger serve` as a process: how it starts, refuses to start, and stops.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::common::{Server, claviger};
use rustix::process::{Pid, Signal, kill_process};

/// Starts a server that must not start; gives its exit status and what it said.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = claviger()
        .arg("serve")
        .args(arguments)
        .current_dir(folder.path())
        .env("CLAVIGER_LOG", "off")
        .output()
        .unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn it_says_in_one_line_why_it_does_not_start() {
    let running = Server::start();
    let taken = running.endpoint.trim_start_matches("http://");
    let data = running.folder.path().join("data");
    for (arguments, part) in [
        (&["--listen", "0.0.0.0:0"][..], "beyond loopback"),
        (&["--listen", taken], "cannot listen on"),
        (&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()], "in use"),
        (
            &["--listen", "127.0.0.1:0", "--kms", "http://127.0.0.1:1", "--services", "kms"],
            "leave kms out of --services",
        ),
        (&["--listen", "127.0.0.1:0", "--kms", "http://192.0.2.1:1"], "https"),
        (&["--listen", "127.0.0.1:0", "--root-key-file", "/no/such/key"], "/no/such/key"),
    ] {
        let (code, said) = refused(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(part), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    // The one that runs is none the worse.
    running.ok("kms keyrings list --location us-east1");
}

#[test]
fn it_is_configured_by_variables_says_it_is_ready_and_ends_with_0_on_an_interrupt() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = claviger()
        .arg("serve")
        .env("CLAVIGER_LISTEN", "localhost:0")
        .env("CLAVIGER_DATA_DIR", folder.path().join("data"))
        .env("CLAVIGER_KMS_DIR", folder.path().join("keys"))
        .env("CLAVIGER_LOG", "warn")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("claviger ready http://") && !line.contains(":9700"), "{line}");
    assert!(folder.path().join("keys").join("root.json").exists());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "the ready line is all there is on standard output");
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = claviger()
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path().join("data"))
        .env("CLAVIGER_LOG", "debug")
        .stdout(Stdio::piped())
        .stderr(full)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let endpoint = line.trim().strip_prefix("claviger ready ").expect("a server that is ready");
    let asked = claviger()
        .args(["kms", "keyrings", "create", "r", "--location", "us-east1", "--endpoint", endpoint])
        .args(["--project", "p-log"])
        .output()
        .unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
