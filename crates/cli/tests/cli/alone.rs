//! The binary without a server: exit codes, errors, the environment, completions.
//!
//! Invariant: nothing here needs a port; the endpoint that is named has nobody behind it.

use std::process::{Command, Output, Stdio};

use crate::common;

/// A port that nothing listens on: 1 is reserved.
const NOBODY: &str = "http://127.0.0.1:1";

fn claviger(arguments: &[&str]) -> Command {
    let mut command = common::claviger();
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    claviger(arguments).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn wrong_usage_ends_with_2_and_says_how_it_would_be_right() {
    for (arguments, part) in [
        (&["kms", "keyrings", "frobnicate"][..], "unrecognized subcommand"),
        (&["kms", "keys", "create", "k"], "--purpose"),
        (&["serve", "--listne", "x"], "--listen"),
        (&[], "Usage"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(part), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_server_that_is_not_there_ends_with_1_and_says_how_to_start_one() {
    let output = run(&["kms", "keyrings", "list", "--location", "us-east1", "--endpoint", NOBODY]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.starts_with("error: no server answers at http://127.0.0.1:1"), "{said}");
    assert!(said.contains("hint: start one with 'claviger serve'"), "{said}");
}

#[test]
fn the_endpoint_and_the_project_come_from_flag_or_variable_and_the_flag_wins() {
    let output = claviger(&["env", "--project", "flagged"])
        .env("CLAVIGER_PROJECT", "told")
        .env("CLAVIGER_ENDPOINT", "http://127.0.0.1:9801")
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(said.contains("export CLOUDSDK_CORE_PROJECT=flagged\n"), "{said}");
    assert!(said.contains("export BIGTABLE_EMULATOR_HOST=127.0.0.1:9801\n"), "{said}");
}

#[test]
fn a_server_takes_flags_before_variables_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("claviger.toml");
    std::fs::write(&file, "kms_grace = 'from-file'\n").unwrap();
    let file = file.to_str().unwrap();
    let why = |command: &mut Command| text(&command.output().unwrap().stderr);
    let from_file = why(&mut claviger(&["serve", "--config", file]));
    assert!(from_file.contains("'from-file' is not a duration"), "{from_file}");
    let from_variable =
        why(claviger(&["serve", "--config", file]).env("CLAVIGER_KMS_GRACE", "from-variable"));
    assert!(from_variable.contains("'from-variable' is not a duration"), "{from_variable}");
    let from_flag = why(claviger(&["serve", "--config", file, "--kms-grace", "from-flag"])
        .env("CLAVIGER_KMS_GRACE", "from-variable"));
    assert!(from_flag.contains("'from-flag' is not a duration"), "{from_flag}");
}

#[test]
fn a_server_that_cannot_start_says_why_in_one_line_and_ends_with_1() {
    for (arguments, part) in [
        (&["serve", "--key-check-interval", "soon"][..], "--key-check-interval: 'soon' is not a duration"),
        (&["serve", "--services", "post"], "there is no service 'post'"),
        (&["serve", "--config", "/no/such/file.toml"], "cannot read /no/such/file.toml"),
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.contains(part) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn the_environment_is_an_object_of_strings_in_json() {
    let output = run(&["env", "--shell", "json"]);
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(object.values().all(serde_json::Value::is_string));
    assert_eq!(object["CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS"], "http://127.0.0.1:9700/");
}

#[test]
fn shells_get_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success());
        let script = text(&output.stdout);
        assert!(script.contains("keyrings") && script.contains("authorize"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child =
        claviger(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn help_of_every_group_has_the_global_options() {
    for group in [&["--help"][..], &["kms", "keys", "--help"], &["bigtable", "rows", "read", "--help"]] {
        let said = text(&run(group).stdout);
        for part in ["--endpoint", "CLAVIGER_ENDPOINT", "--project", "--format", "json", "yaml", "table"] {
            assert!(said.contains(part), "{group:?} does not say {part}");
        }
    }
}
