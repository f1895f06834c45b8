//! What only a KMS that does as told can show: silence and the grace, late answers, many at once.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use claviger_cmek::record::ScopeRecord;
use claviger_cmek::{Config, KeyState, Manager, Scope};
use claviger_core::{Clock as _, ErrorKind, Timestamp};
use claviger_kms::KeyChange;
use claviger_sealed::Records;
use claviger_sealed::scope::ScopeId;
use common::double::{Double, Mood, State};
use common::gate::Gate;
use common::{
    AGENT, KeyAdmin as _, RESOURCE, START, World, eventually, manual_clock, settle, spec, until_recorded,
};

const MINUTE: Duration = Duration::from_secs(60);

async fn world() -> World<Arc<Double>> {
    World::new(Double::new(), manual_clock()).await.running()
}

fn is_grace(scope: &Scope) -> bool {
    matches!(scope.state(), KeyState::Unreachable { locked: false, .. })
}

#[tokio::test]
async fn a_silent_kms_locks_after_the_grace_and_its_answer_unlocks() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.pass(10 * MINUTE).await;
    let last = scope.status().last_success.unwrap();
    assert!(last > START.plus(5 * MINUTE), "the periodic check has succeeded");
    world.kms.silence();
    world.pass(6 * MINUTE).await;
    assert!(is_grace(&scope) && scope.guard().is_ok(), "{scope:?}");
    assert_eq!(scope.status().last_error.unwrap().kind(), ErrorKind::Unavailable);

    let left = Duration::from_secs(3600) - world.clock.now().since(last);
    world.clock.advance(left - Duration::from_secs(1));
    settle().await;
    assert!(scope.guard().is_ok());
    world.clock.advance(Duration::from_secs(1));
    settle().await;
    let error = scope.guard().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.message().contains("has not been reachable since"), "{error}");
    assert_eq!(error.violations()[0].kind, "KEY_UNREACHABLE");
    let state = KeyState::Unreachable { since: last, locked: true };
    until_recorded(&world.records, "bigtable/a", |record| record.state == state).await;

    world.kms.mood(Mood::Answers);
    world.pass(MINUTE).await;
    assert!(scope.guard().is_ok(), "the KMS is asked again soon, not at the next interval");
}

#[tokio::test]
async fn a_kms_that_is_heard_of_again_is_asked_at_once_about_what_it_was_silent_about() {
    let world = world().await;
    let (key, other) = (world.kms.make("k").await, world.kms.make("other").await);
    let scope = world.scope("bigtable/a", &key).await;
    let apart = world.scope("bigtable/b", &other).await;
    world.kms.silence();
    world.kms.push(&key);
    settle().await;
    assert!(is_grace(&scope) && apart.state() == KeyState::Enabled);
    world.kms.mood(Mood::Answers);
    let before = world.kms.decrypts.load(Ordering::Relaxed);
    world.kms.tell(KeyChange::Reachable);
    settle().await;
    assert_eq!(scope.state(), KeyState::Enabled);
    assert_eq!(world.kms.decrypts.load(Ordering::Relaxed), before + 1, "the other was not silent");
}

#[tokio::test]
async fn changes_that_may_have_been_missed_make_all_keys_be_asked_about() {
    let world = world().await;
    let keys = [world.kms.make("k").await, world.kms.make("other").await];
    let scopes = [world.scope("bigtable/a", &keys[0]).await, world.scope("bigtable/b", &keys[1]).await];
    world.kms.pushes.store(false, Ordering::Relaxed);
    for key in &keys {
        world.kms.disable(key, 1).await;
    }
    settle().await;
    assert!(scopes.iter().all(|scope| scope.guard().is_ok()), "nobody has told");
    world.kms.tell(KeyChange::OfAny);
    settle().await;
    assert!(scopes.iter().all(|scope| scope.guard().is_err()));
}

#[tokio::test]
async fn an_external_manager_can_shorten_the_grace_and_not_stretch_it() {
    for (allowed, kept) in [(20 * MINUTE, 20), (200 * MINUTE, 60)] {
        let world = world().await;
        *world.kms.cache_for.lock().unwrap() = Some(allowed);
        let key = world.kms.make("k").await;
        let scope = world.scope("bigtable/a", &key).await;
        world.manager.check_all().await;
        let from = world.clock.now();
        world.kms.silence();
        world.manager.check_all().await;
        world.clock.advance(MINUTE * (kept - 1) - world.clock.now().since(from));
        settle().await;
        assert!(scope.guard().is_ok(), "{allowed:?}");
        world.clock.advance(MINUTE);
        settle().await;
        assert!(scope.guard().unwrap_err().message().contains("has not been reachable"), "{allowed:?}");
    }
}

#[tokio::test]
async fn checks_say_that_they_are_the_services_own_work_and_the_making_that_it_is_asked_for() {
    let world = world().await;
    let key = world.kms.make("k").await;
    world.scope("bigtable/a", &key).await;
    let callers = world.kms.callers.lock().unwrap().clone();
    let reason = |caller: &claviger_core::Caller| claviger_kms::external::AccessReason::of(caller).as_str();
    assert_eq!(reason(&callers[0]), "CUSTOMER_INITIATED_ACCESS");
    assert_eq!(reason(callers.last().unwrap()), "GOOGLE_INITIATED_SYSTEM_OPERATION");
}

#[tokio::test]
async fn a_clock_set_back_does_not_stretch_the_grace() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.silence();
    world.manager.check_all().await;
    world.clock.jump_to(Timestamp(0));
    world.pass(59 * MINUTE).await;
    assert!(scope.guard().is_ok());
    world.pass(MINUTE).await;
    assert!(scope.guard().is_err());
}

#[tokio::test]
async fn a_restart_while_the_kms_is_silent_gives_no_keys_and_no_grace() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.silence();
    world.manager.check_all().await;
    assert!(scope.guard().is_ok());
    let world = world.restarted().await.running();
    let scope = world.manager.scope(&ScopeId::new("bigtable/a")).await.unwrap();
    assert!(scope.guard().unwrap_err().message().contains("has not been reachable since"));
    assert_eq!(scope.status().last_success, Some(START));
    world.kms.mood(Mood::Answers);
    world.pass(MINUTE).await;
    assert!(scope.guard().is_ok());
}

#[tokio::test]
async fn disabled_and_then_silent_stays_disabled() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.disable(&key, 1).await;
    eventually("a lock", || scope.guard().is_err()).await;
    world.kms.silence();
    world.pass(90 * MINUTE).await;
    assert!(scope.guard().unwrap_err().message().contains("is disabled"));
    let world = world.restarted().await;
    let scope = world.manager.scope(&ScopeId::new("bigtable/a")).await.unwrap();
    assert!(scope.guard().unwrap_err().message().contains("is disabled"));
}

#[tokio::test]
async fn a_kms_that_never_answers_is_silent_after_the_time_for_a_call() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.mood(Mood::Hangs);
    world.pass(10 * MINUTE).await;
    assert!(is_grace(&scope), "{scope:?}");
    assert_eq!(scope.status().last_error.unwrap().kind(), ErrorKind::DeadlineExceeded);
    world.pass(60 * MINUTE).await;
    assert!(scope.guard().is_err());
}

#[tokio::test]
async fn without_a_push_the_next_check_locks_and_unlocks() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.pushes.store(false, Ordering::Relaxed);
    world.kms.disable(&key, 1).await;
    settle().await;
    assert!(scope.guard().is_ok());
    world.pass(5 * MINUTE).await;
    assert!(scope.guard().is_err());
    world.kms.enable(&key, 1).await;
    world.pass(5 * MINUTE).await;
    assert!(scope.guard().is_ok());
}

#[tokio::test]
async fn a_late_answer_to_an_early_question_does_not_unlock() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    let hold = world.kms.hold_answers();
    let early = tokio::spawn({
        let manager = world.manager.clone();
        async move { manager.check_all().await }
    });
    eventually("the early question is asked", || world.kms.running.load(Ordering::Relaxed) == 1).await;
    world.kms.hold_no_more();
    world.kms.disable(&key, 1).await;
    eventually("a lock", || scope.guard().is_err()).await;
    hold.notify_waiters();
    early.await.unwrap();
    assert!(scope.guard().is_err(), "an answer from before the key was disabled unlocked the scope");
}

#[tokio::test]
async fn users_who_come_together_share_one_unwrap() {
    let world = world().await;
    let key = world.kms.make("k").await;
    world.scope("bigtable/a", &key).await;
    let world = world.restarted().await;
    let before = world.kms.decrypts.load(Ordering::Relaxed);
    let id = ScopeId::new("bigtable/a");
    let users = (0..50).map(|_| world.manager.scope(&id));
    for scope in futures::future::join_all(users).await {
        assert!(scope.unwrap().guard().is_ok());
    }
    assert_eq!(world.kms.decrypts.load(Ordering::Relaxed) - before, 1);
}

#[tokio::test]
async fn checks_are_spread_over_the_interval_and_each_scope_is_checked_once() {
    let world = world().await;
    let key = world.kms.make("k").await;
    for number in 0..200 {
        world.scope(&format!("bigtable/{number}"), &key).await;
    }
    world.pass(5 * MINUTE).await;
    let before = world.kms.decrypts.load(Ordering::Relaxed);
    let mut most = 0;
    for _ in 0..10 {
        let start = world.kms.decrypts.load(Ordering::Relaxed);
        world.clock.advance(MINUTE / 2);
        settle().await;
        most = most.max(world.kms.decrypts.load(Ordering::Relaxed) - start);
    }
    let checks = world.kms.decrypts.load(Ordering::Relaxed) - before;
    assert_eq!(checks, 200, "one decrypt for each scope and interval");
    assert!(most < 60, "{most} of 200 checks came in a tenth of the interval");
}

#[tokio::test]
async fn a_push_locks_many_scopes_with_one_question() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let mut scopes = Vec::new();
    for number in 0..300 {
        scopes.push(world.scope(&format!("bigtable/{number}"), &key).await);
    }
    let before = world.kms.decrypts.load(Ordering::Relaxed);
    world.kms.disable(&key, 1).await;
    eventually("all are locked", || scopes.iter().all(|scope| scope.guard().is_err())).await;
    assert_eq!(world.kms.decrypts.load(Ordering::Relaxed) - before, 1);
    world.kms.enable(&key, 1).await;
    eventually("all are back", || scopes.iter().all(|scope| scope.guard().is_ok())).await;
    assert!(world.kms.most_running.load(Ordering::Relaxed) <= 33, "more checks at once than allowed");
    for scope in scopes {
        let enabled =
            |record: &ScopeRecord| record.state == KeyState::Enabled && record.locked_since.is_none();
        until_recorded(&world.records, scope.id().as_str(), enabled).await;
    }
}

#[tokio::test]
async fn a_state_that_is_back_while_the_other_is_written_is_written_again() {
    let (gate, kms) = (Gate::new(), Double::new());
    let records = Arc::new(Records::open(gate.clone(), "platform").await.unwrap());
    let manager = Manager::open(records.clone(), kms.service(), manual_clock(), Config::default()).unwrap();
    tokio::spawn(manager.clone().run());
    let key = kms.make("k").await;
    let scope = manager.create_scope(spec("bigtable/a", &key)).await.unwrap();
    settle().await;
    gate.close();
    kms.disable(&key, 1).await;
    eventually("the lock is being written", || scope.guard().is_err() && gate.held() > 0).await;
    kms.enable(&key, 1).await;
    eventually("it is back", || scope.guard().is_ok()).await;
    settle().await;
    gate.open();
    // Long enough for the first of the two writes, after which the record would stay as it is.
    for _ in 0..20 {
        settle().await;
    }
    let enabled = |record: &ScopeRecord| record.state == KeyState::Enabled && record.locked_since.is_none();
    until_recorded(&records, "bigtable/a", enabled).await;
}

#[tokio::test]
async fn pushes_that_come_too_fast_lead_to_a_check_of_everything() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let other = world.kms.make("other").await;
    let scope = world.scope("bigtable/a", &key).await;
    settle().await;
    world.kms.set(&key, 1, State::Disabled);
    // The channel holds 16: the push of `key` is lost.
    for _ in 0..40 {
        world.kms.push(&other);
    }
    eventually("a lock", || scope.guard().is_err()).await;
}

#[tokio::test]
async fn a_success_is_remembered_without_a_write_for_each_check() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    let made: ScopeRecord = world.records.get("scope/bigtable/a").await.unwrap().unwrap();
    world.pass(30 * MINUTE).await;
    let now: ScopeRecord = world.records.get("scope/bigtable/a").await.unwrap().unwrap();
    assert_eq!(now, made, "checks that change nothing rewrite nothing");
    world.manager.close().await.unwrap();
    let seen: Timestamp = world.records.get("seen/bigtable/a").await.unwrap().unwrap();
    assert!(seen > START.plus(20 * MINUTE), "{seen:?}");
    let last = scope.status().last_success;
    let world = world.restarted().await;
    world.kms.silence();
    let scope = world.manager.scope(&ScopeId::new("bigtable/a")).await.unwrap();
    assert_eq!(scope.status().last_success, last);
}

#[tokio::test]
async fn every_use_of_a_key_names_the_agent_the_resource_and_the_scope() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let mut of_a_job = spec("dataflow/j", &key);
    of_a_job.caller = of_a_job.caller.with("job", "j-1");
    world.manager.create_scope(of_a_job).await.unwrap();
    let world = world.restarted().await;
    world.manager.scope(&ScopeId::new("dataflow/j")).await.unwrap();
    let callers = world.kms.callers.lock().unwrap();
    assert_eq!(callers.len(), 3, "a wrap, its proof, and an unwrap after the restart");
    for caller in callers.iter() {
        assert_eq!(caller.principal, AGENT);
        let context = |label: &str| caller.context.get(label).map(String::as_str);
        assert_eq!(context("resource"), Some(RESOURCE));
        assert_eq!(context("scope"), Some("dataflow/j"));
        assert_eq!(context("job"), Some("j-1"));
    }
}

#[tokio::test]
async fn a_key_that_encrypts_and_does_not_decrypt_makes_no_scope() {
    let world = world().await;
    let key = world.kms.make("k").await;
    world.kms.mood(Mood::EncryptsOnly);
    let refused = world.manager.create_scope(spec("bigtable/a", &key)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    world.kms.mood(Mood::Answers);
    world.scope("bigtable/a", &key).await;
}

#[tokio::test]
async fn another_key_than_the_one_in_use_locks_until_a_restart() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.mood(Mood::Lies);
    world.manager.check_all().await;
    assert!(scope.guard().unwrap_err().message().contains("another key"));
    world.manager.check_all().await;
    assert!(scope.guard().is_err(), "a false key was taken in the second round");
}

#[tokio::test]
async fn a_key_that_is_gone_locks() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.forget(&key);
    eventually("a lock", || scope.guard().is_err()).await;
    assert!(scope.guard().unwrap_err().message().contains("does not exist"));
}

#[tokio::test]
async fn a_failed_wrap_after_a_rotation_leaves_the_old_wrapping_in_use() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.pushes.store(false, Ordering::Relaxed);
    world.kms.rotate(&key).await;
    world.kms.disable(&key, 2).await;
    world.manager.check_all().await;
    assert!(scope.guard().is_ok());
    assert_eq!(scope.status().key_version, key.version_name(1));
    world.kms.enable(&key, 2).await;
    world.manager.check_all().await;
    assert_eq!(scope.status().key_version, key.version_name(2));
}

#[tokio::test]
async fn a_manager_refuses_intervals_of_nothing() {
    let world = world().await;
    let bad = Config { check_interval: Duration::ZERO, ..Config::default() };
    let error = Manager::open(world.records.clone(), world.kms.clone(), world.clock.clone(), bad);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn keys_do_not_show_when_printed() {
    let world = world().await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    let text = format!("{scope:?} {:?} {:?}", scope.keys(), world.manager);
    let secret = scope.keys().current().unwrap();
    let bytes = format!("{:?}", secret.secret().expose());
    assert!(!text.contains(bytes.trim_matches(['[', ']'])), "{text}");
}
