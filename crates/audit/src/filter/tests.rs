//! Filters against one entry of each kind, and against texts that are none.

use claviger_core::ErrorKind;

use super::*;

/// An entry of the audit log as it is shown.
struct Shown(Vec<(&'static [&'static str], Value<'static>)>);

impl Fields for Shown {
    fn visit(&self, see: &mut dyn FnMut(&[&str], Value<'_>)) {
        self.0.iter().for_each(|(path, value)| see(path, *value));
    }
}

const AT: i64 = 1_795_420_800_000_000;

fn entry() -> Shown {
    Shown(vec![
        (&["logName"], Value::Text("projects/p/logs/cloudaudit.googleapis.com%2Fdata_access")),
        (&["resource", "type"], Value::Text("cloudkms_cryptokey")),
        (&["resource", "labels", "location"], Value::Text("us-east1")),
        (&["labels", "job_id"], Value::Text("2026-11-23_01-7")),
        (&["labels", "example.com/team"], Value::Text("Owls")),
        (&["timestamp"], Value::Time(Timestamp(AT + 1))),
        (&["receiveTimestamp"], Value::Time(Timestamp(AT + 1))),
        (&["severity"], Value::Severity(500)),
        (&["insertId"], Value::Text("00000000000000000017")),
        (&["protoPayload", "methodName"], Value::Text("Decrypt")),
        (&["protoPayload", "status", "code"], Value::Number(7)),
        (&["protoPayload", "status", "message"], Value::Text("The key \"k\" is disabled.\n")),
    ])
}

fn holds(filter: &str) -> bool {
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&entry())
}

#[test]
fn comparisons_that_hold() {
    for filter in [
        "",
        "  \n -- only a comment",
        "labels.job_id=\"2026-11-23_01-7\"",
        "labels.job_id = 2026-11-23_01-7",
        "labels.\"example.com/team\" = owls",
        "labels.\"example.com/team\"=\"OWLS\"",
        "protoPayload.methodName=decrypt",
        "protoPayload.methodName!=Encrypt",
        "protoPayload.methodName>Da AND protoPayload.methodName<=DECRYPT",
        "protoPayload.methodName:crypt",
        "protoPayload:disabled",
        "protoPayload.status.message:\"\\\"k\\\" is\"",
        "protoPayload.status.message:\"\\x2e\\n\"",
        "protoPayload.status.code=7",
        "protoPayload.status.code>-1 protoPayload.status.code<7.5",
        "protoPayload.status.code:*",
        "labels:*",
        "labels.job_id=*",
        "logName=projects/p/logs/cloudaudit.googleapis.com%2Fdata_access",
        "logName:data_access",
        "log_id(\"cloudaudit.googleapis.com/data_access\")",
        "log_id( cloudaudit.googleapis.com/data_access )",
        "severity>=ERROR",
        "severity>warning",
        "severity=500",
        "severity:error",
        "timestamp>=\"2026-11-23T08:00:00Z\"",
        "timestamp>\"2026-11-23\" AND timestamp<'2026-11-24T00:00:00+02:00'",
        "timestamp>=\"2026-11-23T08:00:00.000000+0000\"",
        "timestamp=\"2026-11-23T08:00:00.000001Z\"",
        "protoPayload.methodName=~\"^De.*t$\"",
        "protoPayload.methodName!~\"^de\"",
        "protoPayload.methodName=(Encrypt OR Decrypt)",
        "protoPayload.methodName:(de AND NOT en)",
        "trace=\"\" AND operation.first=\"\"",
        "disabled",
        "\"key \\\"K\\\" is\"",
        "cloudkms_cryptokey us-east1",
    ] {
        assert!(holds(filter), "{filter}");
    }
}

#[test]
fn comparisons_that_do_not_hold() {
    for filter in [
        "labels.job_id=other",
        "labels.job_id!=2026-11-23_01-7",
        "labels.\"example.com/team\"=owl",
        "protoPayload.methodName=~\"decrypt\"",
        "protoPayload.methodName!~\"Decrypt\"",
        "protoPayload.status.code=\"seven\"",
        "protoPayload.status.code>=8",
        "severity<ERROR",
        "timestamp<\"2026-11-23T08:00:00Z\"",
        "timestamp=\"2026-11-23T08:00:00.0000011Z\"",
        "protoPayload.methodName=(Encrypt OR Create)",
        "jsonPayload:*",
        "trace:*",
        "insertId=\"*\"",
        "log_id(\"cloudaudit.googleapis.com/activity\")",
        "unicorn",
        "decrypt unicorn",
    ] {
        assert!(!holds(filter), "{filter}");
    }
}

#[test]
fn a_missing_field_fails_every_comparison_and_not_turns_that_around() {
    for comparison in ["=x", "!=x", "<x", ":x", "=~\"x\"", "!~\"x\""] {
        assert!(!holds(&format!("labels.none{comparison}")), "{comparison}");
        assert!(holds(&format!("NOT labels.none{comparison}")), "{comparison}");
    }
}

#[test]
fn not_binds_closer_than_or_and_or_closer_than_and() {
    let (yes, no) = ("decrypt", "unicorn");
    for (filter, expected) in [
        (format!("{yes} OR {no} AND {no}"), false),
        (format!("({yes} OR ({no} AND {no}))"), true),
        (format!("{yes} {no} OR {yes}"), true),
        (format!("NOT {no} OR {no}"), true),
        (format!("NOT ({no} OR {yes})"), false),
        (format!("-{no} AND {yes}"), true),
        (format!("-({yes})"), false),
        (format!("NOT NOT {yes}"), true),
        (format!("- NOT {yes}"), true),
        (format!("{yes} -- {no}\n AND {yes}"), true),
        (format!("{yes} and"), false),
        ("NOTHING".into(), false),
    ] {
        assert_eq!(holds(&filter), expected, "{filter}");
    }
}

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    for (filter, place, part) in [
        ("labels.job_id=", "column 15", "a value is missing"),
        ("= 3", "column 1", "a field or a text is missing"),
        ("(decrypt", "column 9", "')' is missing"),
        ("decrypt)", "column 8", "')'"),
        ("decrypt AND", "column 12", "missing"),
        ("decrypt AND OR decrypt", "column 13", "missing"),
        ("OR decrypt", "column 1", "missing"),
        ("decrypt\n AND thud=1", "line 2, column 6", "no field 'thud'"),
        ("operation.thud=1", "column 1", "no field"),
        ("textPayload.thud=1", "column 1", "no field"),
        ("resource.thud=1", "column 1", "no field"),
        ("resource=1", "column 10", "no value of its own"),
        ("\"labels\"=1", "column 1", "quotes"),
        ("severity=LOUD", "column 10", "severity"),
        ("severity=~\"E\"", "column 11", "regular"),
        ("timestamp>yesterday", "column 11", "no time"),
        ("timestamp>\"99999-01-01\"", "column 11", "no time"),
        ("insertId=~abc", "column 11", "quotes"),
        ("insertId=~\"(\"", "column 11", "regular"),
        ("insertId=\"abc", "column 10", "no end"),
        ("insertId=\"a\\qb\"", "column 13", "means nothing"),
        ("insertId=\"\\u12\"", "column 13", "digits"),
        ("insertId=abc:def", "column 13", "missing"),
        ("thud(3)", "column 1", "no function"),
        ("ü AND =", "column 7", "missing"),
    ] {
        let error = Filter::parse(filter).expect_err(filter);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{filter}");
        assert!(error.message().contains(place) && error.message().contains(part), "{filter}: {error}");
    }
    assert_eq!(Filter::parse("sample(insertId, 0.1)").unwrap_err().kind(), ErrorKind::Unimplemented);
}

#[test]
fn depth_length_and_number_are_limited() {
    let nested = |depth: usize| format!("{}decrypt{}", "(".repeat(depth), ")".repeat(depth));
    assert!(holds(&nested(MAX_DEPTH)));
    assert!(Filter::parse(&nested(MAX_DEPTH + 1)).is_err());
    assert!(Filter::parse(&"(".repeat(MAX_CHARS)).is_err());
    assert!(holds(&format!("{}decrypt", "NOT ".repeat(4000))));
    assert!(holds(&"crypt ".repeat(MAX_TERMS)));
    assert!(Filter::parse(&"crypt ".repeat(MAX_TERMS + 1)).is_err());
    assert!(Filter::parse(&format!("insertId:({})", "a OR ".repeat(MAX_TERMS) + "a")).is_err());
    assert!(Filter::parse(&"ü".repeat(MAX_CHARS)).is_ok());
    assert!(Filter::parse(&"ü".repeat(MAX_CHARS + 1)).is_err());
    assert!(Filter::parse(&"insertId=~\"a\" ".repeat(MAX_REGEXES + 1)).is_err());
    assert!(Filter::parse("insertId=~\"(a{1000}){1000}\"").is_err());
}

#[test]
fn times_that_must_hold_bound_the_search() {
    let span = |filter: &str| {
        let (since, until) = Filter::parse(filter).unwrap().span();
        (since.map(|time| time.micros() - AT), until.map(|time| time.micros() - AT))
    };
    let (early, late) = ("\"2026-11-23T08:00:00Z\"", "\"2026-11-23T08:00:01Z\"");
    assert_eq!(span(&format!("timestamp>={early}")), (Some(0), None));
    assert_eq!(span(&format!("timestamp>{early} AND timestamp<{late} decrypt")), (Some(0), Some(1_000_000)));
    assert_eq!(span(&format!("timestamp>{early} AND timestamp>{late}")), (Some(1_000_000), None));
    assert_eq!(span(&format!("timestamp={early}")), (Some(0), Some(0)));
    for free in [format!("timestamp>{early} OR decrypt"), format!("NOT timestamp>{early}"), "decrypt".into()]
    {
        assert_eq!(span(&free), (None, None), "{free}");
    }
}

#[test]
fn no_text_makes_it_panic() {
    let pieces = [
        "labels",
        ".",
        "\"",
        "'",
        "\\",
        "x41",
        "(",
        ")",
        "=",
        "!",
        "~",
        ":",
        "<",
        ">",
        "-",
        "--",
        "AND",
        "OR",
        "NOT",
        " ",
        "\n",
        "*",
        "ü",
        "severity",
        "timestamp",
        "2026-11-23",
        "log_id",
        ",",
        "=~",
        "\0",
        "protoPayload",
        "7",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 1_000_003).unwrap()
    };
    let (mut good, mut bad) = (0, 0);
    for _ in 0..50_000 {
        let text: String = (0..next() % 12).map(|_| pieces[next() % pieces.len()]).collect();
        match Filter::parse(&text) {
            Ok(filter) => {
                std::hint::black_box((filter.matches(&entry()), filter.span()));
                good += 1;
            }
            Err(_) => bad += 1,
        }
    }
    assert!(good > 1000 && bad > 1000, "{good} {bad}");
}
