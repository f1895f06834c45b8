//! The adapter over policies in memory: what a client sends and what it gets.

use claviger_core::{ManualClock, Timestamp};
use claviger_sealed::Records;
use object_store::memory::InMemory;
use pb::policy_spec::PolicyRule;
use pb::policy_spec::policy_rule::{Kind, StringValues};
use tonic::Code;

use super::*;
use crate::auth::tests::asked;

const SERVICES: &str = "projects/p/policies/gcp.restrictNonCmekServices";
const DISABLE: &str = "projects/p/policies/cloudkms.disableBeforeDestroy";

async fn api() -> OrgPolicyApi {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000_000)));
    let records = Records::open(Arc::new(InMemory::new()), "r").await.unwrap();
    OrgPolicyApi::new(Policies::open(records, clock).await.unwrap())
}

fn rule(kind: Kind) -> PolicyRule {
    PolicyRule { kind: Some(kind), ..Default::default() }
}

fn policy(name: &str, kind: Kind) -> pb::Policy {
    let spec = pb::PolicySpec { rules: vec![rule(kind)], ..Default::default() };
    pb::Policy { name: name.into(), spec: Some(spec), ..Default::default() }
}

fn denied() -> pb::Policy {
    let denied_values = vec!["is:storage.googleapis.com".to_owned()];
    policy(SERVICES, Kind::Values(StringValues { denied_values, ..Default::default() }))
}

async fn create(api: &OrgPolicyApi, policy: pb::Policy) -> Result<pb::Policy, Status> {
    let request = pb::CreatePolicyRequest { parent: "projects/p".into(), policy: Some(policy) };
    api.create_policy(asked(request)).await.map(Response::into_inner)
}

async fn update(api: &OrgPolicyApi, policy: pb::Policy, paths: &[&str]) -> Result<pb::Policy, Status> {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    let update_mask = (!paths.is_empty()).then_some(FieldMask { paths });
    let request = pb::UpdatePolicyRequest { policy: Some(policy), update_mask };
    api.update_policy(asked(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn a_policy_is_given_back_as_it_was_set() {
    let api = api().await;
    let made = create(&api, denied()).await.unwrap();
    assert_eq!(made.spec.as_ref().unwrap().rules, denied().spec.unwrap().rules);
    assert_eq!(made.spec.as_ref().unwrap().update_time.unwrap().seconds, 1_700_000_000);
    let get = pb::GetPolicyRequest { name: SERVICES.into() };
    assert_eq!(api.get_policy(asked(get)).await.unwrap().into_inner(), made);
    let effective = pb::GetEffectivePolicyRequest { name: SERVICES.into() };
    let effective = api.get_effective_policy(asked(effective)).await.unwrap().into_inner();
    let spec = effective.spec.unwrap();
    assert_eq!((effective.etag.as_str(), spec.etag.as_str(), spec.update_time), ("", "", None));
    let values = StringValues { denied_values: vec!["storage.googleapis.com".into()], ..Default::default() };
    assert_eq!(spec.rules, [rule(Kind::Values(values))]);

    let changed = update(&api, policy(SERVICES, Kind::AllowAll(true)), &[]).await.unwrap();
    assert_ne!(changed.etag, made.etag);
    let late = pb::DeletePolicyRequest { name: SERVICES.into(), etag: made.etag };
    assert_eq!(api.delete_policy(asked(late)).await.unwrap_err().code(), Code::Aborted);
    let delete = pb::DeletePolicyRequest { name: SERVICES.into(), etag: changed.etag };
    api.delete_policy(asked(delete)).await.unwrap();
    let get = pb::GetPolicyRequest { name: SERVICES.into() };
    assert_eq!(api.get_policy(asked(get)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_mask_says_which_specification_changes() {
    let api = api().await;
    create(&api, denied()).await.unwrap();
    let mut wanted = policy(SERVICES, Kind::DenyAll(true));
    wanted.dry_run_spec = wanted.spec.take();
    let unclear = update(&api, wanted.clone(), &[]).await.unwrap_err();
    assert_eq!(unclear.code(), Code::InvalidArgument);
    for path in ["dry_run_spec", "policy.dry_run_spec"] {
        let tried = update(&api, wanted.clone(), &[path]).await.unwrap();
        assert_eq!(tried.spec.unwrap().rules, denied().spec.unwrap().rules);
        assert_eq!(tried.dry_run_spec.unwrap().rules, [rule(Kind::DenyAll(true))]);
    }
    let whole = update(&api, policy(SERVICES, Kind::AllowAll(true)), &["*"]).await.unwrap();
    assert!(whole.dry_run_spec.is_none());
    assert_eq!(whole.spec.unwrap().rules, [rule(Kind::AllowAll(true))]);
    let wrong = update(&api, denied(), &["policy.name"]).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_is_not_built_is_refused_and_nothing_is_kept() {
    let api = api().await;
    let with = |change: fn(&mut PolicyRule)| {
        let mut policy = denied();
        policy.spec.as_mut().unwrap().rules.iter_mut().for_each(change);
        policy
    };
    let alternate = pb::Policy { alternate: Some(Default::default()), ..denied() };
    let elsewhere = |name: &str| pb::Policy { name: name.into(), ..denied() };
    for (policy, code) in [
        (with(|rule| rule.condition = Some(Default::default())), Code::Unimplemented),
        (with(|rule| rule.parameters = Some(Default::default())), Code::Unimplemented),
        (with(|rule| rule.kind = None), Code::InvalidArgument),
        (with(|rule| rule.kind = Some(Kind::AllowAll(false))), Code::InvalidArgument),
        (with(|rule| rule.kind = Some(Kind::DenyAll(false))), Code::InvalidArgument),
        (alternate, Code::Unimplemented),
        (elsewhere("projects/q/policies/gcp.restrictNonCmekServices"), Code::InvalidArgument),
        (elsewhere("projects/p/policies/gcp.resourceLocations"), Code::NotFound),
        (elsewhere("projects/p/policies/custom.mine"), Code::Unimplemented),
        (elsewhere("projects/claviger-managed/policies/gcp.restrictNonCmekServices"), Code::PermissionDenied),
        (elsewhere("organizations/1/policies/gcp.restrictNonCmekServices"), Code::Unimplemented),
    ] {
        assert_eq!(create(&api, policy.clone()).await.unwrap_err().code(), code, "{policy:?}");
    }
    let list = pb::ListPoliciesRequest { parent: "projects/p".into(), ..Default::default() };
    assert_eq!(api.list_policies(asked(list)).await.unwrap().into_inner(), Default::default());
    for parent in ["folders/1", "organizations/1"] {
        let list = pb::ListConstraintsRequest { parent: parent.into(), ..Default::default() };
        let refused = api.list_constraints(asked(list)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn lists_are_in_pages() {
    let api = api().await;
    create(&api, denied()).await.unwrap();
    create(&api, policy(DISABLE, Kind::Enforce(true))).await.unwrap();
    let mut request =
        pb::ListPoliciesRequest { parent: "projects/p".into(), page_size: 1, ..Default::default() };
    let first = api.list_policies(asked(request.clone())).await.unwrap().into_inner();
    request.page_token.clone_from(&first.next_page_token);
    let second = api.list_policies(asked(request.clone())).await.unwrap().into_inner();
    let names = [&first, &second].map(|page| page.policies[0].name.clone());
    assert_eq!(names, [DISABLE, SERVICES]);
    assert_eq!(second.next_page_token, "");
    request.page_token = "elsewhere".into();
    assert_eq!(api.list_policies(asked(request)).await.unwrap_err().code(), Code::InvalidArgument);

    let mut request =
        pb::ListConstraintsRequest { parent: "projects/p".into(), page_size: 2, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = api.list_constraints(asked(request.clone())).await.unwrap().into_inner();
        found.extend(page.constraints);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let names: Vec<_> = found.iter().map(|constraint| constraint.name.as_str()).collect();
    let all = Constraint::ALL.map(|constraint| format!("projects/p/constraints/{}", constraint.id()));
    assert_eq!(names, all);
    assert!(
        found.iter().all(|constraint| constraint.supports_dry_run && constraint.constraint_type.is_some())
    );
}
