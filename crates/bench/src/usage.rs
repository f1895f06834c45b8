//! What a server uses: CPU seconds and peak memory, read from `/proc`.
//!
//! Invariant: figures are of a process and all its descendants; a process that has ended keeps no figures,
//! so only servers that start no short-lived children are measured rightly.

use std::fs;
use std::time::{Duration, Instant};

/// Below this share of a core a server is at rest.
const REST_SHARE: f64 = 0.03;
/// How long it is watched for that, at a time.
const REST_WINDOW: Duration = Duration::from_millis(300);
/// How long rest is waited for.
const REST_WITHIN: Duration = Duration::from_secs(30);

/// The processes of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    root: u32,
}

impl Tree {
    /// The process and all that descend from it.
    pub(crate) fn of(root: u32) -> Self {
        Self { root }
    }

    fn pids(self) -> Vec<u32> {
        let mut pids = vec![self.root];
        let mut at = 0;
        while let Some(&pid) = pids.get(at) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            at += 1;
        }
        pids
    }

    /// User and system time so far.
    pub(crate) fn cpu(self) -> Duration {
        self.pids().into_iter().filter_map(cpu_of).sum()
    }

    /// The sum of the processes' largest resident sets since [`Self::forget_peak`], in bytes.
    pub(crate) fn peak_bytes(self) -> u64 {
        self.pids().into_iter().filter_map(|pid| status_kib(pid, "VmHWM:")).sum::<u64>() * 1024
    }

    /// Starts the peak anew where the kernel allows it.
    pub(crate) fn forget_peak(self) {
        for pid in self.pids() {
            // Not allowed for other users' processes; then the peak counts from the process's start.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }
}

fn cpu_of(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and parentheses; the fields start after the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_micros((user + system) * 1_000_000 / per_second))
}

fn status_kib(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Waits until the server has used next to no CPU for a while.
pub(crate) async fn rest(tree: Tree, still_for: Duration) {
    let started = Instant::now();
    let mut still_since = started;
    let mut before = tree.cpu();
    while started.elapsed() < REST_WITHIN && still_since.elapsed() < still_for {
        tokio::time::sleep(REST_WINDOW).await;
        let now = tree.cpu();
        if now.saturating_sub(before).as_secs_f64() > REST_WINDOW.as_secs_f64() * REST_SHARE {
            still_since = Instant::now();
        }
        before = now;
    }
}

/// CPU time of this process so far, all threads, to the nanosecond.
pub(crate) fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_shows_cpu_time_and_memory() {
        let tree = Tree::of(std::process::id());
        let (before, own_before) = (tree.cpu(), own_cpu());
        let mut sum = 0u64;
        while own_cpu() - own_before < Duration::from_millis(60) {
            sum = crate::random::mix(sum);
        }
        assert!(tree.cpu() - before >= Duration::from_millis(20), "{sum}");
        assert!(tree.peak_bytes() > 1 << 20);
    }
}
