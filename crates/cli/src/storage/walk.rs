//! The files below a folder, and where an object's name leads below one.
//!
//! Invariant: a name never leads out of its folder.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::failure::Failure;
use crate::output::say;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// Its name below the folder, with slashes.
    pub(super) below: String,
}

/// Walks a folder in the order of names. Links to files are followed, those to folders are not.
#[derive(Debug)]
pub(super) struct Walk {
    root: PathBuf,
    /// What is still to be seen, the next at the end.
    ahead: Vec<PathBuf>,
    /// The folders that were seen, each before those in it.
    pub(super) folders: Vec<PathBuf>,
}

impl Walk {
    /// Walks this folder.
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), ahead: vec![root.to_owned()], folders: Vec::new() }
    }

    /// The next file.
    ///
    /// # Errors
    /// A folder that cannot be read, or a name that is no text.
    pub(super) fn next(&mut self) -> Result<Option<File>, Failure> {
        let failed = |path: &Path, error| Failure::local(format!("cannot read {}: {error}", path.display()));
        while let Some(path) = self.ahead.pop() {
            let link = fs::symlink_metadata(&path).map_err(|error| failed(&path, error))?;
            let is_root = path == self.root;
            let metadata = fs::metadata(&path).map_err(|error| failed(&path, error))?;
            if metadata.is_dir() && (is_root || !link.is_symlink()) {
                let entries = fs::read_dir(&path).map_err(|error| failed(&path, error))?;
                let mut found = Vec::new();
                for entry in entries {
                    found.push(entry.map_err(|error| failed(&path, error))?.path());
                }
                found.sort_unstable_by(|a, b| b.cmp(a));
                self.ahead.append(&mut found);
                self.folders.push(path);
            } else if metadata.is_file() {
                let below = self.below(&path)?;
                return Ok(Some(File { path, below }));
            } else {
                say(&format!("Left out {}: it is no file.", path.display()));
            }
        }
        Ok(None)
    }

    fn below(&self, path: &Path) -> Result<String, Failure> {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        let parts = below.components().map(|part| part.as_os_str().to_str());
        let parts: Option<Vec<_>> = parts.collect();
        parts.map(|parts| parts.join("/")).ok_or_else(|| {
            Failure::local(format!("the name of {} is not UTF-8, as an object's must be", path.display()))
        })
    }
}

/// The path below `folder` that an object's name leads to.
///
/// # Errors
/// When it would lead elsewhere.
pub(super) fn path_below(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(name);
    let is_plain = !name.is_empty()
        && !name.contains('\0')
        && !name.split('/').any(str::is_empty)
        && path.components().all(|part| matches!(part, Component::Normal(_)))
        && name.split('/').all(|part| part != ".");
    if is_plain {
        return Ok(folder.join(path));
    }
    Err(Failure::advised(
        format!("the object's name '{}' makes no path below {}", name.escape_debug(), folder.display()),
        "copy it alone, to a file that you name",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_sees_every_file_once_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        for name in ["b/c/2", "b/1", "a", "z ä"] {
            fs::write(root.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(root, root.join("loop")).unwrap();
        let mut walk = Walk::new(root);
        let mut names = Vec::new();
        while let Some(file) = walk.next().unwrap() {
            names.push(file.below);
        }
        assert_eq!(names, ["a", "b/1", "b/c/2", "link", "z ä"]);
        assert_eq!(walk.folders, [root.to_owned(), root.join("b"), root.join("b/c")]);
    }

    #[test]
    fn a_name_never_leads_out_of_its_folder() {
        let folder = Path::new("/f");
        assert_eq!(path_below(folder, "a/b c").unwrap(), Path::new("/f/a/b c"));
        for name in ["", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a/", "a\0b", "."] {
            let told = path_below(folder, name).unwrap_err().text();
            assert!(told.contains("makes no path below /f"), "{name:?}");
        }
    }
}
