//! Reading the counts that `cargo test` and `pytest` print.
//!
//! Invariant: a run that failed without a failed test (a build error, a crash) counts as one failure.

use super::Tally;
use crate::process::Finished;

/// Ignored tests that say this in their reason are run by a suite of their own and not counted as skipped.
const OWN_SUITE: &str = "cargo xtask test";

/// Lines that are shown of what failed tests printed.
const MOST_COMPLAINTS: usize = 120;

/// The tally of a `cargo test` run.
pub(super) fn cargo_test(done: &Finished) -> Tally {
    let mut tally = Tally::default();
    for line in done.text.lines() {
        if let Some(rest) = line.strip_prefix("test result: ") {
            tally.passed += number_before(rest, " passed");
            tally.failed += number_before(rest, " failed");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            tally.broken.push(name.to_owned());
        } else if let Some((name, reason)) = ignored(line)
            && !reason.contains(OWN_SUITE)
        {
            tally.skipped_count += 1;
            let reason = if reason.is_empty() { "ignored, without a reason" } else { reason };
            tally.skipped.push(format!("{name}: {reason}"));
        }
    }
    let mut tally = close(tally, done);
    if let Some(said) = complaints(&done.text).filter(|_| tally.failed > 0) {
        tally.words = said;
    }
    tally
}

/// The tally of a `pytest -q -rsx` run.
pub(super) fn pytest(done: &Finished) -> Tally {
    let mut tally = Tally::default();
    const COUNTED: [&str; 5] = [" passed", " failed", " error", " skipped", "no tests ran"];
    let is_summary = |line: &&str| line.contains(" in ");
    let summary = done
        .text
        .lines()
        .rev()
        .filter(is_summary)
        .find(|line| COUNTED.iter().any(|word| line.contains(word)));
    if let Some(line) = summary {
        tally.passed = number_before(line, " passed");
        tally.failed = number_before(line, " failed") + number_before(line, " error");
        // Known to fail is no pass: it is named with its reason, and counts as what was not covered.
        tally.skipped_count = number_before(line, " skipped") + number_before(line, " xfailed");
    }
    for line in done.text.lines() {
        if let Some((_, reason)) = line.strip_prefix("SKIPPED ").and_then(|rest| rest.split_once(": ")) {
            tally.skipped.push(reason.to_owned());
        } else if let Some(case) = line.strip_prefix("XFAIL ") {
            tally.expected.push(case.rsplit_once("::").map_or(case, |(_, name)| name).to_owned());
        } else if let Some(case) = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR ")) {
            tally.broken.push(case.to_owned());
        }
    }
    close(tally, done)
}

/// The tally of the test of Beam's coders: each vector counts.
pub(super) fn vectors(done: &Finished) -> Tally {
    let passed = done.text.lines().map(|line| number_before(line, " cases passed")).max().unwrap_or(0);
    close(Tally { passed, failed: u64::from(passed == 0), ..Tally::default() }, done)
}

fn close(mut tally: Tally, done: &Finished) -> Tally {
    if !done.success && tally.failed == 0 {
        tally.failed = 1;
    }
    if tally.failed > 0 {
        tally.words = done.tail(60);
    }
    tally
}

/// What the failed tests of `cargo test` printed: its own last lines are of the test binaries that ran last.
fn complaints(text: &str) -> Option<String> {
    let mut kept = Vec::new();
    let mut within = false;
    for line in text.lines() {
        if line.starts_with("---- ") && line.ends_with(" ----") {
            within = true;
        } else if line == "failures:" || line.starts_with("test result: ") {
            within = false;
        }
        if (within || line.starts_with("error")) && kept.len() < MOST_COMPLAINTS {
            kept.push(line);
        }
    }
    (!kept.is_empty()).then(|| kept.join("\n"))
}

fn ignored(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    Some((name, rest.trim_start_matches([',', ' '])))
}

/// The whole number right before the first `word`, or 0.
fn number_before(line: &str, word: &str) -> u64 {
    line.find(word)
        .and_then(|at| line.get(..at))
        .and_then(|before| before.rsplit(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(success: bool, text: &str) -> Finished {
        Finished { success, text: text.to_owned() }
    }

    #[test]
    fn the_results_of_all_test_binaries_are_added_up() {
        let text = "test a ... ok\ntest b ... ignored, needs a token\ntest c ... ignored, run by `cargo xtask test descriptors`\n\
            test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let tally = cargo_test(&done(false, text));
        assert_eq!((tally.passed, tally.failed, tally.skipped_count), (15, 2, 1));
        assert_eq!(tally.skipped, ["b: needs a token"]);
    }

    #[test]
    fn a_test_that_failed_is_named_with_its_words_whatever_ran_after_it() {
        let text = "test a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\nthread 'a::b' panicked at x.rs:1:1:\n\
            left is not right\n\nfailures:\n    a::b\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n\
            running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored\n";
        let tally = cargo_test(&done(false, text));
        assert_eq!(tally.broken, ["a::b"]);
        assert!(tally.words.contains("left is not right"), "{}", tally.words);
        assert!(!tally.words.contains("running 0 tests"), "{}", tally.words);
        let tally = pytest(&done(false, "FAILED a.py::test_x - AssertionError\n1 failed in 3.21s\n"));
        assert_eq!(tally.broken, ["a.py::test_x - AssertionError"]);
    }

    #[test]
    fn a_build_that_fails_is_one_failure() {
        assert_eq!(cargo_test(&done(false, "error[E0425]: cannot find value")).failed, 1);
    }

    #[test]
    fn a_test_of_coders_that_read_no_vectors_failed() {
        let text = "standard coders: 227 cases passed; coders not decoded: {}\ntest result: ok. 1 passed";
        let tally = vectors(&done(true, text));
        assert_eq!((tally.passed, tally.failed), (227, 0));
        assert_eq!(vectors(&done(true, "test result: ok. 0 passed")).failed, 1);
    }

    #[test]
    fn pytests_summary_gives_the_counts_and_the_reasons() {
        let text = "....s.\nSKIPPED [1] test_kms.py:10: no HSM\n5 passed, 1 skipped in 3.21s\n";
        let tally = pytest(&done(true, text));
        assert_eq!((tally.passed, tally.failed, tally.skipped_count), (5, 0, 1));
        assert_eq!(tally.skipped, ["no HSM"]);
        let text = "XFAIL a/b.py::C::test_x - needs streaming\n5 passed, 1 xfailed in 3.21s\n";
        let tally = pytest(&done(true, text));
        assert_eq!(
            (tally.passed, tally.skipped_count, tally.expected),
            (5, 1, vec!["test_x - needs streaming".to_owned()])
        );
        let tally = pytest(&done(false, "1 failed, 10 passed, 2 errors in 61.40s (0:01:01)\n"));
        assert_eq!((tally.passed, tally.failed), (10, 3), "a summary with a clock at its end");
    }
}
