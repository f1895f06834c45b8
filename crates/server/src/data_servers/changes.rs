//! The latest changes of keys and policies, numbered, so that whoever lost their stream can go on where it broke.
//!
//! Invariant: a watcher gets every change after its position, or is told that some may be missing. Nothing here is
//! durable: a position of a former process is not known.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_core::names::CryptoKeyName;
use claviger_kms::{KeyChange, KeyService as _, Kms};
use claviger_orgpolicy::Policies;
use claviger_proto::claviger::kms::v1::WatchKeysResponse;
use futures::Stream;
use futures::stream::unfold;
use tokio::sync::{broadcast, watch};

/// Changes that are kept for watchers that were away.
const KEPT: usize = 4096;
/// Changes in one message.
const PER_MESSAGE: usize = 256;

#[derive(Clone, Debug)]
enum Change {
    Key(CryptoKeyName),
    Policies,
}

#[derive(Debug, Default)]
struct Kept {
    /// The number of the first change that is kept.
    first: u64,
    changes: VecDeque<Change>,
}

impl Kept {
    fn next(&self) -> u64 {
        self.first + self.changes.len() as u64
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct News {
    next: u64,
    over: bool,
}

/// See the file's text.
#[derive(Debug)]
pub(crate) struct ChangeLog {
    /// What this process's positions begin with.
    epoch: String,
    kept: Mutex<Kept>,
    news: watch::Sender<News>,
}

/// What [`ChangeLog::run`] follows; subscribed before anything can change.
#[derive(Debug)]
pub(crate) struct Sources {
    keys: broadcast::Receiver<KeyChange>,
    policies: watch::Receiver<()>,
}

impl ChangeLog {
    /// A log of the changes from now on.
    pub(crate) fn new(kms: &Kms, policies: &Policies) -> (Arc<Self>, Sources) {
        let sources = Sources { keys: kms.changes(), policies: policies.changes() };
        (Arc::new(Self::empty(format!("{:016x}", rand::random::<u64>()))), sources)
    }

    fn empty(epoch: String) -> Self {
        Self { epoch, kept: Mutex::default(), news: watch::Sender::default() }
    }

    /// Takes up what changes, until the KMS is gone.
    pub(crate) async fn run(self: Arc<Self>, mut from: Sources) {
        loop {
            tokio::select! {
                change = from.keys.recv() => match change {
                    Ok(KeyChange::Of(key)) => self.push(Change::Key(key)),
                    Ok(KeyChange::OfAny) | Err(broadcast::error::RecvError::Lagged(_)) => self.forget(),
                    Ok(KeyChange::Reachable) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                changed = from.policies.changed() => match changed {
                    Ok(()) => self.push(Change::Policies),
                    Err(_) => return,
                },
            }
        }
    }

    /// Ends all streams, and those that come.
    pub(crate) fn close(&self) {
        self.news.send_modify(|news| news.over = true);
    }

    /// Tells of all changes after a position, as they happen.
    pub(crate) fn watch(self: &Arc<Self>, position: &str) -> impl Stream<Item = WatchKeysResponse> + use<> {
        let watcher = (self.clone(), self.news.subscribe(), self.parse(position), true);
        unfold(watcher, |(log, mut news, position, first)| async move {
            loop {
                if news.borrow_and_update().over {
                    return None;
                }
                let (message, next) = log.since(position);
                if first || position != Some(next) {
                    return Some((message, (log, news, Some(next), false)));
                }
                news.changed().await.ok()?;
            }
        })
    }

    /// What happened after a position, a part at a time, and the position after that.
    fn since(&self, position: Option<u64>) -> (WatchKeysResponse, u64) {
        let kept = self.lock();
        let known = position.filter(|number| (kept.first..=kept.next()).contains(number));
        let Some(from) = known else {
            let next = kept.next();
            let message = WatchKeysResponse {
                position: self.position(next),
                policies: true,
                missed: true,
                ..Default::default()
            };
            return (message, next);
        };
        let skipped = usize::try_from(from - kept.first).unwrap_or(usize::MAX);
        let (mut keys, mut policies, mut next) = (BTreeSet::new(), false, from);
        for change in kept.changes.iter().skip(skipped).take(PER_MESSAGE) {
            match change {
                Change::Key(key) => drop(keys.insert(key.to_string())),
                Change::Policies => policies = true,
            }
            next += 1;
        }
        let keys = keys.into_iter().collect();
        (WatchKeysResponse { position: self.position(next), keys, policies, missed: false }, next)
    }

    fn push(&self, change: Change) {
        let mut kept = self.lock();
        if kept.changes.len() == KEPT {
            kept.changes.pop_front();
            kept.first += 1;
        }
        kept.changes.push_back(change);
        self.tell(kept);
    }

    /// Makes all positions so far unknown.
    fn forget(&self) {
        let mut kept = self.lock();
        kept.first = kept.next() + 1;
        kept.changes.clear();
        self.tell(kept);
    }

    fn tell(&self, kept: MutexGuard<'_, Kept>) {
        let next = kept.next();
        drop(kept);
        self.news.send_modify(|news| news.next = news.next.max(next));
    }

    fn position(&self, number: u64) -> String {
        format!("{}.{number}", self.epoch)
    }

    fn parse(&self, position: &str) -> Option<u64> {
        position.strip_prefix(&self.epoch)?.strip_prefix('.')?.parse().ok()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    fn log() -> Arc<ChangeLog> {
        Arc::new(ChangeLog::empty("e1".to_owned()))
    }

    fn changed(log: &ChangeLog, id: &str) -> String {
        let key = CryptoKeyName::new("p", "l", "r", id).unwrap();
        log.push(Change::Key(key.clone()));
        key.to_string()
    }

    /// The next message, which is there.
    fn next(stream: &mut (impl Stream<Item = WatchKeysResponse> + Unpin)) -> WatchKeysResponse {
        stream.next().now_or_never().expect("a message is there").expect("the stream goes on")
    }

    #[test]
    fn a_watcher_is_told_at_once_where_it_is_and_then_each_change() {
        let log = log();
        let mut stream = pin!(log.watch(""));
        let first = next(&mut stream);
        assert!(first.missed && first.policies && first.keys.is_empty(), "{first:?}");
        assert!(stream.next().now_or_never().is_none());
        let (a, b) = (changed(&log, "a"), changed(&log, "b"));
        changed(&log, "a");
        assert_eq!(next(&mut stream).keys, [a, b]);
        log.push(Change::Policies);
        let told = next(&mut stream);
        assert!(told.policies && told.keys.is_empty() && !told.missed);
        log.close();
        assert_eq!(stream.next().now_or_never(), Some(None));
    }

    #[test]
    fn who_comes_back_goes_on_where_the_stream_broke() {
        let log = log();
        let position = next(&mut pin!(log.watch(""))).position;
        let key = changed(&log, "a");
        let told = next(&mut pin!(log.watch(&position)));
        assert_eq!((told.missed, told.keys), (false, vec![key]));
        let told = next(&mut pin!(log.watch(&told.position)));
        assert_eq!((told.missed, told.policies, told.keys.len()), (false, false, 0));
    }

    #[test]
    fn positions_that_are_too_old_or_of_another_process_are_not_known() {
        let log = log();
        let position = next(&mut pin!(log.watch(""))).position;
        for _ in 0..=KEPT {
            changed(&log, "a");
        }
        for unknown in [position.as_str(), "e2.0", "e1.x", "e1.99999", "e1", "x"] {
            assert!(next(&mut pin!(log.watch(unknown))).missed, "{unknown}");
        }
        let current = next(&mut pin!(log.watch(""))).position;
        assert!(!next(&mut pin!(log.watch(&current))).missed);
        log.forget();
        assert!(next(&mut pin!(log.watch(&current))).missed);
    }

    #[test]
    fn many_changes_come_in_several_messages_and_none_is_left_out() {
        let log = log();
        let mut stream = pin!(log.watch(""));
        next(&mut stream);
        let all: Vec<_> = (0..1000).map(|number| changed(&log, &format!("k{number:04}"))).collect();
        let mut got = Vec::new();
        while got.len() < all.len() {
            let message = next(&mut stream);
            assert!(message.keys.len() <= PER_MESSAGE && !message.missed);
            got.extend(message.keys);
        }
        assert_eq!(got, all);
    }
}
