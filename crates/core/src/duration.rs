//! Durations as flags and configuration files spell them: `300ms`, `5m`, `30d`.

use std::time::Duration;

use crate::{Error, Result};

/// Units and their length in milliseconds, longest suffix first among those that share an end.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a whole number followed by `ms`, `s`, `m`, `h` or `d`; `0` needs no unit.
///
/// # Errors
/// `InvalidArgument` that repeats the text when it is not such a duration or does not fit.
pub fn parse(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::invalid(format!(
            "'{text}' is not a duration: write a whole number and ms, s, m, h or d, as in 300ms, 5m or 30d"
        ))
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(*millis).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_of_the_manual_are_read_and_others_are_refused() {
        for (text, millis) in [
            ("300ms", 300),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
            ("0", 0),
            ("7s", 7_000),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in
            ["", "5", "m", "-5m", "1.5h", "5 m", "5w", "99999999999999999999d", "18446744073709551615d"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
