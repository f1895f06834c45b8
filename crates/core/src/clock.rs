//! Time, injected: services ask a [`Clock`], so that an hour of grace takes milliseconds in a test.
//!
//! Invariant: this file and the engine's own clock are the only places that read the system's time.

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The microseconds since the Unix epoch.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down, and the nanoseconds past them.
    #[must_use]
    pub fn seconds_and_nanos(self) -> (i64, i32) {
        let nanos = self.0.rem_euclid(1_000_000) * 1_000;
        (self.0.div_euclid(1_000_000), i32::try_from(nanos).unwrap_or(0))
    }

    /// The time `duration` later, at most the latest that fits.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How much later this is than `earlier`; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A source of time. `now` may jump with the machine's clock; `elapsed` never goes back.
#[async_trait]
pub trait Clock: Debug + Send + Sync {
    /// The time of day.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment of this process; monotonic.
    fn elapsed(&self) -> Duration;
    /// Returns once `duration` has passed on this clock.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose [`Clock::elapsed`] starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock that others are given")]
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that others are given")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A clock that moves only when a test says so. Sleepers wake when it passes their time.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<(Timestamp, Duration)>,
    moved: watch::Sender<Duration>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self { now: Mutex::new((start, Duration::ZERO)), moved: watch::Sender::new(Duration::ZERO) }
    }

    /// Moves the time of day and the monotonic time on, and wakes whoever slept that long.
    pub fn advance(&self, duration: Duration) {
        let elapsed = {
            let mut now = self.lock();
            now.0 = now.0.plus(duration);
            now.1 += duration;
            now.1
        };
        self.moved.send_replace(elapsed);
    }

    /// Sets the time of day alone, as a wrong or corrected machine clock does.
    pub fn jump_to(&self, time: Timestamp) {
        self.lock().0 = time;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Timestamp, Duration)> {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().0
    }

    fn elapsed(&self) -> Duration {
        self.lock().1
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.elapsed() + duration;
        let mut moved = self.moved.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = moved.wait_for(|elapsed| *elapsed >= until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_manual_clock_passes_its_time() {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(3600)).await;
                clock.now()
            }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(3599));
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        assert_eq!(sleeper.await.unwrap(), Timestamp(1_000_000 + 3_600_000_000));
    }

    #[test]
    fn a_jump_of_the_time_of_day_leaves_elapsed_time_alone() {
        let clock = ManualClock::at(Timestamp(5));
        clock.jump_to(Timestamp(-7));
        assert_eq!((clock.now(), clock.elapsed()), (Timestamp(-7), Duration::ZERO));
        assert_eq!(clock.now().seconds_and_nanos(), (-1, 999_993_000));
    }
}
