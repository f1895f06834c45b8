//! What goes wrong, as a person reads it: the error, its details, and what to do next where that is known.
//!
//! Invariant: the first line is `error: MESSAGE`; the exit status is 1, or 2 when the command line is wrong.

use std::fmt::Write as _;
use std::process::ExitCode;

use claviger_proto::google::rpc::{BadRequest, PreconditionFailure, Status as RpcStatus};
use prost::{Message, Name};
use serde_json::Value;
use tonic::{Code, Status};

/// A command that did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for something that cannot be.
    Usage(String),
    /// Something on this side: a file, the terminal, the network.
    Local {
        /// What went wrong.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// The connection was not made, or broke.
    Lost {
        /// What went wrong.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// The server refused.
    Server(Box<Refusal>),
    /// The reader of standard output has gone: nothing to say and nobody to say it to.
    ReaderGone,
}

/// An error of the server, with its details.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Option<Code>,
    pub(crate) message: String,
    violations: Vec<Violation>,
    fields: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Violation {
    kind: String,
    subject: String,
    description: String,
}

impl Failure {
    /// A failure on this side, without advice.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::Local { message: message.into(), hint: None }
    }

    /// A failure on this side, with advice.
    pub(crate) fn advised(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Local { message: message.into(), hint: Some(hint.into()) }
    }

    /// Nothing answers at a URL.
    pub(crate) fn unreachable(url: &str, cause: &str) -> Self {
        Self::Lost {
            message: format!("no server answers at {url}: {cause}"),
            hint: Some(
                "start one with 'claviger serve', or name another with --endpoint URL or CLAVIGER_ENDPOINT"
                    .into(),
            ),
        }
    }

    /// A connection that broke.
    pub(crate) fn broken(url: &str, cause: &str) -> Self {
        Self::Lost { message: format!("the connection to {url} broke: {cause}"), hint: None }
    }

    /// What a JSON API over HTTP answered: a status that is no success, and its body.
    pub(crate) fn of_json(status: u16, body: &[u8]) -> Self {
        Self::Server(Box::new(Refusal::of_json(status, body)))
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Whether the server refused with this code.
    pub(crate) fn is(&self, code: Code) -> bool {
        matches!(self, Self::Server(refusal) if refusal.code == Some(code))
    }

    /// Whether the server gave this reason.
    pub(crate) fn because_of(&self, reason: &str) -> bool {
        matches!(self, Self::Server(refusal) if refusal.violations.iter().any(|told| told.kind == reason))
    }

    /// Whether the same may work in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        let passing = [Code::Unavailable, Code::ResourceExhausted, Code::DeadlineExceeded];
        matches!(self, Self::Lost { .. }) || passing.into_iter().any(|code| self.is(code))
    }

    /// The lines for standard error.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Usage(message) => format!("error: {message}\n\nFor more information, try '--help'.\n"),
            Self::Local { message, hint } | Self::Lost { message, hint } => {
                let mut text = format!("error: {message}\n");
                if let Some(hint) = hint {
                    let _ = writeln!(text, "hint: {hint}");
                }
                text
            }
            Self::Server(refusal) => refusal.text(),
            Self::ReaderGone => String::new(),
        }
    }

    /// Writes the lines and gives the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        crate::output::say_raw(&self.text());
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Local { .. } | Self::Lost { .. } | Self::Server(_) => ExitCode::FAILURE,
            Self::ReaderGone => ExitCode::SUCCESS,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let told = RpcStatus::decode(status.details()).unwrap_or_default();
        Self::Server(Box::new(Refusal::new(status.code(), status.message(), &told)))
    }
}

impl From<RpcStatus> for Failure {
    fn from(told: RpcStatus) -> Self {
        Self::Server(Box::new(Refusal::new(Code::from_i32(told.code), &told.message, &told)))
    }
}

impl From<claviger_core::Error> for Failure {
    fn from(error: claviger_core::Error) -> Self {
        Self::local(error.message())
    }
}

impl Refusal {
    fn new(code: Code, message: &str, told: &RpcStatus) -> Self {
        let mut refusal = Self { code: Some(code), message: message.to_owned(), ..Self::default() };
        for detail in &told.details {
            if detail.type_url.ends_with(&PreconditionFailure::full_name()) {
                let decoded = PreconditionFailure::decode(detail.value.as_slice()).unwrap_or_default();
                refusal.violations.extend(decoded.violations.into_iter().map(|v| Violation {
                    kind: v.r#type,
                    subject: v.subject,
                    description: v.description,
                }));
            } else if detail.type_url.ends_with(&BadRequest::full_name()) {
                let decoded = BadRequest::decode(detail.value.as_slice()).unwrap_or_default();
                let fields = decoded.field_violations.into_iter().map(|v| (v.field, v.description));
                refusal.fields.extend(fields);
            }
        }
        refusal
    }

    /// Reads Google's form of an error: `{"error": {"message": M, "errors": [{"reason": R}]}}`.
    fn of_json(status: u16, body: &[u8]) -> Self {
        let told: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = told.get("error").unwrap_or(&Value::Null);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let message = text(error.get("message"))
            .filter(|message| !message.is_empty())
            .unwrap_or_else(|| format!("the server answered with HTTP status {status}"));
        let reason = text(error.get("errors").and_then(|errors| errors.get(0)).and_then(|e| e.get("reason")));
        let mut refusal = Self { code: Some(code_of(status, reason.as_deref())), message, ..Self::default() };
        if let Some(reason) = reason {
            let subject = version_in(&refusal.message).or_else(|| key_in(&refusal.message));
            // The reason of storage covers several states of a key; the text says which one it is.
            let kind = match key_state_in(&refusal.message) {
                Some(state) if reason == "cloudKmsDisabledKey" => state.to_owned(),
                _ => reason,
            };
            let subject = subject.unwrap_or_default();
            refusal.violations.push(Violation { kind, subject, description: String::new() });
        }
        refusal
    }

    fn text(&self) -> String {
        let code = self.code.map_or("UNKNOWN", code_name);
        let mut text = format!("error: {} ({code})\n", self.message.trim_end());
        // A bare reason of a JSON API says no more than the code.
        let is_bare = |told: &&Violation| told.subject.is_empty() && told.description.is_empty();
        for violation in self.violations.iter().filter(|told| !is_bare(told)) {
            let _ = write!(text, "  reason: {} {}", violation.kind, violation.subject);
            if violation.description.is_empty() || self.message.contains(&violation.description) {
                text.push('\n');
            } else {
                let _ = writeln!(text, ": {}", violation.description);
            }
        }
        for (field, description) in &self.fields {
            if !self.message.contains(description.as_str()) {
                let _ = writeln!(text, "  field: {field}: {description}");
            } else if !self.message.contains(field.as_str()) {
                let _ = writeln!(text, "  field: {field}");
            }
        }
        if let Some(hint) = self.hint() {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }

    /// What to do next, where that is known.
    fn hint(&self) -> Option<String> {
        let has = |kind: &str| self.violations.iter().find(|violation| violation.kind == kind);
        if let Some(violation) = has("KEY_DISABLED") {
            return Some(match version_in(&violation.subject).or_else(|| version_in(&self.message)) {
                Some(version) => format!("enable it: claviger kms keys versions enable {version}"),
                None => format!("enable it: claviger kms keys enable {}", self.key()?),
            });
        }
        if let Some(violation) = has("KEY_DESTROY_SCHEDULED") {
            let version = version_in(&violation.subject).or_else(|| version_in(&self.message))?;
            return Some(format!(
                "restore and enable it: claviger kms keys versions restore {version} && claviger kms keys versions enable {version}"
            ));
        }
        if has("KEY_HAS_NO_PRIMARY_VERSION").is_some() {
            return Some(format!("make one: claviger kms keys rotate {}", self.key()?));
        }
        if let Some(constraint) = self.constraint() {
            return Some(format!(
                "see what the project allows: claviger org-policies describe {constraint} --effective"
            ));
        }
        if let Some((service, key)) = self.missing_grant() {
            return Some(format!(
                "let the service use the key: claviger kms keys authorize {key} --service {service}"
            ));
        }
        if self.message.contains("protected from deletion") {
            return Some(
                "take the protection off: claviger bigtable tables update TABLE --no-deletion-protection"
                    .into(),
            );
        }
        match self.code? {
            Code::Unavailable => Some("try again; if it stays so, look at the server's log".into()),
            Code::Aborted => Some("something else changed it at the same time: try again".into()),
            Code::Unimplemented => None,
            Code::PermissionDenied => Some(format!(
                "grant a role that has the permission: claviger kms keys add-iam-policy-binding {} --member PRINCIPAL --role ROLE",
                self.key()?
            )),
            _ => None,
        }
    }

    /// The constraint that a policy refused the request by.
    fn constraint(&self) -> Option<&str> {
        let (_, rest) =
            self.message.split_once("constraints/").filter(|_| self.message.contains("violated for"))?;
        rest.split('\'').next()
    }

    /// The service that lacks a grant, and the key.
    fn missing_grant(&self) -> Option<(&'static str, String)> {
        let told = self.code == Some(Code::PermissionDenied)
            || self.violations.iter().any(|violation| violation.kind == "KEY_PERMISSION_DENIED");
        let service = [
            ("gcp-sa-bigtable", "bigtable"),
            ("dataflow-service-producer-prod", "dataflow"),
            ("gs-project-accounts", "storage"),
        ]
        .into_iter()
        .find(|(domain, _)| self.message.contains(domain))?
        .1;
        if told || self.message.contains("cryptoKeyEncrypterDecrypter") {
            Some((service, self.key()?))
        } else {
            None
        }
    }

    /// The key that the error is about.
    fn key(&self) -> Option<String> {
        let subjects = self.violations.iter().map(|violation| violation.subject.as_str());
        subjects.chain([self.message.as_str()]).find_map(key_in)
    }
}

/// The state of a key that a text tells, as a violation names it.
fn key_state_in(text: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["is scheduled for destruction", "DESTROY_SCHEDULED"]) {
        return Some("KEY_DESTROY_SCHEDULED");
    }
    says(&[" is disabled. ", " DISABLED"]).then_some("KEY_DISABLED")
}

/// What to do next about a text that the server keeps, such as the reason why a job failed.
pub(crate) fn advice_on(text: &str) -> Option<String> {
    let mut refusal =
        Refusal { code: Some(Code::FailedPrecondition), message: text.to_owned(), ..Refusal::default() };
    if let Some(state) = key_state_in(text) {
        let subject = version_in(text).or_else(|| key_in(text)).unwrap_or_default();
        refusal.violations.push(Violation { kind: state.to_owned(), subject, description: String::new() });
    }
    refusal.hint()
}

/// The first key name in a text.
fn key_in(text: &str) -> Option<String> {
    named(text, &["projects", "locations", "keyRings", "cryptoKeys"])
}

/// The first key version name in a text.
fn version_in(text: &str) -> Option<String> {
    named(text, &["projects", "locations", "keyRings", "cryptoKeys", "cryptoKeyVersions"])
}

/// The first resource name in a text that starts with these collections, cut after the last one's id.
fn named(text: &str, collections: &[&str]) -> Option<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    let starts = text.match_indices("projects/").map(|(at, _)| at);
    starts.filter_map(|at| text.get(at..)).find_map(|rest| {
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let name = rest.get(..end)?.trim_end_matches(['.', ':']);
        let mut parts = name.split('/');
        let mut found = Vec::new();
        for collection in collections {
            let id = (parts.next()? == *collection).then(|| parts.next())??;
            found.push(format!("{collection}/{id}"));
        }
        Some(found.join("/"))
    })
}

/// The code of an HTTP status, as Google maps them.
fn code_of(status: u16, reason: Option<&str>) -> Code {
    match (status, reason) {
        (400, Some("cloudKmsDisabledKey")) | (412, _) => Code::FailedPrecondition,
        (409, Some("conflict")) => Code::AlreadyExists,
        (400 | 405 | 411 | 413, _) => Code::InvalidArgument,
        (401, _) => Code::Unauthenticated,
        (403, _) => Code::PermissionDenied,
        (404 | 410, _) => Code::NotFound,
        (409, _) => Code::Aborted,
        (416, _) => Code::OutOfRange,
        (408 | 504, _) => Code::DeadlineExceeded,
        (429, _) => Code::ResourceExhausted,
        (499, _) => Code::Cancelled,
        (501, _) => Code::Unimplemented,
        (502 | 503, _) => Code::Unavailable,
        (500.., _) => Code::Internal,
        _ => Code::Unknown,
    }
}

/// The code as Google spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The name of a code given as a number.
pub(crate) fn code_name_of(code: i32) -> &'static str {
    code_name(Code::from_i32(code))
}

#[cfg(test)]
mod tests {
    use claviger_proto::google::rpc::{bad_request, precondition_failure};

    use super::*;

    const VERSION: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7";
    const KEY: &str = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k";

    fn refused(code: Code, message: &str, kind: &str, subject: &str) -> Failure {
        let failure = PreconditionFailure {
            violations: vec![precondition_failure::Violation {
                r#type: kind.into(),
                subject: subject.into(),
                description: "why it is so".into(),
            }],
        };
        let any =
            prost_types::Any { type_url: PreconditionFailure::type_url(), value: failure.encode_to_vec() };
        RpcStatus { code: code as i32, message: message.into(), details: vec![any] }.into()
    }

    #[test]
    fn a_disabled_key_is_named_with_the_command_that_enables_it() {
        let text = refused(Code::FailedPrecondition, "The key is disabled.", "KEY_DISABLED", VERSION).text();
        assert_eq!(
            text,
            format!(
                "error: The key is disabled. (FAILED_PRECONDITION)\n  reason: KEY_DISABLED {VERSION}: why it is so\n\
                 hint: enable it: claviger kms keys versions enable {VERSION}\n"
            )
        );
        let whole = refused(Code::FailedPrecondition, "The key is disabled.", "KEY_DISABLED", KEY).text();
        assert!(whole.ends_with(&format!("claviger kms keys enable {KEY}\n")), "{whole}");
    }

    #[test]
    fn a_missing_grant_names_the_authorize_command() {
        let message = format!(
            "The service account service-1@gcp-sa-bigtable.iam.gserviceaccount.com may not use the Cloud KMS key {KEY} \
             protecting projects/p/instances/i."
        );
        let text = refused(Code::FailedPrecondition, &message, "KEY_PERMISSION_DENIED", "").text();
        assert!(text.contains(&format!("claviger kms keys authorize {KEY} --service bigtable")), "{text}");
    }

    #[test]
    fn other_states_of_keys_have_their_own_advice() {
        let scheduled = refused(Code::FailedPrecondition, "No.", "KEY_DESTROY_SCHEDULED", VERSION).text();
        assert!(scheduled.contains(&format!("versions restore {VERSION}")), "{scheduled}");
        let none = refused(Code::FailedPrecondition, "No.", "KEY_HAS_NO_PRIMARY_VERSION", KEY).text();
        assert!(none.contains(&format!("keys rotate {KEY}")), "{none}");
        let gone = refused(Code::FailedPrecondition, "No.", "KEY_DESTROYED", VERSION).text();
        assert!(!gone.contains("hint"), "{gone}");
    }

    #[test]
    fn a_violated_policy_is_named() {
        let message = "Constraint 'constraints/gcp.restrictNonCmekServices' violated for 'projects/p' attempting to perform the operation 'CreateTable' with violated value 'x'.";
        let told = refused(
            Code::FailedPrecondition,
            message,
            "constraints/gcp.restrictNonCmekServices",
            "orgpolicy:projects/p",
        );
        assert!(told.text().contains("org-policies describe gcp.restrictNonCmekServices --effective"));
    }

    #[test]
    fn a_protected_table_names_the_option_that_frees_it() {
        let message = "Table projects/p/instances/i/tables/t is protected from deletion.".to_owned();
        let told = RpcStatus { code: Code::FailedPrecondition as i32, message, details: Vec::new() };
        assert!(Failure::from(told).text().contains("--no-deletion-protection"));
    }

    #[test]
    fn fields_that_the_message_does_not_name_are_listed() {
        let bad = BadRequest {
            field_violations: vec![bad_request::FieldViolation {
                field: "table_id".into(),
                description: "is too long".into(),
                ..Default::default()
            }],
        };
        let any = prost_types::Any { type_url: BadRequest::type_url(), value: bad.encode_to_vec() };
        let told = RpcStatus { code: 3, message: "wrong".into(), details: vec![any.clone()] };
        assert!(Failure::from(told).text().contains("  field: table_id: is too long\n"));
        let said = RpcStatus { code: 3, message: "table_id: is too long".into(), details: vec![any] };
        assert_eq!(Failure::from(said).text(), "error: table_id: is too long (INVALID_ARGUMENT)\n");
    }

    #[test]
    fn the_reason_of_a_failed_job_has_its_advice() {
        let denied = format!(
            "Workflow failed. Causes: Cloud KMS key {KEY} cannot be validated. Grant \
             service-1@dataflow-service-producer-prod.iam.gserviceaccount.com the role \
             roles/cloudkms.cryptoKeyEncrypterDecrypter on the key."
        );
        let advice = advice_on(&denied).unwrap();
        assert!(
            advice.ends_with(&format!("claviger kms keys authorize {KEY} --service dataflow")),
            "{advice}"
        );
        let disabled =
            format!("The Cloud KMS key {VERSION} protecting a job is disabled. Access comes back.");
        assert!(advice_on(&disabled).unwrap().ends_with(&format!("versions enable {VERSION}")));
        assert_eq!(advice_on("The stage s3 failed: ZeroDivisionError"), None);
    }

    #[test]
    fn a_refusal_in_json_is_told_as_any_other() {
        let body = |message: &str, reason: &str| {
            serde_json::json!({"error": {"code": 400, "message": message, "errors": [{"reason": reason}]}})
                .to_string()
        };
        let text = |status, body: &str| Failure::of_json(status, body.as_bytes()).text();
        let missing = text(404, &body("The specified bucket does not exist.", "notFound"));
        assert_eq!(missing, "error: The specified bucket does not exist. (NOT_FOUND)\n");
        let disabled = format!(
            "Cloud KMS key is disabled, destroyed, or scheduled to be destroyed. The key {VERSION} of b is disabled. Access comes back."
        );
        let told = text(400, &body(&disabled, "cloudKmsDisabledKey"));
        assert!(told.contains("(FAILED_PRECONDITION)") && told.contains("KEY_DISABLED"), "{told}");
        assert!(told.contains(&format!("claviger kms keys versions enable {VERSION}")), "{told}");
        let denied = format!(
            "Permission denied on '{KEY}': grant service-1@gs-project-accounts.iam.gserviceaccount.com the role."
        );
        let told = text(403, &body(&denied, "forbidden"));
        assert!(told.contains(&format!("claviger kms keys authorize {KEY} --service storage")), "{told}");
        assert!(text(502, "<html>").contains("HTTP status 502 (UNAVAILABLE)"));
        assert!(Failure::of_json(503, b"").is_passing() && !Failure::of_json(404, b"").is_passing());
        assert!(
            Failure::of_json(412, body("No.", "conditionNotMet").as_bytes()).because_of("conditionNotMet")
        );
    }

    #[test]
    fn names_are_found_in_sentences() {
        assert_eq!(key_in(&format!("CryptoKey {KEY} not found.")).as_deref(), Some(KEY));
        assert_eq!(key_in(&format!("table projects/p/instances/i needs '{VERSION}'.")).as_deref(), Some(KEY));
        assert_eq!(version_in(&format!("{VERSION} is off")).as_deref(), Some(VERSION));
        assert_eq!(version_in(KEY), None);
        assert_eq!(key_in("projects/"), None);
    }
}
