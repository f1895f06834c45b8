//! Where things are: the workspace, the target directory, the release binaries.
//!
//! Invariant: a `cargo` that a chore starts sees none of the variables that the outer `cargo run` set for
//! this process, so that it rebuilds nothing because of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::failure::{Doing, Failure, Result};
use crate::process::{self, Watch};

/// The workspace on disk.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    /// The folder with the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds both folders.
    ///
    /// # Errors
    /// When `cargo metadata` does not answer.
    pub(crate) fn find() -> Result<Self> {
        let manifest_dir =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest_dir).parent().unwrap_or(Path::new(".")).to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => target_from_metadata(&root)?,
        };
        std::fs::create_dir_all(target.join("xtask")).doing(format!("cannot make {}", target.display()))?;
        Ok(Self { root, target })
    }

    /// A `cargo` command in the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_TERM_COLOR", "never");
        command
    }

    /// Builds the server and the benchmarks in release mode, once.
    ///
    /// # Errors
    /// When the build fails; the compiler's words are shown.
    pub(crate) fn build_release(&self, watch: &Watch) -> Result<Binaries> {
        let mut command = self.cargo();
        command.args(["build", "--release", "-p", "claviger-cli", "-p", "claviger-bench"]);
        let done = process::run(command, &self.log("build-release"), watch)?;
        if !done.success {
            return Err(Failure::new(format!("the release build failed:\n{}", done.tail(60))));
        }
        let folder = self.target.join("release");
        Ok(Binaries { claviger: folder.join("claviger"), bench: folder.join("claviger-bench") })
    }

    /// The file that keeps what a step printed.
    pub(crate) fn log(&self, step: &str) -> PathBuf {
        self.target.join("xtask").join(format!("{step}.log"))
    }
}

/// The release binaries.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// The server and its command line.
    pub(crate) claviger: PathBuf,
    /// The load generator and the crash harness.
    pub(crate) bench: PathBuf,
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

fn target_from_metadata(root: &Path) -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .doing("cannot run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).doing("cargo metadata")?;
    match metadata.get("target_directory").and_then(Value::as_str) {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => Err(Failure::new("cargo metadata named no target directory")),
    }
}
