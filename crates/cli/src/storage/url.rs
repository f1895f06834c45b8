//! Names of buckets and objects as people type them: `gs://BUCKET/OBJECT#GENERATION`, and files.
//!
//! Invariant: what is shown can be typed again and means the same.

use std::fmt;
use std::path::PathBuf;

/// What names of buckets and objects begin with.
const SCHEME: &str = "gs://";
/// Characters that make an object's name a pattern.
const WILD: [char; 3] = ['*', '?', '['];

/// A bucket, an object, or a pattern for objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloudUrl {
    pub(super) bucket: String,
    /// The object; empty for the bucket.
    pub(super) object: String,
    /// The generation, if not the live one is meant.
    pub(super) generation: Option<u64>,
}

/// A place for bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a bucket.
    Cloud(CloudUrl),
    /// A file or folder.
    Local(PathBuf),
    /// Standard input or output.
    Standard,
}

impl CloudUrl {
    /// A name in a bucket.
    pub(super) fn new(bucket: &str, object: &str) -> Self {
        Self { bucket: bucket.to_owned(), object: object.to_owned(), generation: None }
    }

    /// Whether the object is a pattern.
    pub(super) fn is_pattern(&self) -> bool {
        self.object.contains(WILD)
    }

    /// The object's name up to its first wildcard.
    pub(super) fn literal(&self) -> &str {
        self.object.split(WILD).next().unwrap_or_default()
    }
}

impl fmt::Display for CloudUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.object)?;
        match self.generation {
            Some(generation) => write!(f, "#{generation}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cloud(url) => url.fmt(f),
            Self::Local(path) => path.display().fmt(f),
            Self::Standard => f.write_str("-"),
        }
    }
}

/// Reads `gs://BUCKET`, `gs://BUCKET/OBJECT` or `gs://BUCKET/OBJECT#GENERATION`.
///
/// # Errors
/// A sentence that repeats the text.
pub(super) fn cloud(text: &str) -> Result<CloudUrl, String> {
    let rest = text.strip_prefix(SCHEME).ok_or_else(|| format!("'{text}' does not begin with {SCHEME}"))?;
    let (bucket, object) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(format!("'{text}' names no bucket: write {SCHEME}BUCKET/OBJECT"));
    }
    if bucket.contains(WILD) {
        return Err(format!("'{text}' has a wildcard in the bucket's name: they are for objects' names"));
    }
    let generation = object.rsplit_once('#').and_then(|(object, number)| {
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { Some((object, number.parse().ok()?)) } else { None }
    });
    let (object, generation) = match generation {
        Some((object, generation)) if !object.is_empty() => (object, Some(generation)),
        _ => (object, None),
    };
    Ok(CloudUrl { bucket: bucket.to_owned(), object: object.to_owned(), generation })
}

/// Reads `gs://BUCKET`.
///
/// # Errors
/// A sentence that repeats the text.
pub(super) fn bucket(text: &str) -> Result<String, String> {
    let url = cloud(text)?;
    if url.object.is_empty() {
        Ok(url.bucket)
    } else {
        Err(format!("'{text}' is no bucket: write {SCHEME}{}", url.bucket))
    }
}

/// Reads `gs://BUCKET/OBJECT`.
///
/// # Errors
/// A sentence that repeats the text.
pub(super) fn object(text: &str) -> Result<CloudUrl, String> {
    let url = cloud(text)?;
    if url.object.is_empty() {
        return Err(format!("'{text}' names no object: write {SCHEME}{}/OBJECT", url.bucket));
    }
    Ok(url)
}

/// Reads a place: `gs://...`, `-`, or the path of a file, with or without `file://`.
///
/// # Errors
/// A sentence that repeats the text.
pub(super) fn place(text: &str) -> Result<Place, String> {
    match text {
        "" => Err("an empty name is no place".to_owned()),
        "-" => Ok(Place::Standard),
        _ if text.starts_with(SCHEME) => cloud(text).map(Place::Cloud),
        _ => Ok(Place::Local(PathBuf::from(text.strip_prefix("file://").unwrap_or(text)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed_again() {
        for text in ["gs://b/", "gs://b/o", "gs://b/d/o#17", "gs://b/d/", "gs://b/o#x", "gs://b/#1"] {
            assert_eq!(cloud(text).unwrap().to_string(), text);
        }
        assert_eq!(cloud("gs://b/d/o#17").unwrap().generation, Some(17));
        assert_eq!(cloud("gs://b/o#x").unwrap().object, "o#x");
        assert_eq!(cloud("gs://b").unwrap(), CloudUrl::new("b", ""));
    }

    #[test]
    fn a_place_is_in_a_bucket_or_here() {
        assert_eq!(place("gs://b/o").unwrap(), Place::Cloud(CloudUrl::new("b", "o")));
        assert_eq!(place("file:///a/b").unwrap(), Place::Local("/a/b".into()));
        assert_eq!(place("a/b").unwrap(), Place::Local("a/b".into()));
        assert_eq!(place("-").unwrap(), Place::Standard);
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_shape() {
        for (text, part) in
            [("b", "gs://"), ("gs://", "no bucket"), ("gs:///o", "no bucket"), ("gs://b*/o", "wildcard")]
        {
            assert!(cloud(text).unwrap_err().contains(part), "{text}");
        }
        assert!(bucket("gs://b/o").unwrap_err().contains("write gs://b"));
        assert!(object("gs://b/").unwrap_err().contains("gs://b/OBJECT"));
    }

    #[test]
    fn a_pattern_has_a_literal_beginning() {
        let url = cloud("gs://b/d/2026-*/x?").unwrap();
        assert!(url.is_pattern() && !cloud("gs://b/d/o").unwrap().is_pattern());
        assert_eq!(url.literal(), "d/2026-");
    }
}
