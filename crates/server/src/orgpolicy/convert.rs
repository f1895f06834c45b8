//! Between the messages of the API and the policies' own types.
//!
//! Invariant: what a policy cannot do here is refused, never dropped: a rule that lost its condition would refuse or
//! allow more than was meant.

use claviger_core::{Error, Result};
use claviger_orgpolicy::{Constraint, KeptSpec, Kind, Policy, Rule, Spec, Wish, WishedSpec};
use claviger_proto::google::cloud::orgpolicy::v2 as pb;
use pb::constraint::{BooleanConstraint, ConstraintDefault, ConstraintType, ListConstraint};
use pb::policy_spec::PolicyRule;
use pb::policy_spec::policy_rule::{Kind as PbKind, StringValues};

use crate::operations::timestamp;

pub(super) fn constraint(project: &str, constraint: Constraint) -> pb::Constraint {
    let kind = match constraint.kind() {
        Kind::List { supports_in, supports_under } => {
            ConstraintType::ListConstraint(ListConstraint { supports_in, supports_under })
        }
        Kind::Boolean => ConstraintType::BooleanConstraint(BooleanConstraint {}),
    };
    pb::Constraint {
        name: format!("projects/{project}/constraints/{}", constraint.id()),
        display_name: constraint.title().to_owned(),
        description: constraint.description().to_owned(),
        constraint_default: ConstraintDefault::Allow.into(),
        constraint_type: Some(kind),
        supports_dry_run: true,
        ..Default::default()
    }
}

pub(super) fn policy(policy: &Policy) -> pb::Policy {
    pb::Policy {
        name: policy.name.to_string(),
        spec: policy.spec.as_ref().map(kept),
        dry_run_spec: policy.dry_run.as_ref().map(kept),
        etag: policy.etag(),
        ..Default::default()
    }
}

fn kept(kept: &KeptSpec) -> pb::PolicySpec {
    let (etag, update_time) = (kept.etag(), Some(timestamp(kept.updated)));
    pb::PolicySpec { etag, update_time, ..spec(kept.spec.clone()) }
}

pub(super) fn spec(spec: Spec) -> pb::PolicySpec {
    let rule = |rule| {
        let kind = match rule {
            Rule::Values { allowed, denied } => {
                PbKind::Values(StringValues { allowed_values: allowed, denied_values: denied })
            }
            Rule::AllowAll => PbKind::AllowAll(true),
            Rule::DenyAll => PbKind::DenyAll(true),
            Rule::Enforce(enforce) => PbKind::Enforce(enforce),
        };
        PolicyRule { kind: Some(kind), ..Default::default() }
    };
    pb::PolicySpec {
        rules: spec.rules.into_iter().map(rule).collect(),
        inherit_from_parent: spec.inherit_from_parent,
        reset: spec.reset,
        ..Default::default()
    }
}

/// What a request says of a policy, but for its name.
pub(super) fn wish(policy: pb::Policy) -> Result<Wish> {
    if policy.alternate.is_some() {
        return Err(Error::unimplemented(
            "Alternate specifications of policies are not built: use dry_run_spec.",
        ));
    }
    let wished = |spec: Option<pb::PolicySpec>, field| spec.map(|spec| wished(spec, field)).transpose();
    Ok(Wish {
        etag: policy.etag,
        spec: wished(policy.spec, "policy.spec")?,
        dry_run: wished(policy.dry_run_spec, "policy.dry_run_spec")?,
    })
}

fn wished(spec: pb::PolicySpec, field: &str) -> Result<WishedSpec> {
    let rules = spec.rules.into_iter().map(|found| rule(found, field)).collect::<Result<_>>()?;
    let pb::PolicySpec { etag, inherit_from_parent, reset, .. } = spec;
    Ok(WishedSpec { etag, spec: Spec { rules, inherit_from_parent, reset } })
}

fn rule(rule: PolicyRule, field: &str) -> Result<Rule> {
    if rule.condition.is_some() {
        return Err(Error::unimplemented(
            "Conditions in policies are not built: this server has no tags that they could ask for.",
        ));
    }
    if rule.parameters.is_some() {
        return Err(Error::unimplemented(
            "Parameters of rules are not built: they are for managed constraints, which this server does not have.",
        ));
    }
    let wrong = |why: &str| Err(Error::invalid_field(format!("{field}.rules"), why));
    match rule.kind {
        Some(PbKind::Values(StringValues { allowed_values, denied_values })) => {
            Ok(Rule::Values { allowed: allowed_values, denied: denied_values })
        }
        Some(PbKind::AllowAll(true)) => Ok(Rule::AllowAll),
        Some(PbKind::DenyAll(true)) => Ok(Rule::DenyAll),
        Some(PbKind::AllowAll(false) | PbKind::DenyAll(false)) => {
            wrong("allow_all and deny_all can be true only")
        }
        Some(PbKind::Enforce(enforce)) => Ok(Rule::Enforce(enforce)),
        None => wrong("a rule needs values, allow_all, deny_all or enforce"),
    }
}
