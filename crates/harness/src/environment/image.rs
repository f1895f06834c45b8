//! The names of Beam's own Python images, which stand for a local Python with that version of Beam.
//!
//! Invariant: any other image is refused by its name; nothing is guessed from one.

use std::fmt;

use claviger_core::{Error, Result};

/// An image of Beam's Python SDK, such as `apache/beam_python3.11_sdk:2.77.0` of any registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// As it was given.
    name: String,
    /// The version of Python, `3.11`.
    pub(crate) python: String,
    /// The version of Apache Beam, `2.77.0`.
    pub(crate) beam: String,
}

impl Image {
    /// Reads an image's name.
    ///
    /// # Errors
    /// `Unimplemented` for any other image.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let path = name.rsplit('/').next().unwrap_or(name);
        let versions = path.split_once(':').and_then(|(repository, tag)| {
            let python = repository.strip_prefix("beam_python")?;
            let python = python.strip_suffix("_sdk").or_else(|| python.strip_suffix("_sdk_distroless"))?;
            (is_version(python, 2) && is_release(tag)).then_some((python, tag))
        });
        let Some((python, beam)) = versions else {
            return Err(Error::unimplemented(format!(
                "the container image '{name}' is not run here: Apache Beam's own Python images, such as apache/beam_python3.11_sdk:2.77.0, run as local processes; for others use a PROCESS or EXTERNAL environment"
            )));
        };
        Ok(Self { name: name.to_owned(), python: python.to_owned(), beam: beam.to_owned() })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// So many numbers with dots between.
fn is_version(text: &str, numbers: usize) -> bool {
    let is_number = |part: &str| (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    text.split('.').count() == numbers && text.split('.').all(is_number)
}

/// A release of Beam, or a candidate of one.
fn is_release(tag: &str) -> bool {
    let (version, candidate) = tag.split_once("rc").unwrap_or((tag, "1"));
    is_version(version, 3) && is_version(candidate, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beams_own_images_of_any_registry_give_their_versions() {
        for (name, python, beam) in [
            ("apache/beam_python3.11_sdk:2.77.0", "3.11", "2.77.0"),
            ("gcr.io/cloud-dataflow/v1beta3/beam_python3.9_sdk:2.50.0", "3.9", "2.50.0"),
            ("localhost:5000/mine/beam_python3.12_sdk:2.77.0rc2", "3.12", "2.77.0rc2"),
            ("beam_python3.11_sdk_distroless:2.77.0", "3.11", "2.77.0"),
        ] {
            let image = Image::parse(name).expect(name);
            assert_eq!((image.python.as_str(), image.beam.as_str()), (python, beam), "{name}");
            assert_eq!(image.to_string(), name);
        }
    }

    #[test]
    fn other_images_are_refused_by_name() {
        for name in [
            "",
            "ubuntu",
            "apache/beam_java17_sdk:2.77.0",
            "apache/beam_python3.11_sdk",
            "apache/beam_python3.11_sdk:latest",
            "apache/beam_python3.11_sdk@sha256:00",
            "apache/beam_python3.11_sdk:2.77.0;rm",
            "apache/beam_python../../x_sdk:2.77.0",
            "apache/beam_python3.11_sdk:2.77.0/evil",
        ] {
            let error = Image::parse(name).expect_err(name);
            assert!(error.message().contains(&format!("'{name}'")), "{error}");
        }
    }
}
