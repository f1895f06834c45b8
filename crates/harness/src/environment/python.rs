//! The Python interpreters behind Beam's images: one virtual environment for each version of Python and
//! Beam, made once and kept; or the one that the operator names.
//!
//! Invariant: only public packages are in them, so they may be on a disk. A half-made one is made anew.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use claviger_core::{Error, Result};
use tokio::process::Command;
use tokio::sync::Mutex;

use super::image::Image;
use crate::limits;
use crate::logging::cut;
use crate::worker::Core;

/// The file that says that an environment is whole.
const READY: &str = "claviger-ready";

/// Finds and makes interpreters.
pub(crate) struct Python {
    cache: PathBuf,
    given: Option<PathBuf>,
    /// One is made at a time.
    making: Mutex<()>,
}

impl Python {
    pub(crate) fn new(cache: PathBuf, given: Option<PathBuf>) -> Self {
        Self { cache, given, making: Mutex::new(()) }
    }

    /// The interpreter for an image. The first use of a version takes as long as its installation.
    ///
    /// # Errors
    /// `FailedPrecondition` when Python is missing or Beam cannot be installed.
    pub(crate) async fn interpreter(&self, image: &Image, core: &Core) -> Result<PathBuf> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        let dir = self.cache.join(format!("python{}-beam{}", image.python, image.beam));
        // The worker has another working directory.
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        let python = dir.join("bin/python");
        let _making = self.making.lock().await;
        if tokio::fs::try_exists(dir.join(READY)).await.unwrap_or(false) {
            return Ok(python);
        }
        core.wrote(format!("Apache Beam {} is being installed, once", image.beam));
        let failed = |error: std::io::Error| {
            Error::precondition(format!("a Python environment for {image} cannot be made: {error}"))
        };
        if let Err(error) = tokio::fs::remove_dir_all(&dir).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed(error));
        }
        tokio::fs::create_dir_all(&self.cache).await.map_err(failed)?;
        let base = PathBuf::from(format!("python{}", image.python));
        run(&base, &["-m", "venv", &dir.to_string_lossy()], image).await?;
        let beam = format!("apache-beam[gcp]=={}", image.beam);
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", &beam];
        run(&python, &install, image).await?;
        tokio::fs::write(dir.join(READY), image.beam.as_bytes()).await.map_err(failed)?;
        Ok(python)
    }
}

async fn run(program: &Path, arguments: &[&str], image: &Image) -> Result<()> {
    let shown = program.file_name().unwrap_or_default().to_string_lossy();
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| {
            Error::precondition(format!(
                "the server runs {image} as a local process and needs {shown} for it, which cannot be run: {error}; install it, or name an interpreter that has Apache Beam at the server's start"
            ))
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(Error::precondition(format!(
        "a Python environment for {image} cannot be made: {shown} ended with {}:\n{}",
        output.status,
        cut(said, limits::TAIL_BYTES)
    )))
}
