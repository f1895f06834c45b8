//! What lies on the disk: which files changed, and whether any byte of plaintext shows.
//!
//! Invariant: a search reads every byte of every file under its folder, whatever the file's name; a file that
//! goes away meanwhile is the only one it may leave out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Value, json};

use crate::failure::{Doing, Failure, Result};
use crate::process::Watch;
use crate::report;

/// How long nothing may change for a store to be at rest.
const STILL_FOR: Duration = Duration::from_secs(3);
/// How much of a file is searched at a time.
const PIECE_BYTES: usize = 4 << 20;

/// The files under a folder, by their relative path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot(BTreeMap<String, FileState>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileState {
    size: u64,
    inode: u64,
    modified: (i64, i64),
}

/// New and changed files, with their sizes in bytes.
#[derive(Debug)]
pub(super) struct Change(Vec<(String, u64)>);

impl Snapshot {
    /// Lists the files as they are.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        walk(folder, &mut |path, metadata| {
            let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            files.insert(name, FileState { size: metadata.len(), inode: metadata.ino(), modified });
        })?;
        Ok(Self(files))
    }

    /// Waits until nothing changes any more: flushes and compactions are over.
    ///
    /// # Errors
    /// When that takes longer than `within`.
    pub(super) fn at_rest(folder: &Path, within: Duration) -> Result<Self> {
        let started = Instant::now();
        let mut last = Self::take(folder)?;
        let mut still_since = Instant::now();
        while still_since.elapsed() < STILL_FOR {
            if started.elapsed() > within {
                return Err(Failure::new(format!(
                    "the store was not at rest after {}",
                    report::time(within)
                )));
            }
            std::thread::sleep(Duration::from_millis(200));
            let now = Self::take(folder)?;
            if now != last {
                last = now;
                still_since = Instant::now();
            }
        }
        Ok(last)
    }

    /// What was written since `before`.
    pub(super) fn since(&self, before: &Self) -> Change {
        let changed = self.0.iter().filter(|(name, state)| before.0.get(*name) != Some(state));
        Change(changed.map(|(name, state)| (name.clone(), state.size)).collect())
    }

    /// Bytes in all files whose path starts so.
    pub(super) fn size_of(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, state)| state.size).sum()
    }

    /// Bytes that jobs keep between their stages, shuffles and logs, in a snapshot of the jobs' folder.
    pub(super) fn of_shuffles(&self) -> u64 {
        let at_work = |name: &str| name.contains("/work/w/run/");
        self.0.iter().filter(|(name, _)| at_work(name)).map(|(_, state)| state.size).sum()
    }
}

impl Change {
    /// Bytes of the changed files whose path starts so.
    pub(super) fn inside(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, size)| size).sum()
    }

    /// Bytes of all other changed files.
    pub(super) fn outside(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(name, _)| !name.starts_with(prefix)).map(|(_, size)| size).sum()
    }
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path, &std::fs::Metadata)) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).doing(format!("cannot read {}", folder.display())),
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, visit)?,
            Ok(metadata) if metadata.is_file() => visit(&path, &metadata),
            _ => {}
        }
    }
    Ok(())
}

/// Texts to look for.
#[derive(Debug, Clone)]
pub(super) struct Needles {
    /// A planted row key.
    pub(super) key: String,
    /// A planted qualifier.
    pub(super) qualifier: String,
    /// A planted value.
    pub(super) value: String,
}

impl Needles {
    /// Texts that nothing else on this machine holds.
    pub(super) fn random() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let word = || format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        Self {
            key: format!("planted-key-{}", word()),
            qualifier: format!("planted-qualifier-{}", word()),
            value: format!("planted-value-{}", word()),
        }
    }

    /// The planted texts, for the Python side.
    pub(super) fn planted(&self) -> Value {
        json!({"key": self.key, "qualifier": self.qualifier, "value": self.value})
    }

    /// The planted texts, keys, qualifiers and values of real rows, and the family names with their data;
    /// each as it is and in hexadecimal.
    pub(super) fn all(&self) -> Vec<String> {
        let planted = [self.key.clone(), self.qualifier.clone(), self.value.clone()];
        let real = [
            "2013-01-01#UA#1545",
            "2013-07-04#",
            "2013-12-31#B6#",
            "sched_arr_time",
            "2013-01-01T10:00:00Z",
            "N14228",
            "N24211",
        ];
        let plain: Vec<String> = planted.into_iter().chain(real.map(str::to_owned)).collect();
        let hex = plain.iter().map(|text| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>());
        plain.iter().cloned().chain(hex).collect()
    }
}

/// What a search saw.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files read.
    pub(super) files: u64,
    /// Bytes read.
    pub(super) bytes: u64,
    /// Where a text showed.
    pub(super) hits: Vec<String>,
}

/// Looks for all texts in every byte under a folder.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn search(folder: &Path, needles: &[String], watch: &Watch) -> Result<Found> {
    let mut files = Vec::new();
    walk(folder, &mut |path, _| files.push(path.to_owned()))?;
    let finder = Finder::new(needles)?;
    let mut found = Found::default();
    watch.count_to(files.len() as u64);
    for (number, path) in files.iter().enumerate() {
        watch.at(number as u64);
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).doing(format!("cannot read {}", path.display())),
        };
        found.files += 1;
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        for hit in finder.in_bytes(name.as_bytes(), 0) {
            found.hits.push(format!("'{hit}' in the name {name}"));
        }
        found.bytes +=
            finder.in_stream(&mut file, &mut |hit| found.hits.push(format!("'{hit}' in {name}")))?;
    }
    Ok(found)
}

/// Looks for many texts at once.
struct Finder<'a> {
    needles: &'a [String],
    searcher: AhoCorasick,
    longest: usize,
}

impl<'a> Finder<'a> {
    fn new(needles: &'a [String]) -> Result<Self> {
        // The only kind that is looked for many bytes at a time.
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostFirst);
        let searcher = builder.build(needles).doing("the texts cannot be looked for")?;
        Ok(Self { needles, searcher, longest: needles.iter().map(String::len).max().unwrap_or(0) })
    }

    /// The texts in `bytes` that end after the first `known` of them.
    fn in_bytes(&self, bytes: &[u8], known: usize) -> Vec<&'a str> {
        let matches = self.searcher.find_iter(bytes).filter(|found| found.end() > known);
        matches.filter_map(|found| self.needles.get(found.pattern().as_usize())).map(String::as_str).collect()
    }

    /// Searches a stream in pieces that overlap by the longest text; gives the bytes read.
    fn in_stream(&self, stream: &mut impl Read, hit: &mut impl FnMut(&str)) -> Result<u64> {
        let overlap = self.longest.saturating_sub(1);
        let mut window: Vec<u8> = Vec::with_capacity(PIECE_BYTES + overlap);
        let mut total = 0;
        loop {
            let kept = window.len();
            let read = stream.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut window)?;
            if read == 0 {
                return Ok(total);
            }
            total += read as u64;
            self.in_bytes(&window, kept).into_iter().for_each(&mut *hit);
            let cut = window.len().saturating_sub(overlap);
            window.drain(..cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.len().min(buffer.len()).min(1000);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_text_across_two_pieces_is_found_once() {
        let needles = vec!["planted-key-1".to_owned(), "absent".to_owned(), "not-there".to_owned()];
        let finder = Finder::new(&needles).unwrap();
        let mut bytes = vec![b'p'; PIECE_BYTES - 5];
        bytes.extend_from_slice(b"planted-key-1");
        // Whole in the part that is kept for the next piece.
        bytes.resize(2 * PIECE_BYTES - 7, b'x');
        bytes.extend_from_slice(b"absent");
        bytes.extend_from_slice(&[b'x'; 100]);
        let mut hits = Vec::new();
        let read = finder.in_stream(&mut Dribble(&bytes), &mut |hit| hits.push(hit.to_owned())).unwrap();
        assert_eq!(read, bytes.len() as u64);
        assert_eq!(hits, ["planted-key-1", "absent"]);
    }

    #[test]
    fn needles_are_looked_for_in_hexadecimal_too() {
        let needles = Needles { key: "ab".into(), qualifier: "cd".into(), value: "ef".into() }.all();
        assert!(needles.contains(&"ab".to_owned()) && needles.contains(&"6162".to_owned()));
    }

    #[test]
    fn only_what_jobs_work_with_counts_as_shuffles() {
        let folder = std::env::temp_dir().join(format!("claviger-jobs-{}", std::process::id()));
        for (place, content) in [("s/work/w/run", "12345"), ("s/work/w/blob", "1"), ("s/kept/k/blob", "1")] {
            std::fs::create_dir_all(folder.join(place)).unwrap();
            std::fs::write(folder.join(place).join("f"), content).unwrap();
        }
        let shuffles = Snapshot::take(&folder).unwrap().of_shuffles();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(shuffles, 5);
    }

    #[test]
    fn a_change_tells_data_from_the_rest() {
        let folder = std::env::temp_dir().join(format!("claviger-disk-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("bigtable")).unwrap();
        std::fs::write(folder.join("bigtable/old"), "old").unwrap();
        let before = Snapshot::take(&folder).unwrap();
        std::fs::write(folder.join("bigtable/new"), "12345").unwrap();
        std::fs::write(folder.join("keys"), "123").unwrap();
        let change = Snapshot::take(&folder).unwrap().since(&before);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((change.inside("bigtable/"), change.outside("bigtable/")), (5, 3));
        assert_eq!(before.size_of("bigtable/"), 3);
    }
}
