//! Update masks: which fields of a message a request means.

use claviger_core::{Error, Result};

/// The paths of an update mask. Every path must be taken by [`Mask::has`] before [`Mask::finish`].
#[derive(Debug)]
pub(super) struct Mask {
    paths: Vec<String>,
    known: Vec<&'static str>,
}

impl Mask {
    /// Reads a mask, which must name a field.
    ///
    /// # Errors
    /// `InvalidArgument` when it names none.
    pub(super) fn new(mask: Option<prost_types::FieldMask>) -> Result<Self> {
        let paths = mask.unwrap_or_default().paths;
        if paths.is_empty() {
            return Err(Error::invalid_field("update_mask", "must name the fields to change"));
        }
        Ok(Self { paths, known: Vec::new() })
    }

    /// Whether the mask names a field, or one in it.
    pub(super) fn has(&mut self, field: &'static str) -> bool {
        self.known.push(field);
        self.paths.iter().any(|path| is_in(path, field))
    }

    /// Refuses paths that nothing asked for.
    ///
    /// # Errors
    /// `InvalidArgument` that names the path.
    pub(super) fn finish(self) -> Result<()> {
        match self.paths.iter().find(|path| !self.known.iter().any(|field| is_in(path, field))) {
            Some(path) => Err(Error::invalid_field("update_mask", format!("'{path}' cannot be changed"))),
            None => Ok(()),
        }
    }
}

fn is_in(path: &str, field: &str) -> bool {
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_takes_fields_and_their_parts_and_refuses_others() {
        let mask = |paths: &[&str]| {
            Mask::new(Some(prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() }))
        };
        let mut named = mask(&["labels", "config.size.min"]).unwrap();
        assert!(named.has("labels") && named.has("config") && !named.has("lab"));
        named.finish().unwrap();
        let mut other = mask(&["labels", "labelsx"]).unwrap();
        assert!(other.has("labels"));
        assert!(other.finish().unwrap_err().message().contains("'labelsx'"));
        assert!(mask(&[]).is_err() && Mask::new(None).is_err());
    }
}
