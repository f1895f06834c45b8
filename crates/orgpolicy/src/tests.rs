//! What specifications allow, what they may say, and that policies are kept.

use std::sync::Arc;
use std::time::Duration;

use claviger_core::names::CryptoKeyName;
use claviger_core::{Clock, ErrorKind, ManualClock, Timestamp};
use claviger_sealed::Records;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::{Constraint, Part, Policies, PolicyName, Rule, Spec, Wish, WishedSpec, project};

const DAY: Duration = Duration::from_secs(24 * 3600);
const BIGTABLE: [&str; 2] = ["bigtable.googleapis.com", "bigtableadmin.googleapis.com"];

fn values(allowed: &[&str], denied: &[&str]) -> Rule {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    Rule::Values { allowed: owned(allowed), denied: owned(denied) }
}

fn rules(rules: Vec<Rule>) -> Spec {
    Spec { rules, ..Spec::default() }
}

fn enforced(spec: Spec) -> Wish {
    Wish { spec: Some(WishedSpec { spec, ..WishedSpec::default() }), ..Wish::default() }
}

fn tried(spec: Spec) -> Wish {
    Wish { dry_run: Some(WishedSpec { spec, ..WishedSpec::default() }), ..Wish::default() }
}

fn name(constraint: Constraint) -> PolicyName {
    PolicyName { project: "birds".into(), constraint }
}

async fn opened(store: &Arc<dyn ObjectStore>) -> Arc<Policies> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000_000)));
    let records = Records::open(store.clone(), "policies").await.unwrap();
    Policies::open(records, clock).await.unwrap()
}

async fn empty() -> Arc<Policies> {
    opened(&(Arc::new(InMemory::new()) as Arc<dyn ObjectStore>)).await
}

async fn with(constraint: Constraint, spec: Spec) -> Arc<Policies> {
    let policies = empty().await;
    policies.create(name(constraint), enforced(spec)).await.unwrap();
    policies
}

fn key(project: &str) -> CryptoKeyName {
    CryptoKeyName::new(project, "us-east1", "ring", "k").unwrap()
}

#[test]
fn rules_hold_together_and_a_denial_wins() {
    for (rules_, allowed, refused) in [
        (vec![Rule::AllowAll], &["a", "b"][..], &[][..]),
        (vec![Rule::DenyAll], &[], &["a"]),
        (vec![values(&["a"], &[])], &["a"], &["b"]),
        (vec![values(&["is:a", "under:b"], &[])], &["a", "b"], &["c", "is:a"]),
        (vec![values(&[], &["a"])], &["b"], &["a"]),
        (vec![values(&["a", "b"], &["b"])], &["a"], &["b", "c"]),
        (vec![values(&["a"], &[]), values(&["b"], &[])], &["a", "b"], &["c"]),
        (vec![values(&["a"], &[]), Rule::AllowAll], &["a", "b"], &[]),
        (vec![Rule::AllowAll, values(&[], &["a"])], &["b"], &["a"]),
        (vec![Rule::AllowAll, Rule::DenyAll], &[], &["a"]),
        (vec![], &["a"], &[]),
    ] {
        let spec = rules(rules_);
        for value in allowed {
            assert!(spec.allows(value), "{spec:?} {value}");
        }
        for value in refused {
            assert!(!spec.allows(value), "{spec:?} {value}");
        }
    }
}

#[test]
fn an_effective_policy_opens_groups_and_merges_rules() {
    use Constraint::*;
    let effective = |constraint, spec: Option<Spec>| Spec::effective(constraint, spec.as_ref()).rules;
    assert_eq!(effective(RestrictNonCmekServices, None), [Rule::AllowAll]);
    assert_eq!(effective(DisableBeforeDestroy, None), [Rule::Enforce(false)]);
    assert_eq!(
        effective(DisableBeforeDestroy, Some(rules(vec![Rule::Enforce(true)]))),
        [Rule::Enforce(true)]
    );
    let reset = Spec { reset: true, ..Spec::default() };
    assert_eq!(effective(DisableBeforeDestroy, Some(reset.clone())), [Rule::Enforce(false)]);
    assert_eq!(effective(RestrictNonCmekServices, Some(reset)), [Rule::AllowAll]);
    let days = rules(vec![values(&["in:30d"], &[])]);
    assert_eq!(
        effective(MinimumDestroyScheduledDuration, Some(days)),
        [values(&["30d", "60d", "90d", "120d"], &[])]
    );
    let two = rules(vec![values(&["is:HSM"], &[]), values(&["HSM", "SOFTWARE"], &["is:EXTERNAL"])]);
    assert_eq!(effective(AllowedProtectionLevels, Some(two)), [values(&["HSM", "SOFTWARE"], &["EXTERNAL"])]);
    let under = rules(vec![values(&["under:projects/keys"], &[])]);
    assert_eq!(
        effective(RestrictCmekCryptoKeyProjects, Some(under)),
        [values(&["under:projects/keys"], &[])]
    );
}

#[test]
fn names_that_cannot_be_right_are_refused_each_in_its_way() {
    let parsed = PolicyName::parse("projects/birds/policies/gcp.restrictNonCmekServices").unwrap();
    assert_eq!(parsed, name(Constraint::RestrictNonCmekServices));
    assert_eq!(parsed.to_string(), "projects/birds/policies/gcp.restrictNonCmekServices");
    for (text, kind) in [
        ("projects/birds", ErrorKind::InvalidArgument),
        ("projects/birds/policies/", ErrorKind::NotFound),
        ("projects/birds/policies/gcp.resourceLocations", ErrorKind::NotFound),
        ("projects/birds/policies/custom.mine", ErrorKind::Unimplemented),
        ("projects/b b/policies/gcp.restrictNonCmekServices", ErrorKind::InvalidArgument),
        ("projects/123/policies/gcp.restrictNonCmekServices", ErrorKind::Unimplemented),
        ("folders/1/policies/gcp.restrictNonCmekServices", ErrorKind::Unimplemented),
        ("organizations/1/policies/gcp.restrictNonCmekServices", ErrorKind::Unimplemented),
    ] {
        assert_eq!(PolicyName::parse(text).unwrap_err().kind(), kind, "{text}");
    }
    assert_eq!(project("organizations/1").unwrap_err().kind(), ErrorKind::Unimplemented);
    for constraint in Constraint::ALL {
        assert_eq!(Constraint::of_id(constraint.id()), Some(constraint));
        let stored = PolicyName { project: "p".into(), constraint }.record();
        assert_eq!(stored, format!("org-policy/p/{}", constraint.id()));
    }
    let mut sorted = Constraint::ALL;
    sorted.sort_by_key(|constraint| constraint.id());
    assert_eq!(sorted, Constraint::ALL);
    assert!(sorted.is_sorted());
}

#[tokio::test]
async fn what_no_resource_could_have_is_no_specification() {
    use Constraint::*;
    let policies = empty().await;
    let both = Spec { reset: true, ..rules(vec![Rule::AllowAll]) };
    let inherited = Spec { inherit_from_parent: true, ..rules(vec![Rule::Enforce(true)]) };
    for (constraint, spec, word) in [
        (RestrictNonCmekServices, rules(vec![]), "needs a rule"),
        (RestrictNonCmekServices, both, "reset"),
        (RestrictNonCmekServices, rules(vec![Rule::Enforce(true)]), "list constraint"),
        (RestrictNonCmekServices, rules(vec![values(&[], &[])]), "name a value"),
        (RestrictNonCmekServices, rules(vec![values(&[], &["bigtabel.googleapis.com"])]), "bigtabel"),
        (RestrictNonCmekServices, rules(vec![values(&[], &["in:bigtable.googleapis.com"])]), "not a value"),
        (RestrictNonCmekServices, rules(vec![Rule::AllowAll; 11]), "more than 10"),
        (
            RestrictNonCmekServices,
            rules(vec![values(&[], &["storage.googleapis.com"; 501])]),
            "more than 500",
        ),
        (RestrictCmekCryptoKeyProjects, rules(vec![values(&["birds"], &[])]), "projects/ID"),
        (AllowedProtectionLevels, rules(vec![values(&["hsm"], &[])]), "SOFTWARE"),
        (MinimumDestroyScheduledDuration, rules(vec![values(&["7d"], &[])]), "in:7d"),
        (MinimumDestroyScheduledDuration, rules(vec![values(&["in:8d"], &[])]), "in:7d"),
        (MinimumDestroyScheduledDuration, rules(vec![values(&["in:7d", "in:30d"], &[])]), "exactly one"),
        (MinimumDestroyScheduledDuration, rules(vec![values(&[], &["in:7d"])]), "exactly one"),
        (MinimumDestroyScheduledDuration, rules(vec![Rule::DenyAll]), "exactly one"),
        (DisableBeforeDestroy, rules(vec![]), "exactly one"),
        (DisableBeforeDestroy, rules(vec![Rule::AllowAll]), "exactly one"),
        (DisableBeforeDestroy, rules(vec![Rule::Enforce(true), Rule::Enforce(false)]), "exactly one"),
        (DisableBeforeDestroy, inherited, "list constraints"),
    ] {
        for wish in [enforced(spec.clone()), tried(spec.clone())] {
            let error = policies.create(name(constraint), wish).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{spec:?}");
            assert!(error.message().contains(word), "{}", error.message());
        }
    }
    let folder = rules(vec![values(&["under:folders/1"], &[])]);
    let error = policies.create(name(RestrictCmekCryptoKeyProjects), enforced(folder)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    let nothing = policies.create(name(DisableBeforeDestroy), Wish::default()).await.unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::InvalidArgument);
    assert!(policies.list("birds", None).is_empty());
}

#[tokio::test]
async fn a_denied_service_makes_nothing_without_a_key() {
    for denied in BIGTABLE {
        let spec = rules(vec![values(&[], &[&format!("is:{denied}")])]);
        let policies = with(Constraint::RestrictNonCmekServices, spec).await;
        let error = policies.protection("birds", &BIGTABLE, None, "CreateTable").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let violation = &error.violations()[0];
        assert_eq!(violation.kind, "constraints/gcp.restrictNonCmekServices");
        assert_eq!(violation.subject, "orgpolicy:projects/birds");
        assert_eq!(violation.description, error.message());
        assert!(
            error.message().starts_with(&format!(
                "Constraint 'constraints/gcp.restrictNonCmekServices' violated for 'projects/birds' attempting to perform the operation 'CreateTable' with violated value '{denied}'. See https://"
            )),
            "{error}"
        );
        policies.protection("birds", &BIGTABLE, Some(&key("owls")), "CreateTable").unwrap();
        policies.protection("birds", &["storage.googleapis.com"], None, "x").unwrap();
        policies.protection("owls", &BIGTABLE, None, "CreateTable").unwrap();
    }
}

#[tokio::test]
async fn keys_of_other_projects_are_refused() {
    for listed in ["projects/keys", "is:projects/keys", "under:projects/keys"] {
        let spec = rules(vec![values(&[listed], &[])]);
        let policies = with(Constraint::RestrictCmekCryptoKeyProjects, spec).await;
        policies.protection("birds", &BIGTABLE, Some(&key("keys")), "CreateInstance").unwrap();
        policies.protection("birds", &BIGTABLE, None, "CreateInstance").unwrap();
        for other in ["birds", "keys2", "key"] {
            let error = policies.protection("birds", &BIGTABLE, Some(&key(other)), "x").unwrap_err();
            assert_eq!(error.violations()[0].kind, "constraints/gcp.restrictCmekCryptoKeyProjects");
            assert!(error.message().contains(&format!("value 'projects/{other}'")), "{error}");
        }
    }
}

#[tokio::test]
async fn levels_durations_and_states_of_keys_are_held_to() {
    let spec = rules(vec![values(&["is:HSM", "EXTERNAL"], &[])]);
    let policies = with(Constraint::AllowedProtectionLevels, spec).await;
    policies.protection_level("birds", "HSM", "x").unwrap();
    let error = policies.protection_level("birds", "SOFTWARE", "CreateCryptoKey").unwrap_err();
    assert_eq!(error.violations()[0].kind, "constraints/cloudkms.allowedProtectionLevels");
    policies.protection_level("birds", "EXTERNAL_VPC", "x").unwrap_err();

    let spec = rules(vec![values(&["in:15d"], &[])]);
    let policies = with(Constraint::MinimumDestroyScheduledDuration, spec).await;
    policies.destroy_duration("birds", DAY * 15, "x").unwrap();
    let error = policies.destroy_duration("birds", DAY * 15 - Duration::from_secs(1), "x").unwrap_err();
    assert_eq!(error.violations()[0].kind, "constraints/cloudkms.minimumDestroyScheduledDuration");
    assert!(error.message().contains("'1295999s'"), "{error}");

    let policies = with(Constraint::DisableBeforeDestroy, rules(vec![Rule::Enforce(true)])).await;
    let error = policies.destroy_in_use("birds", "ENABLED", "x").unwrap_err();
    assert_eq!(error.violations()[0].kind, "constraints/cloudkms.disableBeforeDestroy");
    let policies = with(Constraint::DisableBeforeDestroy, rules(vec![Rule::Enforce(false)])).await;
    policies.destroy_in_use("birds", "ENABLED", "x").unwrap();
}

#[tokio::test]
async fn a_dry_run_refuses_nothing_and_a_reset_neither() {
    let policies = empty().await;
    let name = name(Constraint::RestrictNonCmekServices);
    policies.create(name.clone(), tried(rules(vec![Rule::DenyAll]))).await.unwrap();
    policies.protection("birds", &BIGTABLE, None, "x").unwrap();
    assert_eq!(policies.effective(&name).rules, [Rule::AllowAll]);
    policies.update(name.clone(), enforced(rules(vec![Rule::DenyAll])), Part::Spec).await.unwrap();
    policies.protection("birds", &BIGTABLE, None, "x").unwrap_err();
    assert_eq!(policies.effective(&name).rules, [Rule::DenyAll]);
    let reset = Spec { reset: true, ..Spec::default() };
    let policy = policies.update(name, enforced(reset), Part::Spec).await.unwrap();
    assert!(policy.dry_run.is_some());
    policies.protection("birds", &BIGTABLE, None, "x").unwrap();
}

#[tokio::test]
async fn an_update_replaces_what_its_mask_names() {
    let policies = empty().await;
    let name = name(Constraint::RestrictNonCmekServices);
    let all = || rules(vec![Rule::AllowAll]);
    let missing = policies.update(name.clone(), enforced(all()), Part::Spec).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let first = policies.create(name.clone(), enforced(all())).await.unwrap();
    let again = policies.create(name.clone(), enforced(all())).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);

    let wish =
        Wish { dry_run: tried(rules(vec![Rule::DenyAll])).dry_run, ..enforced(rules(vec![Rule::DenyAll])) };
    let second = policies.update(name.clone(), wish.clone(), Part::DryRun).await.unwrap();
    assert_eq!(second.spec, first.spec);
    assert_eq!(second.dry_run.as_ref().unwrap().spec.rules, [Rule::DenyAll]);
    assert_ne!(second.etag(), first.etag());
    let third = policies.update(name.clone(), wish, Part::Both).await.unwrap();
    assert_eq!(third.spec.as_ref().unwrap().spec.rules, [Rule::DenyAll]);
    let fourth = policies.update(name.clone(), Wish::default(), Part::DryRun).await.unwrap();
    assert!(fourth.dry_run.is_none() && fourth.spec == third.spec);
    let bare = policies.update(name, Wish::default(), Part::Both).await.unwrap_err();
    assert_eq!(bare.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn an_old_etag_changes_nothing() {
    let policies = empty().await;
    let name = name(Constraint::DisableBeforeDestroy);
    let on = || rules(vec![Rule::Enforce(true)]);
    let first = policies.create(name.clone(), enforced(on())).await.unwrap();
    let wish = Wish { etag: first.etag(), ..enforced(rules(vec![Rule::Enforce(false)])) };
    let second = policies.update(name.clone(), wish.clone(), Part::Spec).await.unwrap();
    let late = policies.update(name.clone(), wish, Part::Spec).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Aborted);
    let mut of_spec = enforced(on());
    of_spec.spec.as_mut().unwrap().etag = first.spec.as_ref().unwrap().etag();
    assert_eq!(
        policies.update(name.clone(), of_spec, Part::Spec).await.unwrap_err().kind(),
        ErrorKind::Aborted
    );
    assert_eq!(policies.delete(name.clone(), first.etag()).await.unwrap_err().kind(), ErrorKind::Aborted);
    assert_eq!(policies.get(&name).unwrap(), second);
    policies.delete(name.clone(), second.etag()).await.unwrap();
    assert_eq!(policies.delete(name.clone(), String::new()).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Made anew at the same time by the clock, it has another etag even so.
    let anew = policies.create(name, enforced(on())).await.unwrap();
    assert!(![first.etag(), second.etag()].contains(&anew.etag()));
}

#[tokio::test]
async fn policies_survive_a_restart_and_deleted_ones_stay_away() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let policies = opened(&store).await;
    let kept = name(Constraint::RestrictNonCmekServices);
    let gone = name(Constraint::DisableBeforeDestroy);
    let denied = || rules(vec![values(&[], &["storage.googleapis.com"])]);
    let set = policies.create(kept.clone(), enforced(denied())).await.unwrap();
    policies.create(gone.clone(), enforced(rules(vec![Rule::Enforce(true)]))).await.unwrap();
    let other = PolicyName { project: "owls".into(), ..kept.clone() };
    policies.create(other, tried(denied())).await.unwrap();
    policies.delete(gone.clone(), String::new()).await.unwrap();
    policies.close().await.unwrap();

    let policies = opened(&store).await;
    assert_eq!(policies.list("birds", None), std::slice::from_ref(&set));
    assert!(policies.list("birds", Some(kept.constraint)).is_empty());
    assert_eq!(policies.get(&gone).unwrap_err().kind(), ErrorKind::NotFound);
    policies.protection("birds", &["storage.googleapis.com"], None, "x").unwrap_err();
    let next = policies.update(kept, enforced(denied()), Part::Spec).await.unwrap();
    assert!(next.etag() > set.etag());
}
