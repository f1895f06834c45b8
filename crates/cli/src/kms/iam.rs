//! Policies: who may do what with a key ring or a key.
//!
//! Invariant: a policy is changed only on top of the one that was read (its etag goes back). When someone
//! else was faster, the change is made again on theirs.

use std::path::PathBuf;

use clap::Args;
use claviger_proto::google::iam::v1::{
    Binding, GetIamPolicyRequest, GetPolicyOptions, Policy, SetIamPolicyRequest,
};
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use tonic::Code;

use crate::client::Session;
use crate::failure::Failure;

/// How often a change is made again on top of someone else's.
const ATTEMPTS: usize = 8;
/// The policy's newest format, which has conditions. Asked for so that none is lost when it is written back.
const POLICY_VERSION: i32 = 3;
/// The longest policy file, bytes.
const MAX_POLICY: u64 = 1 << 20;

/// A role for someone.
#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// Who: user:ADDRESS, serviceAccount:ADDRESS, group:ADDRESS
    #[arg(long, value_name = "PRINCIPAL")]
    member: String,
    /// What: a role, such as roles/cloudkms.cryptoKeyEncrypterDecrypter
    #[arg(long, value_name = "ROLE")]
    role: String,
}

/// A file with a policy.
#[derive(Debug, Args)]
pub(crate) struct PolicyFile {
    /// The policy, as get-iam-policy writes it with --format json or yaml
    #[arg(value_name = "POLICY_FILE")]
    file: PathBuf,
}

/// Writes the policy.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn show(session: &Session, resource: String) -> Result<(), Failure> {
    let policy = get(session, &resource).await?;
    session.out.one(&policy)
}

/// Puts the policy of a file in place.
///
/// # Errors
/// A file that is no policy; what the server refuses.
pub(crate) async fn replace(session: &Session, resource: String, file: &PolicyFile) -> Result<(), Failure> {
    let policy = read(&crate::flags::read_file(&file.file, MAX_POLICY)?)
        .map_err(|why| Failure::local(format!("{}: {why}", file.file.display())))?;
    let request = SetIamPolicyRequest { resource: resource.clone(), policy: Some(policy), update_mask: None };
    let policy = session.policies().set_iam_policy(request).await?.into_inner();
    session.out.done(&policy, &format!("Updated the IAM policy of [{resource}]."))?;
    shown_in_table(session, &policy)
}

/// Gives a role.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn add(session: &Session, resource: String, grant: &Grant) -> Result<(), Failure> {
    let (policy, changed) =
        change(session, &resource, |policy| give(policy, &grant.role, &grant.member)).await?;
    let (member, role) = (&grant.member, &grant.role);
    let sentence = if changed {
        format!("Gave [{member}] the role [{role}] on [{resource}].")
    } else {
        format!("[{member}] already has the role [{role}] on [{resource}].")
    };
    session.out.done(&policy, &sentence)?;
    shown_in_table(session, &policy)
}

/// Takes a role.
///
/// # Errors
/// When the member does not have it; what the server refuses.
pub(crate) async fn remove(session: &Session, resource: String, grant: &Grant) -> Result<(), Failure> {
    let (policy, changed) =
        change(session, &resource, |policy| take(policy, &grant.role, &grant.member)).await?;
    if !changed {
        return Err(Failure::advised(
            format!("[{}] does not have the role [{}] on [{resource}]", grant.member, grant.role),
            "look at the policy with get-iam-policy",
        ));
    }
    let sentence = format!("Took the role [{}] on [{resource}] from [{}].", grant.role, grant.member);
    session.out.done(&policy, &sentence)?;
    shown_in_table(session, &policy)
}

/// People who change a policy want to see what it is now; programs have it in [`crate::output::Output::done`].
fn shown_in_table(session: &Session, policy: &Policy) -> Result<(), Failure> {
    if session.out.format == crate::output::Format::Table { session.out.one(policy) } else { Ok(()) }
}

/// Reads, changes and writes a policy until nobody else was faster. Tells whether there was anything to change.
///
/// # Errors
/// What the server refuses; `Aborted` when others were faster each time.
pub(crate) async fn change(
    session: &Session,
    resource: &str,
    change: impl Fn(&mut Policy) -> bool,
) -> Result<(Policy, bool), Failure> {
    let mut attempt = 1;
    loop {
        let mut policy = get(session, resource).await?;
        if !change(&mut policy) {
            return Ok((policy, false));
        }
        let request =
            SetIamPolicyRequest { resource: resource.to_owned(), policy: Some(policy), update_mask: None };
        match session.policies().set_iam_policy(request).await.map_err(Failure::from) {
            Ok(reply) => return Ok((reply.into_inner(), true)),
            Err(failure) if failure.is(Code::Aborted) && attempt < ATTEMPTS => attempt += 1,
            Err(failure) => return Err(failure),
        }
    }
}

async fn get(session: &Session, resource: &str) -> Result<Policy, Failure> {
    let options = Some(GetPolicyOptions { requested_policy_version: POLICY_VERSION });
    let request = GetIamPolicyRequest { resource: resource.to_owned(), options };
    Ok(session.policies().get_iam_policy(request).await?.into_inner())
}

/// Adds a member to a role's unconditional binding. False when it is there already.
pub(crate) fn give(policy: &mut Policy, role: &str, member: &str) -> bool {
    let unconditional = |binding: &&mut Binding| binding.role == role && binding.condition.is_none();
    match policy.bindings.iter_mut().find(unconditional) {
        Some(binding) if binding.members.iter().any(|there| there == member) => false,
        Some(binding) => {
            binding.members.push(member.to_owned());
            true
        }
        None => {
            policy.bindings.push(Binding {
                role: role.to_owned(),
                members: vec![member.to_owned()],
                condition: None,
            });
            true
        }
    }
}

/// Removes a member from a role's unconditional bindings. False when it is in none.
fn take(policy: &mut Policy, role: &str, member: &str) -> bool {
    let mut taken = false;
    for binding in &mut policy.bindings {
        if binding.role == role && binding.condition.is_none() {
            let before = binding.members.len();
            binding.members.retain(|there| there != member);
            taken |= binding.members.len() != before;
        }
    }
    policy.bindings.retain(|binding| !binding.members.is_empty());
    taken
}

/// A policy from JSON or YAML; JSON is YAML.
fn read(bytes: &[u8]) -> Result<Policy, String> {
    let value: serde_json::Value = serde_yaml_ng::from_slice(bytes).map_err(|error| error.to_string())?;
    let descriptor = claviger_proto::pool()
        .get_message_by_name(&Policy::full_name())
        .ok_or("policies have no descriptor")?;
    let dynamic = DynamicMessage::deserialize(descriptor, value).map_err(|error| error.to_string())?;
    Policy::decode(dynamic.encode_to_vec().as_slice()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use claviger_proto::google::r#type::Expr;

    use super::*;

    fn policy(members: &[&str], condition: Option<Expr>) -> Policy {
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        Policy {
            bindings: vec![Binding { role: "roles/x".into(), members, condition }],
            ..Default::default()
        }
    }

    #[test]
    fn a_grant_joins_its_role_and_is_made_once() {
        let mut policy = policy(&["user:a"], None);
        assert!(give(&mut policy, "roles/x", "user:b"));
        assert!(!give(&mut policy, "roles/x", "user:b"));
        assert!(give(&mut policy, "roles/y", "user:b"));
        assert_eq!(policy.bindings.len(), 2);
        assert_eq!(policy.bindings[0].members, ["user:a", "user:b"]);
    }

    #[test]
    fn a_grant_under_a_condition_is_another_grant() {
        let mut policy = policy(&["user:a"], Some(Expr::default()));
        assert!(give(&mut policy, "roles/x", "user:a"));
        assert_eq!(policy.bindings.len(), 2);
        assert!(take(&mut policy, "roles/x", "user:a"));
        assert_eq!(policy.bindings.len(), 1);
        assert!(policy.bindings[0].condition.is_some());
    }

    #[test]
    fn the_last_member_takes_the_binding_with_it() {
        let mut policy = policy(&["user:a"], None);
        assert!(!take(&mut policy, "roles/x", "user:b"));
        assert!(take(&mut policy, "roles/x", "user:a"));
        assert!(policy.bindings.is_empty());
    }

    #[test]
    fn a_policy_comes_back_from_the_file_that_it_was_written_to() {
        let mut written = policy(&["user:a"], None);
        written.etag = vec![1, 2, 3].into();
        let value = crate::output::value(&written).unwrap();
        assert_eq!(read(crate::output::json(&value).as_bytes()).unwrap(), written);
        assert_eq!(read(crate::output::yaml(&value).unwrap().as_bytes()).unwrap(), written);
        assert!(read(b"bindinks: []").unwrap_err().contains("bindinks"));
    }
}
