//! The documentation: it builds without a warning, and the README's commands run as written.
//!
//! Invariant: a command in the README is run from its text, never from a copy that could drift.

use std::path::PathBuf;
use std::process::Command;

use super::{Bench, Tally};
use crate::failure::{Failure, Result};
use crate::process::{self, Watch};
use crate::server::{Folders, Server};

pub(super) fn docs(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let mut command = bench.workspace.cargo();
    command.args(["doc", "--workspace", "--no-deps", "--keep-going"]).env("RUSTDOCFLAGS", "-D warnings");
    let done = process::run(command, &bench.workspace.log("doc"), watch)?;
    let mut tally = Tally::one(done.success, || done.tail(40));
    tally.add(readme(bench, watch)?);
    Ok(tally)
}

/// Runs the README's `claviger` commands and Python in order, in one shell, against a fresh server.
fn readme(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let Ok(text) = std::fs::read_to_string(bench.workspace.root.join("README.md")) else {
        return Ok(Tally::skip("there is no README.md"));
    };
    let steps = steps(&text);
    if steps.is_empty() {
        return Ok(Tally::skip("the README shows no claviger command"));
    }
    // It has the official clients as well.
    let python = &bench.beam(watch)?.program;
    let binaries = bench.binaries(watch)?;
    let folders = Folders::anew(&bench.workspace.target.join("xtask/readme-server"))?;
    let mut server = Server::start(&binaries.claviger, &folders, &[], &bench.workspace.log("readme-server"))?;
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-x", "-c", &steps.join("\n")]).current_dir(&folders.data);
    shell.env("CLAVIGER_ENDPOINT", &server.endpoint).env("PYTHON", python);
    let own = [&binaries.claviger, python].into_iter().filter_map(|program| program.parent());
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(own.map(PathBuf::from).chain(std::env::split_paths(&rest)))
        .map_err(|error| Failure::new(format!("the target directory cannot be in PATH: {error}")))?;
    shell.env("PATH", path);
    let done = process::run(shell, &bench.workspace.log("readme"), watch)?;
    server.stop()?;
    if done.success {
        return Ok(Tally { passed: steps.len() as u64, ..Tally::default() });
    }
    Ok(Tally::one(false, || format!("the README's commands:\n{}", done.tail(20))))
}

/// What the README does with a running server: the `claviger` commands of its shell blocks, whole with their
/// continued lines, the variables and files they make, and its Python blocks.
fn steps(readme: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<(&str, Vec<&str>)> = None;
    for line in readme.lines() {
        match (line.trim_start().strip_prefix("```"), &mut block) {
            (Some(language), None) => block = Some((language.trim(), Vec::new())),
            (Some(_), Some(_)) => {
                if let Some((language, lines)) = block.take() {
                    match language {
                        "sh" | "bash" => found.extend(commands(lines.into_iter())),
                        "console" => found.extend(typed(&lines)),
                        "python" => found.push(format!("\"$PYTHON\" - <<'END'\n{}\nEND", lines.join("\n"))),
                        // The text around the block says under which name to save it.
                        named => {
                            if let Some(file) = named.strip_prefix("python ") {
                                found.push(format!("cat > '{file}' <<'END'\n{}\nEND", lines.join("\n")));
                            }
                        }
                    }
                }
            }
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => {}
        }
    }
    // Python alone has no server to talk to.
    if found.iter().any(|step| step.starts_with("claviger ")) { found } else { Vec::new() }
}

/// The commands of a block that shows a terminal: what stands after `$ `, and the lines that continue it.
fn typed(lines: &[&str]) -> Vec<String> {
    let mut continued = false;
    let mut inputs = Vec::new();
    for line in lines {
        let input = line.strip_prefix("$ ").or(if continued { Some(*line) } else { None });
        continued = input.is_some_and(|input| input.ends_with('\\'));
        inputs.extend(input);
    }
    commands(inputs.into_iter())
}

fn commands<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = String::new();
    for line in lines {
        open.push_str(line);
        if let Some(part) = open.strip_suffix('\\') {
            open = part.to_owned();
        } else {
            let command = std::mem::take(&mut open);
            if is_run(&command) {
                found.push(command);
            }
        }
    }
    found
}

fn is_run(command: &str) -> bool {
    let command = command.trim();
    let plain = command.starts_with("claviger ") && !command.starts_with("claviger serve");
    let sets = command.starts_with("eval \"$(claviger ") || command.starts_with("printf ");
    let assigns =
        command.strip_prefix("export ").unwrap_or(command).split_once('=').is_some_and(|(name, _)| {
            name != "PATH" && !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        });
    plain || sets || assigns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shell_blocks_give_commands_and_a_server_is_not_started_twice() {
        let readme = "claviger outside\n```sh\ncargo xtask demo\nclaviger serve &\nKEY=projects/p/k\n\
            claviger kms keys create k \\\n  --location us-east1\nprintf a > b\n```\n```toml\nclaviger = 1\n```\n\
            ```python x.py\npass\n```\n";
        let made = ["KEY=projects/p/k", "claviger kms keys create k   --location us-east1", "printf a > b"];
        assert_eq!(steps(readme)[..3], made);
        assert_eq!(steps(readme)[3..], ["cat > 'x.py' <<'END'\npass\nEND"]);
    }

    #[test]
    fn a_terminal_gives_what_was_typed_and_python_runs_in_its_place() {
        let readme = "```console\n$ export PATH=$PWD/x:$PATH\n$ claviger serve &\nclaviger ready http://127.0.0.1:9700\n\
            $ claviger env \\\n    --shell\n$ eval \"$(claviger env)\"\n```\n```python\nprint(1)\n```\n";
        let expected =
            ["claviger env     --shell", "eval \"$(claviger env)\"", "\"$PYTHON\" - <<'END'\nprint(1)\nEND"];
        assert_eq!(steps(readme), expected);
    }
}
