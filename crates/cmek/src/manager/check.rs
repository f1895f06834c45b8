//! Asking the KMS about scopes, and writing down what came of it.
//!
//! Invariants: what the KMS answers is in force in memory before anything is written. A wrapped key
//! replaces another only when it is durable. One key's change asks about one scope of each version
//! first; a refusal then locks all scopes under it at once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_core::{Error, ErrorKind, Result, Timestamp};
use claviger_crypto::{SecretBytes, SecretKey};
use claviger_sealed::RecordBatch;
use claviger_sealed::scope::{KeyId, ScopeId, ScopeKey};
use futures::future::join_all;

use super::Manager;
use crate::answer;
use crate::lifecycle::{KeyState, Moment, Reason};
use crate::record::{Generation, record_key, seen_key, wrapping_aad};
use crate::scope::{Answer, Probe, Scope, mismatch};

/// Times of last successes in one write.
const SEEN_PER_BATCH: usize = 1024;

/// Times of last successes that the records lack.
#[derive(Default)]
pub(super) struct Seen {
    times: Mutex<SeenTimes>,
    flushing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct SeenTimes {
    of: HashMap<ScopeId, Timestamp>,
    /// When they are to be written, by the process's time.
    due: Option<Duration>,
}

impl Seen {
    /// Notes a success, to be written at `due` unless something is to be written earlier.
    fn note(&self, id: &ScopeId, at: Timestamp, due: Duration) {
        let mut times = self.lock();
        times.of.insert(id.clone(), at);
        times.due.get_or_insert(due);
    }

    /// When something is to be written.
    pub(super) fn due(&self) -> Option<Duration> {
        self.lock().due
    }

    /// Whether something is to be written by `now`; then it is no longer due.
    pub(super) fn take_due(&self, now: Duration) -> bool {
        self.lock().due.take_if(|due| *due <= now).is_some()
    }

    /// Forgets a scope; nothing is written while the answer is held.
    pub(super) async fn forget(&self, id: &ScopeId) -> tokio::sync::MutexGuard<'_, ()> {
        let flushing = self.flushing.lock().await;
        self.lock().of.remove(id);
        flushing
    }

    fn lock(&self) -> MutexGuard<'_, SeenTimes> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Manager {
    /// Asks about all loaded scopes, some at a time.
    pub async fn check_all(&self) {
        let checks = self.loaded().into_iter().map(|scope| self.check_in_turn(scope));
        join_all(checks.collect::<Vec<_>>()).await;
    }

    /// Asks about the loaded scopes that the KMS was silent about, some at a time.
    pub(super) async fn check_silent(&self) {
        let silent = |scope: &Arc<Scope>| matches!(scope.state(), KeyState::Unreachable { .. });
        let checks = self.loaded().into_iter().filter(silent).map(|scope| self.check_in_turn(scope));
        join_all(checks.collect::<Vec<_>>()).await;
    }

    /// Asks about a scope unless that was done since the process's start.
    pub(super) async fn first_check(&self, scope: &Arc<Scope>) {
        scope.first.get_or_init(|| self.check(scope)).await;
    }

    /// Asks about a scope once there is room for another question.
    pub(super) async fn check_in_turn(&self, scope: Arc<Scope>) {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        self.check(&scope).await;
    }

    async fn check(&self, scope: &Arc<Scope>) {
        let asked = scope.ask();
        let probe = self.probe(scope).await;
        let rotated = probe.rotated.clone();
        self.take(scope, asked, probe);
        self.settle(scope, rotated).await;
    }

    /// Asks about the scopes under a key that may have changed.
    pub(super) async fn check_key(&self, key: &CryptoKeyName) {
        let mut groups: HashMap<_, Vec<_>> = HashMap::new();
        for scope in self.loaded().into_iter().filter(|scope| scope.key() == key) {
            let group = (scope.caller().principal.clone(), scope.status().key_version);
            groups.entry(group).or_default().push(scope);
        }
        let groups = groups.into_iter().map(|((_, version), scopes)| self.check_group(version, scopes));
        join_all(groups.collect::<Vec<_>>()).await;
    }

    /// Asks about scopes whose current keys are wrapped under the same version, for the same caller.
    async fn check_group(&self, version: CryptoKeyVersionName, scopes: Vec<Arc<Scope>>) {
        // All numbers are drawn before the question is asked, so that its answer is news to each.
        let mut group: Vec<(Arc<Scope>, u64)> = scopes
            .into_iter()
            .map(|scope| {
                let asked = scope.ask();
                (scope, asked)
            })
            .collect();
        let Some((first, asked)) = group.pop() else { return };
        let probe = self.probe(&first).await;
        let (began, rotated) = (probe.began, probe.rotated.clone());
        let refusal = shared_refusal(&probe, &first);
        self.take(&first, asked, probe);
        if let Some((refusal, error)) = &refusal {
            for (scope, asked) in &group {
                let (generations, _) = scope.generations();
                let under = generations.iter().filter(|generation| generation.version == version);
                let refused = |id| (id, Answer::Refused(refusal.clone(), error.clone()));
                let answers = under.map(|generation| refused(generation.id)).collect();
                self.take(scope, *asked, Probe { began, answers, rotated: None, cache_for: None });
            }
        }
        let refused = refusal.is_some();
        let others = group.into_iter().map(|(scope, _)| async move {
            if refused {
                self.settle(&scope, None).await;
            } else {
                self.check_in_turn(scope).await;
            }
        });
        let others = join_all(others.collect::<Vec<_>>());
        tokio::join!(self.settle(&first, rotated), others);
    }

    /// Unwraps a scope's keys: one for each version that wraps them, and those not in memory.
    async fn probe(&self, scope: &Scope) -> Probe {
        let began = Moment::now(self.clock.as_ref());
        let (generations, current) = scope.generations();
        let mut in_order: Vec<&Generation> = generations.iter().collect();
        in_order.sort_by_key(|generation| generation.id != current);
        let mut verdicts: HashMap<&CryptoKeyVersionName, Option<Answer>> = HashMap::new();
        let mut answers = Vec::with_capacity(in_order.len());
        let (mut rotated, mut cache_for) = (false, None);
        for generation in in_order {
            match verdicts.get(&generation.version) {
                Some(None) if scope.held(generation.id).is_some() => continue,
                Some(Some(Answer::Refused(refusal, error))) => {
                    answers.push((generation.id, Answer::Refused(refusal.clone(), error.clone())));
                    continue;
                }
                Some(Some(Answer::Silent(error))) => {
                    answers.push((generation.id, Answer::Silent(error.clone())));
                    continue;
                }
                _ => {}
            }
            let answer = self.unwrap(scope, generation, (&mut rotated, &mut cache_for)).await;
            let verdict = match &answer {
                Answer::Key(_) => None,
                Answer::Refused(refusal, error) => Some(Answer::Refused(refusal.clone(), error.clone())),
                Answer::Silent(error) => Some(Answer::Silent(error.clone())),
            };
            verdicts.insert(&generation.version, verdict);
            answers.push((generation.id, answer));
        }
        Probe { began, answers, rotated: rotated.then_some(generations), cache_for }
    }

    async fn unwrap(
        &self,
        scope: &Scope,
        generation: &Generation,
        (rotated, cache_for): (&mut bool, &mut Option<Duration>),
    ) -> Answer {
        let aad = wrapping_aad(scope.id(), generation.id);
        let call = self.kms.decrypt(scope.caller(), scope.key(), &generation.wrapped, &aad);
        match self.answer_in_time(call).await {
            Ok(decrypted) => {
                *rotated |= !decrypted.used_primary;
                // The shortest of all keys holds.
                *cache_for = decrypted.cache_for.into_iter().chain(*cache_for).min();
                match SecretKey::from_slice(decrypted.plaintext.expose()) {
                    Ok(secret) => Answer::Key(Arc::new(ScopeKey::new(generation.id, secret))),
                    Err(_) => mismatch("The KMS gave something that is not a key."),
                }
            }
            Err(error) => match answer::refusal(&error) {
                Some(refusal) => Answer::Refused(refusal, error),
                None => Answer::Silent(error),
            },
        }
    }

    /// What a call gives, or silence when it takes too long.
    pub(super) async fn answer_in_time<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        tokio::select! {
            biased;
            answer = call => answer,
            () = self.clock.sleep(self.config.call_timeout) => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!("The KMS did not answer within {:?}.", self.config.call_timeout),
            )),
        }
    }

    /// Puts an answer in force.
    fn take(&self, scope: &Arc<Scope>, asked: u64, probe: Probe) {
        let now = Moment::now(self.clock.as_ref());
        if let Some(success) = scope.apply(asked, probe, now, self.config.grace) {
            self.seen.note(scope.id(), success, now.elapsed + self.config.check_interval / 2);
        }
        self.plan_next(scope);
    }

    /// Writes what an answer changed: keys wrapped anew after a rotation, the state.
    pub(super) async fn settle(&self, scope: &Arc<Scope>, rotated: Option<Arc<Vec<Generation>>>) {
        if let Some(before) = rotated
            && let Err(error) = self.rewrap(scope, &before).await
        {
            // The old wrapping still opens; the next check tries again.
            tracing::info!(scope = %scope.id(), %error, "keys could not be wrapped under the primary version");
        }
        if !scope.is_unsaved() {
            return;
        }
        let _writing = scope.writing.lock().await;
        // Again when the state went on, or back, while it was written: whoever changed it may have seen nothing to write.
        while scope.is_unsaved() {
            let record = scope.record();
            match self.records.put(&record_key(scope.id()), &record).await {
                Ok(()) => scope.saved(record.state),
                // The state is in force and the next check writes it.
                Err(error) => {
                    tracing::error!(scope = %scope.id(), %error, "a scope's state could not be written");
                    return;
                }
            }
        }
    }

    /// Wraps all keys of a scope under the primary version: one write, and no file is touched.
    async fn rewrap(&self, scope: &Scope, before: &Arc<Vec<Generation>>) -> Result<()> {
        let _writing = scope.writing.lock().await;
        if scope.guard().is_err() || !Arc::ptr_eq(before, &scope.generations().0) {
            return Ok(());
        }
        let mut generations = before.as_ref().clone();
        for generation in &mut generations {
            // One that cannot be unwrapped now keeps its wrapping.
            let Some(key) = scope.held(generation.id) else { continue };
            let (wrapped, version) = self.wrap(scope, generation.id, key.secret()).await?;
            generation.wrapped = wrapped;
            generation.version = version;
        }
        let mut record = scope.record();
        record.generations.clone_from(&generations);
        self.records.put(&record_key(scope.id()), &record).await?;
        scope.saved(record.state);
        scope.rewrapped(generations);
        tracing::info!(scope = %scope.id(), "keys are wrapped under the primary version");
        Ok(())
    }

    pub(super) async fn wrap(
        &self,
        scope: &Scope,
        id: KeyId,
        secret: &SecretKey,
    ) -> Result<(Vec<u8>, CryptoKeyVersionName)> {
        let plaintext = SecretBytes::new(secret.expose().to_vec());
        let aad = wrapping_aad(scope.id(), id);
        let call = self.kms.encrypt(scope.caller(), scope.key(), &plaintext, &aad);
        let encrypted = self.answer_in_time(call).await?;
        Ok((encrypted.ciphertext, encrypted.version))
    }

    /// Writes the times of last successes that the records lack, together.
    pub(super) async fn flush_seen(&self) -> Result<()> {
        let _flushing = self.seen.flushing.lock().await;
        let times: Vec<(ScopeId, Timestamp)> = {
            let mut times = self.seen.lock();
            times.due = None;
            let scopes = self.scopes();
            let lives = |id: &ScopeId| {
                scopes.get(id).and_then(|cell| cell.get()).is_some_and(|scope| !scope.is_deleted())
            };
            times.of.drain().filter(|(id, _)| lives(id)).collect()
        };
        for some in times.chunks(SEEN_PER_BATCH) {
            let mut batch = RecordBatch::new();
            for (id, at) in some {
                batch = batch.put(&seen_key(id), at)?;
            }
            self.records.write(batch).await?;
        }
        Ok(())
    }
}

/// The refusal of a scope's current key, when it holds for all scopes under the same version.
fn shared_refusal(probe: &Probe, scope: &Scope) -> Option<(crate::lifecycle::Refusal, Error)> {
    let (_, current) = scope.generations();
    probe.answers.iter().find_map(|(id, answer)| match answer {
        Answer::Refused(refusal, error) if *id == current => {
            let shared = matches!(
                refusal.reason,
                Reason::Disabled
                    | Reason::DestroyScheduled
                    | Reason::Destroyed
                    | Reason::PermissionDenied
                    | Reason::NotFound
            );
            shared.then(|| (refusal.clone(), error.clone()))
        }
        _ => None,
    })
}
