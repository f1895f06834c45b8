//! `claviger org-policies`: what new resources of the project may be. Shaped like `gcloud org-policies`.
//!
//! Invariant: a policy is reset on top of the one that was read: its etag goes back.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use claviger_proto::google::cloud::orgpolicy::v2 as pb;
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use serde_json::Value;
use tonic::Code;

use crate::client::Session;
use crate::failure::Failure;
use crate::output::{Cell, Column, at};

/// The longest policy file, bytes.
const MAX_POLICY: u64 = 1 << 20;
/// What constraints are called in violations, and may be on the command line.
const PREFIX: &str = "constraints/";

const COLUMNS: [Column; 4] = [
    Column::new("CONSTRAINT", Cell::Id("name")),
    Column::new("LIST_POLICY", Cell::Made(list_policy)),
    Column::new("BOOLEAN_POLICY", Cell::Made(boolean_policy)),
    Column::new("ETAG", Cell::Path("etag")),
];

const EXAMPLES: &str = "\
Examples:
  claviger org-policies set-policy policy.yaml
  claviger org-policies describe gcp.restrictNonCmekServices --effective
  claviger org-policies list --show-unset
  claviger org-policies reset cloudkms.disableBeforeDestroy
  claviger org-policies delete gcp.restrictNonCmekServices

A policy file, which lets no table and no bucket be made without a key of the customer's:
  name: projects/birds/policies/gcp.restrictNonCmekServices
  spec:
    rules:
    - values:
        deniedValues:
        - is:bigtable.googleapis.com
        - is:storage.googleapis.com";

/// `claviger org-policies ...`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Command {
    /// Set the policy of a file: what it is about and whose it is are in its name
    #[command(after_help = EXAMPLES)]
    SetPolicy(SetPolicy),
    /// Show a policy as it was set, or what is enforced
    Describe(Describe),
    /// List the policies that are set
    List(List),
    /// Remove a policy: the constraint's default holds again
    Delete(Delete),
    /// Set a policy to the constraint's default
    Reset(Reset),
}

/// `claviger org-policies set-policy`.
#[derive(Debug, Args)]
pub(crate) struct SetPolicy {
    /// The policy in JSON or YAML, as describe writes it with --format json or yaml
    #[arg(value_name = "POLICY_FILE")]
    file: PathBuf,
    #[command(flatten)]
    part: PartFlag,
}

/// Which specification a command is about.
#[derive(Debug, Args)]
pub(crate) struct PartFlag {
    /// What of a policy that is there to change: what is enforced, what is tried, or both
    #[arg(long, value_enum, value_name = "PART")]
    update_mask: Option<Part>,
}

/// A part of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    // Plain comments: help lists the names on one line then.
    // What is enforced.
    #[value(name = "spec", alias = "policy.spec")]
    Spec,
    // What is tried: violations are logged.
    #[value(name = "dry_run_spec", aliases = ["dryRunSpec", "policy.dry_run_spec", "policy.dryRunSpec"])]
    DryRunSpec,
    // Both.
    #[value(name = "*")]
    Both,
}

/// `claviger org-policies describe`.
#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// The constraint, such as gcp.restrictNonCmekServices
    #[arg(value_name = "CONSTRAINT")]
    constraint: String,
    /// Show what is enforced, whether a policy is set or not
    #[arg(long)]
    effective: bool,
}

/// `claviger org-policies list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Show constraints without a policy as well
    #[arg(long)]
    show_unset: bool,
}

/// `claviger org-policies delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The constraint, such as gcp.restrictNonCmekServices
    #[arg(value_name = "CONSTRAINT")]
    constraint: String,
    /// Only while the policy has this etag
    #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
    etag: String,
}

/// `claviger org-policies reset`.
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// The constraint, such as gcp.restrictNonCmekServices
    #[arg(value_name = "CONSTRAINT")]
    constraint: String,
    #[command(flatten)]
    part: PartFlag,
}

/// Runs a command.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::SetPolicy(set) => {
            let policy = read(&crate::flags::read_file(&set.file, MAX_POLICY)?)
                .map_err(|why| Failure::local(format!("{}: {why}", set.file.display())))?;
            let name = policy.name.clone();
            let policy = match get(session, &name).await? {
                Some(_) => update(session, policy, set.part.update_mask).await?,
                None => create(session, policy).await?,
            };
            session.out.done(&policy, &format!("Set policy [{name}]."))
        }
        Command::Describe(describe) => {
            let name = name(session, &describe.constraint);
            let policy = if describe.effective {
                let request = pb::GetEffectivePolicyRequest { name };
                session.org_policies().get_effective_policy(request).await?.into_inner()
            } else {
                let request = pb::GetPolicyRequest { name };
                session.org_policies().get_policy(request).await?.into_inner()
            };
            session.out.one(&policy)
        }
        Command::List(list) => session.out.list(&policies(session, list.show_unset).await?, &COLUMNS),
        Command::Delete(delete) => {
            let name = name(session, &delete.constraint);
            let request = pb::DeletePolicyRequest { name: name.clone(), etag: delete.etag };
            session.org_policies().delete_policy(request).await?;
            crate::output::say(&format!("Deleted policy [{name}]."));
            Ok(())
        }
        Command::Reset(reset) => {
            let name = name(session, &reset.constraint);
            let before = get(session, &name).await?;
            let there = before.is_some();
            let part = reset.part.update_mask.unwrap_or(Part::Spec);
            let before = before.unwrap_or_else(|| pb::Policy { name: name.clone(), ..Default::default() });
            let wanted = with_defaults(before, part);
            let policy = if there {
                update(session, wanted, Some(part)).await?
            } else {
                create(session, wanted).await?
            };
            session.out.done(&policy, &format!("Reset policy [{name}]."))
        }
    }
}

fn name(session: &Session, constraint: &str) -> String {
    let id = constraint.strip_prefix(PREFIX).unwrap_or(constraint);
    format!("projects/{}/policies/{id}", session.project)
}

async fn get(session: &Session, name: &str) -> Result<Option<pb::Policy>, Failure> {
    let request = pb::GetPolicyRequest { name: name.to_owned() };
    match session.org_policies().get_policy(request).await.map_err(Failure::from) {
        Ok(reply) => Ok(Some(reply.into_inner())),
        Err(failure) if failure.is(Code::NotFound) => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn create(session: &Session, policy: pb::Policy) -> Result<pb::Policy, Failure> {
    let parent = policy.name.split_once("/policies/").map(|(parent, _)| parent.to_owned());
    let parent = parent.unwrap_or_else(|| format!("projects/{}", session.project));
    let request = pb::CreatePolicyRequest { parent, policy: Some(policy) };
    Ok(session.org_policies().create_policy(request).await?.into_inner())
}

async fn update(session: &Session, policy: pb::Policy, part: Option<Part>) -> Result<pb::Policy, Failure> {
    let path = part.map(|part| match part {
        Part::Spec => "policy.spec",
        Part::DryRunSpec => "policy.dry_run_spec",
        Part::Both => "*",
    });
    let update_mask = path.map(|path| prost_types::FieldMask { paths: vec![path.to_owned()] });
    let request = pb::UpdatePolicyRequest { policy: Some(policy), update_mask };
    Ok(session.org_policies().update_policy(request).await?.into_inner())
}

/// The policy with the constraint's default in place of a part.
fn with_defaults(mut policy: pb::Policy, part: Part) -> pb::Policy {
    let reset = |spec: Option<pb::PolicySpec>| {
        let etag = spec.unwrap_or_default().etag;
        Some(pb::PolicySpec { etag, reset: true, ..Default::default() })
    };
    if part != Part::DryRunSpec {
        policy.spec = reset(policy.spec.take());
    }
    if part != Part::Spec {
        policy.dry_run_spec = reset(policy.dry_run_spec.take());
    }
    policy
}

/// The policies that are set, and empty ones of constraints for which none is.
async fn policies(session: &Session, show_unset: bool) -> Result<Vec<pb::Policy>, Failure> {
    let parent = format!("projects/{}", session.project);
    let mut client = session.org_policies();
    let mut policies = Vec::new();
    let mut request = pb::ListPoliciesRequest { parent: parent.clone(), ..Default::default() };
    loop {
        let page = client.list_policies(request.clone()).await?.into_inner();
        policies.extend(page.policies);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if !show_unset {
        return Ok(policies);
    }
    let mut request = pb::ListConstraintsRequest { parent, ..Default::default() };
    loop {
        let page = client.list_constraints(request.clone()).await?.into_inner();
        for constraint in page.constraints {
            let name = constraint.name.replace("/constraints/", "/policies/");
            if !policies.iter().any(|policy| policy.name == name) {
                policies.push(pb::Policy { name, ..Default::default() });
            }
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(policies);
        }
    }
}

fn list_policy(policy: &Value) -> String {
    set(policy, &["values", "allowAll", "denyAll"])
}

fn boolean_policy(policy: &Value) -> String {
    set(policy, &["enforce"])
}

/// Whether rules of a kind are enforced or tried, in gcloud's words.
fn set(policy: &Value, kinds: &[&str]) -> String {
    let has = |spec: &str| {
        let rules = at(policy, spec).and_then(|spec| at(spec, "rules")).and_then(Value::as_array);
        rules.is_some_and(|rules| rules.iter().any(|rule| kinds.iter().any(|kind| rule.get(kind).is_some())))
    };
    match (has("spec"), has("dryRunSpec")) {
        (true, true) => "LIVE_AND_DRY_RUN_SET",
        (true, false) => "SET",
        (false, true) => "DRY_RUN_SET",
        (false, false) => "-",
    }
    .to_owned()
}

/// A policy from JSON or YAML; JSON is YAML.
fn read(bytes: &[u8]) -> Result<pb::Policy, String> {
    let value: Value = serde_yaml_ng::from_slice(bytes).map_err(|error| error.to_string())?;
    let descriptor = claviger_proto::pool()
        .get_message_by_name(&pb::Policy::full_name())
        .ok_or("policies have no descriptor")?;
    let dynamic = DynamicMessage::deserialize(descriptor, value).map_err(|error| error.to_string())?;
    let policy = pb::Policy::decode(dynamic.encode_to_vec().as_slice()).map_err(|error| error.to_string())?;
    if policy.name.is_empty() {
        return Err("it has no name: write one, as projects/PROJECT/policies/CONSTRAINT".to_owned());
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_comes_back_from_the_file_that_it_was_written_to() {
        let yaml = "\
name: projects/p/policies/gcp.restrictNonCmekServices
etag: a1
spec:
  rules:
  - values:
      denied_values: [is:storage.googleapis.com]
  - allowAll: true
";
        let policy = read(yaml.as_bytes()).unwrap();
        assert_eq!((policy.etag.as_str(), policy.spec.as_ref().unwrap().rules.len()), ("a1", 2));
        let value = crate::output::value(&policy).unwrap();
        assert_eq!(read(crate::output::json(&value).as_bytes()).unwrap(), policy);
        assert_eq!(read(crate::output::yaml(&value).unwrap().as_bytes()).unwrap(), policy);
        assert!(read(b"name: x\nspek: {}").unwrap_err().contains("spek"));
        assert!(read(b"spec: {}").unwrap_err().contains("no name"));
    }

    #[test]
    fn a_reset_keeps_the_etags_and_the_other_part() {
        let spec = |etag: &str| pb::PolicySpec {
            etag: etag.into(),
            rules: vec![Default::default()],
            inherit_from_parent: true,
            ..Default::default()
        };
        let policy = || pb::Policy {
            etag: "e".into(),
            spec: Some(spec("s")),
            dry_run_spec: Some(spec("d")),
            ..Default::default()
        };
        let default =
            |etag: &str| Some(pb::PolicySpec { etag: etag.into(), reset: true, ..Default::default() });
        let live = with_defaults(policy(), Part::Spec);
        assert_eq!((live.etag.as_str(), live.spec, live.dry_run_spec), ("e", default("s"), Some(spec("d"))));
        let tried = with_defaults(policy(), Part::DryRunSpec);
        assert_eq!((tried.spec, tried.dry_run_spec), (Some(spec("s")), default("d")));
        let both = with_defaults(policy(), Part::Both);
        assert_eq!((both.spec, both.dry_run_spec), (default("s"), default("d")));
    }

    #[test]
    fn a_list_tells_what_is_enforced_from_what_is_tried() {
        let list = json!({"rules": [{"values": {"deniedValues": ["a"]}}]});
        let boolean = json!({"rules": [{"enforce": true}]});
        for (policy, expected) in [
            (json!({"spec": list, "dryRunSpec": list}), ["LIVE_AND_DRY_RUN_SET", "-"]),
            (json!({"spec": list}), ["SET", "-"]),
            (json!({"dryRunSpec": list}), ["DRY_RUN_SET", "-"]),
            (json!({"spec": boolean}), ["-", "SET"]),
            (json!({"spec": {"reset": true}}), ["-", "-"]),
            (json!({}), ["-", "-"]),
        ] {
            assert_eq!([list_policy(&policy), boolean_policy(&policy)], expected, "{policy}");
        }
    }
}
