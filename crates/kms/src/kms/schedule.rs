//! What happens by itself: due rotations, due destructions, and the ends of import jobs.
//!
//! Invariant: one timer for all keys and jobs, set for what comes due first. A key whose primary version is not
//! enabled is not rotated: that would give back the access that its owner took away. However late it is, one
//! rotation is made, not one for each that was missed.

use super::*;
use crate::agents::KMS_AGENT;
use crate::index::What;
use crate::model::{ImportJobState, NewVersion, VersionState};

/// The longest wait at a stretch: the time of day may jump, and the wait does not see that.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// The wait after something that was due could not be done.
const RETRY: Duration = Duration::from_secs(10);

impl Kms {
    /// Does what is due and makes the key pairs of import jobs, for as long as it is polled. The server runs it beside
    /// the service.
    pub async fn run(self: Arc<Self>) {
        // Apart, because a key pair takes seconds, and nothing that is due shall wait for it.
        tokio::join!(self.run_schedule(), self.run_generation());
    }

    async fn run_schedule(&self) {
        loop {
            let wait = match self.tick().await {
                Ok(next) => next.map(|at| at.since(self.inner.clock.now()).min(MAX_WAIT)),
                Err(error) => {
                    tracing::error!(%error, "a due change of a key or import job failed; it is tried again");
                    Some(RETRY)
                }
            };
            let changed = self.inner.wake.notified();
            match wait {
                Some(wait) => {
                    let slept = self.inner.clock.sleep(wait);
                    tokio::select! { () = slept => {}, () = changed => {} }
                }
                None => changed.await,
            }
        }
    }

    async fn run_generation(&self) {
        loop {
            match self.generate_import_keys().await {
                Ok(()) => self.inner.generate.notified().await,
                Err(error) => {
                    tracing::error!(%error, "the key pair of an import job could not be made; it is tried again");
                    self.inner.clock.sleep(RETRY).await;
                }
            }
        }
    }

    /// Does what is due now and gives the time of what comes due next.
    ///
    /// # Errors
    /// The first failure, after all has been tried.
    pub async fn tick(&self) -> Result<Option<Timestamp>> {
        let due = {
            let index = self.inner.index();
            index.due(self.inner.clock.now())
        };
        let mut failed = None;
        for due in due {
            let done = match due.what {
                What::Destroy(key, number) => self.destroy_due(key, number).await,
                What::Rotate(key) => self.rotate_due(key).await,
                What::Expire(job) => self.expire_due(job).await,
            };
            failed = failed.or(done.err());
        }
        let next = self.inner.index().first_due().map(|due| due.at);
        failed.map_or(Ok(next), Err)
    }

    async fn destroy_due(&self, key: CryptoKeyName, number: u64) -> Result<()> {
        let caller = Caller::new(KMS_AGENT).with("reason", "destroy_time has come");
        let name = key.version_name(number);
        // Asked before: else a token that is away would fill the audit log with what is tried again and again.
        self.hsm_ready(&key).await?;
        self.change(Call::new(&caller, "DestroyCryptoKeyVersion", &name), move |index, now| {
            let entry = index.key(&key)?;
            let Some(version) = entry.versions.get(&number).map(|entry| &entry.version) else {
                return Ok(Plan::reply(()));
            };
            let is_due = version.state == VersionState::DestroyScheduled
                && version.destroy_time.is_some_and(|at| at <= now);
            if !is_due {
                return Ok(Plan::reply(()));
            }
            let plan = Plan::key(versions::destroyed(entry, number, now), vec![number], ());
            Ok(Plan { shred: Some(Shred::of(version)), version: Some(name), ..plan })
        })
        .await
    }

    async fn expire_due(&self, name: ImportJobName) -> Result<()> {
        let caller = Caller::new(KMS_AGENT).with("reason", "expire_time has come");
        self.change(Call::new(&caller, "ExpireImportJob", &name), move |index, now| {
            let entry = index.job(&name)?;
            if entry.job.state == ImportJobState::Expired || entry.job.expire_time > now {
                return Ok(Plan::reply(()));
            }
            Ok(Plan {
                shred: Some(Shred::ours(entry.job.material)),
                ..Plan::job(jobs::expired(entry, now), ())
            })
        })
        .await
    }

    async fn rotate_due(&self, key: CryptoKeyName) -> Result<()> {
        let caller = Caller::new(KMS_AGENT).with("reason", "next_rotation_time has come");
        self.hsm_ready(&key).await?;
        self.change(Call::new(&caller, "CreateCryptoKeyVersion", &key), move |index, now| {
            let mut entry = KeyEntry::clone(index.key(&key)?);
            let record = &mut entry.record.key;
            let Some(at) = record.next_rotation_time.filter(|at| *at <= now) else {
                return Ok(Plan::reply(()));
            };
            record.next_rotation_time = record.rotation_period.map(|period| next_after(at, period, now));
            let primary = record.primary.and_then(|number| entry.versions.get(&number));
            let refused = match primary.map(|primary| &primary.version) {
                Some(version) if version.state == VersionState::Enabled => None,
                Some(version) => Some(texts::not_enabled(&version.name, version.state)),
                None => Some(texts::no_primary(&key)),
            };
            if let Some(error) = refused {
                tracing::warn!(%error, %key, "the rotation of a key is skipped");
                let plan = Plan::key(entry, Vec::new(), ());
                return Ok(Plan { announce: Vec::new(), refused: Some(error), ..plan });
            }
            let new = NewVersion { state: VersionState::Enabled, external: None };
            Ok(versions::with_new_version(entry, true, new, now)?.replying(()))
        })
        .await
    }
}

/// The first time after `now` that is a whole number of periods after `at`.
fn next_after(at: Timestamp, period: Duration, now: Timestamp) -> Timestamp {
    let period_micros = period.as_micros().max(1);
    let missed = now.since(at).as_micros() / period_micros;
    let ahead = (missed + 1).saturating_mul(period_micros);
    Timestamp(at.micros().saturating_add(i64::try_from(ahead).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_rotations_are_skipped_and_the_schedule_is_kept() {
        let period = Duration::from_micros(100);
        for (at, now, next) in [(10, 10, 110), (10, 109, 110), (10, 110, 210), (10, 1_000, 1_010)] {
            assert_eq!(next_after(Timestamp(at), period, Timestamp(now)), Timestamp(next), "{at} {now}");
        }
    }
}
