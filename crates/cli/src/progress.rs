//! Progress of long work, on standard error, when that is a terminal.
//!
//! Invariant: nothing is drawn into a pipe or a file, or when the user asked for quiet.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner turns while nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// A sign that something is under way; it goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Work of unknown length.
    pub(crate) fn spinner(quiet: bool, doing: impl Into<String>) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(quiet));
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(doing.into());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Work on a number of bytes.
    pub(crate) fn bytes(quiet: bool, total: u64, doing: impl Into<String>) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), target(quiet));
        let template = "{msg} [{wide_bar}] {bytes}/{total_bytes}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(doing.into());
        Self(bar)
    }

    /// Work on a number of bytes that is not known from the start; [`Progress::expect`] adds to it.
    pub(crate) fn growing(quiet: bool, doing: impl Into<String>) -> Self {
        Self::bytes(quiet, 0, doing)
    }

    /// Work in steps; [`Progress::length`] says how many there are.
    pub(crate) fn steps(quiet: bool, doing: impl Into<String>) -> Self {
        // Not zero: that would look as if all were done.
        let bar = ProgressBar::with_draw_target(Some(1), target(quiet));
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {msg} [{wide_bar}] {pos}/{len} ({elapsed})")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(doing.into());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// There is more to do.
    pub(crate) fn expect(&self, more: u64) {
        self.0.inc_length(more);
    }

    /// There is so much to do in all.
    pub(crate) fn length(&self, length: u64) {
        self.0.set_length(length);
    }

    /// More is done.
    pub(crate) fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// Takes it away: what follows are results.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }

    /// Writes to the terminal without the bar in between.
    pub(crate) fn aside<R>(&self, write: impl FnOnce() -> R) -> R {
        self.0.suspend(write)
    }

    /// What is being done now.
    pub(crate) fn message(&self, doing: impl Into<String>) {
        self.0.set_message(doing.into());
    }

    /// How far it has come.
    pub(crate) fn position(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn target(quiet: bool) -> ProgressDrawTarget {
    // Hides itself when standard error is no terminal.
    if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}
