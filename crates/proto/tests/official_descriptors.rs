//! Our `.proto` files say the same as the official ones, in all that they say.
//!
//! The official descriptors come from the packages that `clients/python/descriptors/requirements.txt` pins:
//! `dump.py` there writes them to a file, and `CLAVIGER_OFFICIAL_DESCRIPTORS` names it. Each name, number,
//! type, label, enum value, method and HTTP rule of ours is looked up there. What ours leave out is no
//! difference, but a field left out of a message that we have must be in [`LEFT_OUT`].

use std::collections::BTreeSet;
use std::fs;

use claviger_proto::FILE_DESCRIPTOR_SET;

#[path = "official_descriptors/facts.rs"]
mod facts;
use facts::Facts;

const NO_REQUESTS: &str = "entries of the audit log have no request, trace or parts";
const NOT_KNOWN: &str = "the audit log does not keep it";
const BY_NAME: &str = "callers are known by their IAM names alone";

/// Fields that our messages do without, each with the reason.
const LEFT_OUT: [(&str, &str); 25] = [
    ("google.rpc.BadRequest.FieldViolation.localized_message", "messages are in English"),
    ("google.cloud.kms.v1.CryptoKeyVersion.attestation", "sent for hardware keys only"),
    ("google.cloud.kms.v1.ImportJob.attestation", "sent for hardware keys only"),
    ("google.bigtable.admin.v2.Table.restore_info", "sent for restored tables only"),
    (
        "google.cloud.orgpolicy.v2.Constraint.BooleanConstraint.custom_constraint_definition",
        "sent for managed constraints only",
    ),
    ("google.logging.v2.LogEntry.http_request", NO_REQUESTS),
    ("google.logging.v2.LogEntry.operation", NO_REQUESTS),
    ("google.logging.v2.LogEntry.trace", NO_REQUESTS),
    ("google.logging.v2.LogEntry.span_id", NO_REQUESTS),
    ("google.logging.v2.LogEntry.trace_sampled", NO_REQUESTS),
    ("google.logging.v2.LogEntry.source_location", NO_REQUESTS),
    ("google.logging.v2.LogEntry.split", NO_REQUESTS),
    ("google.cloud.audit.AuditLog.resource_location", NOT_KNOWN),
    ("google.cloud.audit.AuditLog.resource_original_state", NOT_KNOWN),
    ("google.cloud.audit.AuditLog.num_response_items", NOT_KNOWN),
    ("google.cloud.audit.AuditLog.authorization_info", NOT_KNOWN),
    ("google.cloud.audit.AuditLog.policy_violation_info", NOT_KNOWN),
    ("google.cloud.audit.AuditLog.request_metadata", NOT_KNOWN),
    ("google.cloud.audit.AuditLog.request", NOT_KNOWN),
    ("google.cloud.audit.AuditLog.response", NOT_KNOWN),
    ("google.cloud.audit.AuditLog.service_data", NOT_KNOWN),
    ("google.cloud.audit.AuthenticationInfo.authority_selector", BY_NAME),
    ("google.cloud.audit.AuthenticationInfo.third_party_principal", BY_NAME),
    ("google.cloud.audit.AuthenticationInfo.service_account_key_name", BY_NAME),
    ("google.cloud.audit.AuthenticationInfo.service_account_delegation_info", BY_NAME),
];

/// HTTP rules that the public API has and the packages do not show.
const ELSEWHERE: [(&str, &str); 6] = [
    // In the discovery document of bigtableadmin v2; gcloud lists zones with them.
    ("google.cloud.location.Locations.ListLocations", "get /v2/{name=projects/*}/locations"),
    ("google.cloud.location.Locations.GetLocation", "get /v2/{name=projects/*/locations/*}"),
    // In the discovery document of logging v2; its client library speaks gRPC only.
    ("google.logging.v2.LoggingServiceV2.ListLogEntries", "post /v2/entries:list body *"),
    ("google.logging.v2.LoggingServiceV2.WriteLogEntries", "post /v2/entries:write body *"),
    ("google.logging.v2.LoggingServiceV2.ListLogs", "get /v2/{parent=projects/*}/logs"),
    ("google.logging.v2.LoggingServiceV2.DeleteLog", "delete /v2/{log_name=projects/*/logs/*}"),
];

fn differences(ours: &Facts, official: &Facts) -> Vec<String> {
    facts::differences(ours, official, &LEFT_OUT, &ELSEWHERE)
}

#[test]
#[ignore = "needs the official descriptors: `cargo xtask test` fetches them"]
fn ours_say_the_same_as_the_official_descriptors() {
    let path = std::env::var("CLAVIGER_OFFICIAL_DESCRIPTORS")
        .expect("set CLAVIGER_OFFICIAL_DESCRIPTORS to what clients/python/descriptors/dump.py wrote");
    let official = Facts::read(&fs::read(&path).expect("a readable file"));
    let ours = Facts::read(FILE_DESCRIPTOR_SET);
    assert!(ours.said.len() > 1000 && official.said.len() > ours.said.len(), "one of the sets is not whole");
    let found = differences(&ours, &official);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_changed_word_is_named() {
    let official = Facts::read(FILE_DESCRIPTOR_SET);
    assert!(differences(&Facts::read(FILE_DESCRIPTOR_SET), &official).is_empty());
    let cases = [
        ("field google.bigtable.v2.Mutation.SetCell.value", "number 4", "number 5"),
        ("field google.bigtable.v2.Mutation.SetCell.value", "type 12", "type 9"),
        ("field google.bigtable.v2.Row.families", "label 3", "label 1"),
        ("field google.bigtable.v2.RowFilter.sink", "oneof filter", "oneof -"),
        ("value google.cloud.kms.v1.CryptoKeyVersion.CryptoKeyVersionState.DISABLED", "number 2", "number 3"),
        ("method google.bigtable.v2.Bigtable.ReadRows", "(stream true)", "(stream false)"),
    ];
    for (thing, word, other) in cases {
        let mut broken = Facts::read(FILE_DESCRIPTOR_SET);
        let said = broken.said.get_mut(thing).unwrap_or_else(|| panic!("{thing} is not there"));
        assert!(said.contains(word), "{thing}: {said}");
        *said = said.replace(word, other);
        let found = differences(&broken, &official);
        assert!(found.len() == 1 && found[0].starts_with(thing), "{found:?}");
    }
}

#[test]
fn a_changed_rule_and_a_lost_field_are_named() {
    let official = Facts::read(FILE_DESCRIPTOR_SET);
    let method = "google.cloud.kms.v1.KeyManagementService.Encrypt";
    let mut broken = Facts::read(FILE_DESCRIPTOR_SET);
    broken.rules.insert(method.into(), BTreeSet::from(["post /v1/{name=**}:encrypt body *".into()]));
    let found = differences(&broken, &official);
    assert!(found.len() == 1 && found[0].starts_with(method), "{found:?}");

    let mut broken = Facts::read(FILE_DESCRIPTOR_SET);
    broken.fields.get_mut("google.iam.v1.Policy").expect("there").remove("etag");
    let found = differences(&broken, &official);
    assert!(found.len() == 1 && found[0].starts_with("google.iam.v1.Policy.etag"), "{found:?}");
}
