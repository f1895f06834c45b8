//! The values of flags, in the spellings that `gcloud` takes: durations, times, `key=value` pairs, files.
//!
//! Invariant: a wrong value is refused here, with the spelling that would be right.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use claviger_core::{Clock, SystemClock};

use crate::failure::Failure;

/// A duration such as `90s`, `12h`, `30d`, `4w` or ISO 8601's `P30D`.
///
/// # Errors
/// A sentence that repeats the text.
pub(crate) fn duration(text: &str) -> Result<prost_types::Duration, String> {
    let seconds = |days: &str, each: u64| {
        let count: u64 = days.parse().ok()?;
        count.checked_mul(each)
    };
    let iso = text.strip_prefix(['P', 'p']).filter(|rest| !rest.is_empty());
    let parsed = if let Some(weeks) = text.strip_suffix('w') {
        seconds(weeks, 7 * 86_400).map(std::time::Duration::from_secs)
    } else if let Some(rest) = iso {
        let lower = rest.to_lowercase();
        match lower.strip_suffix('d') {
            Some(days) => seconds(days, 86_400).map(std::time::Duration::from_secs),
            None => lower.strip_prefix('t').and_then(|time| claviger_core::duration::parse(time).ok()),
        }
    } else {
        claviger_core::duration::parse(text).ok()
    };
    parsed.and_then(|duration| prost_types::Duration::try_from(duration).ok()).ok_or_else(|| {
        format!(
            "'{text}' is not a duration: write a whole number and ms, s, m, h, d or w, as in 90s, 12h or 30d"
        )
    })
}

/// A moment: RFC 3339 (`2027-01-31T08:00:00Z`), a date, or a duration from now (`+30d`).
///
/// # Errors
/// A sentence that repeats the text.
pub(crate) fn moment(text: &str) -> Result<prost_types::Timestamp, String> {
    moment_from(text, &SystemClock::new())
}

fn moment_from(text: &str, clock: &dyn Clock) -> Result<prost_types::Timestamp, String> {
    let wrong = || {
        format!(
            "'{text}' is not a time: write 2027-01-31T08:00:00Z, 2027-01-31, or a duration from now as in +30d"
        )
    };
    if let Some(ahead) = text.strip_prefix('+') {
        let ahead = std::time::Duration::try_from(duration(ahead)?).map_err(|_| wrong())?;
        let (seconds, nanos) = clock.now().plus(ahead).seconds_and_nanos();
        return Ok(prost_types::Timestamp { seconds, nanos });
    }
    let whole = if text.contains(['T', 't', ' ']) { text.to_owned() } else { format!("{text}T00:00:00Z") };
    whole.parse().map_err(|_| wrong())
}

/// A pair `key=value`.
///
/// # Errors
/// A sentence that repeats the text.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not KEY=VALUE")),
    }
}

/// A name of an enum's value as `gcloud` spells it: `google-symmetric-encryption`, or as the API does.
pub(crate) fn enum_name(text: &str) -> String {
    text.to_uppercase().replace('-', "_")
}

/// A size: `4096`, `64KiB`, `256MiB`, `2GiB`.
///
/// # Errors
/// A sentence that repeats the text.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
    units
        .into_iter()
        .find_map(|(unit, size)| text.strip_suffix(unit).map(|count| (count, size)))
        .and_then(|(count, size)| count.trim().parse::<u64>().ok()?.checked_mul(size))
        .ok_or_else(|| {
            format!("'{text}' is not a size: write a whole number, or one with KiB, MiB or GiB, as in 256MiB")
        })
}

/// The bytes of a file, or of standard input when it is `-`; at most `limit`.
///
/// # Errors
/// When it cannot be read or is longer.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::local(format!("cannot read {}: {error}", path.display())))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::local(format!("{} is longer than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

/// Writes a file that only its owner may read, or standard output when it is `-`.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    if path == Path::new("-") {
        return crate::output::write_bytes(bytes);
    }
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Failure::local(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use claviger_core::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn durations_are_read_as_gcloud_spells_them() {
        for (text, seconds) in [
            ("90s", 90),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("4w", 2_419_200),
            ("P30D", 2_592_000),
            ("pt24h", 86_400),
        ] {
            assert_eq!(duration(text).unwrap().seconds, seconds, "{text}");
        }
        assert_eq!(duration("250ms").unwrap().nanos, 250_000_000);
        for text in ["", "P", "30", "d", "-1d", "p1x", "99999999999999999999w"] {
            assert!(duration(text).unwrap_err().contains("30d"), "{text}");
        }
    }

    #[test]
    fn times_are_absolute_or_from_now() {
        let clock = ManualClock::at(Timestamp(1_700_000_000_000_000));
        let at = |text: &str| moment_from(text, &clock).map(|moment| moment.seconds);
        assert_eq!(at("2027-01-31T08:00:00Z"), Ok(1_801_382_400));
        assert_eq!(at("2027-01-31"), Ok(1_801_353_600));
        assert_eq!(at("+30d"), Ok(1_700_000_000 + 2_592_000));
        assert_eq!(at("+p1d"), Ok(1_700_000_000 + 86_400));
        for text in ["", "tomorrow", "+", "2027-13-01"] {
            assert!(at(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_and_sizes_are_read_or_refused_with_an_example() {
        assert_eq!(pair("team=birds").unwrap(), ("team".into(), "birds".into()));
        assert_eq!(pair("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(pair("=x").is_err() && pair("x").is_err());
        assert_eq!(bytes("256MiB").unwrap(), 256 << 20);
        assert_eq!(bytes("17").unwrap(), 17);
        assert!(bytes("256MB").unwrap_err().contains("256MiB"));
    }

    #[test]
    fn a_file_over_the_limit_is_refused_and_one_written_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain");
        write_file(&path, b"12345").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_file(&path, 5).unwrap(), b"12345");
        assert!(read_file(&path, 4).unwrap_err().text().contains("longer than 4 bytes"));
    }
}
