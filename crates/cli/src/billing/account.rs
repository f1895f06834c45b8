//! The sums: version months and operations, by key, service and resource.
//!
//! Invariant: a version counts from its making to its destruction, in whatever state it is in between, as the public
//! price model says.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger_core::Timestamp;
use claviger_proto::google::cloud::kms::v1::crypto_key_version::CryptoKeyVersionState;
use claviger_proto::google::cloud::kms::v1::{CryptoKeyVersion, ProtectionLevel};
use serde_json::{Value, json};

use super::By;
use super::prices::Prices;
use crate::output::{at, plain};

/// A month has 730 hours, as in the public price lists.
const MONTH_S: f64 = 730.0 * 3600.0;
/// A line about what is not there yet.
const PLANNED: &str = "(planned)";

/// What is to come besides what there is.
#[derive(Debug)]
pub(super) struct Planned {
    /// Tables times clusters: each has an intermediate key of its own.
    pub(super) scopes: u64,
    /// The time between two checks of each.
    pub(super) interval: Duration,
}

#[derive(Debug, Default)]
struct Versions {
    level: String,
    /// Now.
    active: u64,
    /// In the time reported.
    seconds: f64,
}

/// What was found in a span of time.
#[derive(Debug)]
pub(super) struct Account {
    since: Timestamp,
    now: Timestamp,
    /// When the first thing was found: the server may be younger than the span.
    first: Timestamp,
    versions: BTreeMap<String, Versions>,
    /// Operations by key, service and resource.
    uses: BTreeMap<[String; 3], u64>,
}

#[derive(Debug, Default)]
struct Line {
    active: u64,
    months: f64,
    operations: f64,
}

impl Account {
    pub(super) fn new(since: Timestamp, now: Timestamp) -> Self {
        Self { since, now, first: now, versions: BTreeMap::new(), uses: BTreeMap::new() }
    }

    /// Adds a version of a key.
    pub(super) fn add_version(&mut self, key: &str, version: &CryptoKeyVersion) {
        use CryptoKeyVersionState as State;
        let made = version.create_time.map_or(self.now, moment);
        let ended = version.destroy_event_time.map(moment);
        let counts = !matches!(
            version.state(),
            State::Unspecified | State::PendingImport | State::ImportFailed | State::GenerationFailed
        );
        if !counts {
            return;
        }
        self.first = self.first.min(made);
        let entry = self.versions.entry(key.to_owned()).or_default();
        entry.level = level(version.protection_level());
        entry.active += u64::from(ended.is_none());
        let (from, until) = (made.max(self.since), ended.unwrap_or(self.now).min(self.now));
        entry.seconds += until.since(from).as_secs_f64();
    }

    /// Adds an entry of the audit log, if it is about an operation that was done.
    pub(super) fn add_use(&mut self, entry: &Value) {
        let field = |path: &str| at(entry, path).map(plain).unwrap_or_default();
        let code = at(entry, "protoPayload.status.code").and_then(Value::as_i64).unwrap_or(0);
        let name = field("protoPayload.resourceName");
        let key = match name.split_once("/cryptoKeyVersions/") {
            Some((key, _)) => key.to_owned(),
            None => name,
        };
        if code != 0 || key.is_empty() {
            return;
        }
        let service = service(&field("protoPayload.authenticationInfo.principalEmail"));
        let resource = field("protoPayload.metadata.resource");
        *self.uses.entry([key, service, resource]).or_default() += 1;
    }

    /// The lines of a report.
    pub(super) fn lines(&self, by: By, prices: &Prices) -> Vec<Value> {
        self.render(by, prices, |versions| versions.seconds / MONTH_S, 1.0)
    }

    /// The lines of the next month: what is active stays, and what is used is used as often.
    pub(super) fn forecast(&self, by: By, prices: &Prices, planned: &Planned) -> Vec<Value> {
        let span = self.now.since(self.first.max(self.since)).as_secs_f64();
        let scale = if span > 0.0 { MONTH_S / span } else { 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "versions of a key are few")]
        let mut lines = self.render(by, prices, |versions| versions.active as f64, scale);
        if planned.scopes > 0 {
            // One wrap, and a check of each at every interval; they need no version of their own.
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let operations = planned.scopes as f64 * (1.0 + MONTH_S / planned.interval.as_secs_f64());
            let line = Line { operations, ..Line::default() };
            let (service, resource) = ("bigtable", format!("{} tables in clusters", planned.scopes));
            lines.push(value([PLANNED, service, &resource], "SOFTWARE", &line, prices));
        }
        lines
    }

    fn render(&self, by: By, prices: &Prices, months: impl Fn(&Versions) -> f64, scale: f64) -> Vec<Value> {
        let mut lines: BTreeMap<[String; 3], Line> = BTreeMap::new();
        let place = |key: &str, service: &str, resource: &str| {
            let (service, resource) = match by {
                By::Key => ("", ""),
                By::Service => (service, ""),
                By::Resource => (service, resource),
            };
            [key.to_owned(), service.to_owned(), resource.to_owned()]
        };
        for (key, versions) in &self.versions {
            let line = lines.entry(place(key, "", "")).or_default();
            line.active += versions.active;
            line.months += months(versions);
        }
        for ([key, service, resource], count) in &self.uses {
            #[expect(clippy::cast_precision_loss, reason = "no log has 2^53 entries")]
            let count = *count as f64;
            lines.entry(place(key, service, resource)).or_default().operations += count * scale;
        }
        lines
            .iter()
            .map(|([key, service, resource], line)| {
                let level = self.versions.get(key).map_or("SOFTWARE", |versions| &versions.level);
                value([key, service, resource], level, line, prices)
            })
            .collect()
    }
}

fn value([key, service, resource]: [&str; 3], level: &str, line: &Line, prices: &Prices) -> Value {
    let versions = prices.versions(level, line.months);
    let operations = prices.operations(level, line.operations);
    json!({
        "key": key,
        "protectionLevel": level,
        "service": service,
        "resource": resource,
        "activeVersions": line.active,
        "versionMonths": line.months,
        "operations": line.operations.round(),
        "versionsCost": versions,
        "operationsCost": operations,
        "cost": versions + operations,
        "currency": prices.currency,
    })
}

fn moment(time: prost_types::Timestamp) -> Timestamp {
    Timestamp(time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1000))
}

fn level(level: ProtectionLevel) -> String {
    level.as_str_name().to_owned()
}

/// The service that a service agent acts for; other callers are themselves.
fn service(principal: &str) -> String {
    let Some((_, domain)) = principal.split_once('@') else { return principal.to_owned() };
    let known = [
        ("gcp-sa-bigtable", "bigtable"),
        ("gs-project-accounts", "storage"),
        ("dataflow-service", "dataflow"),
    ];
    let known = known.iter().find(|(part, _)| domain.starts_with(part));
    known.map_or(principal, |(_, service)| service).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;
    const KEY: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k";

    fn version(made: i64, ended: Option<i64>) -> CryptoKeyVersion {
        let time = |micros: i64| prost_types::Timestamp { seconds: micros / 1_000_000, nanos: 0 };
        let mut version = CryptoKeyVersion {
            create_time: Some(time(made)),
            destroy_event_time: ended.map(time),
            ..CryptoKeyVersion::default()
        };
        version.set_state(match ended {
            Some(_) => CryptoKeyVersionState::Destroyed,
            None => CryptoKeyVersionState::Disabled,
        });
        version.set_protection_level(ProtectionLevel::Hsm);
        version
    }

    fn used(resource: &str, principal: &str, code: i64) -> Value {
        json!({"protoPayload": {
            "resourceName": format!("{KEY}/cryptoKeyVersions/1"),
            "authenticationInfo": {"principalEmail": principal},
            "status": {"code": code},
            "metadata": {"resource": resource},
        }})
    }

    fn account() -> Account {
        // Ten days, of which one version was there for all and one for four; one ended before.
        let mut account = Account::new(Timestamp(10 * DAY), Timestamp(20 * DAY));
        account.add_version(KEY, &version(DAY, None));
        account.add_version(KEY, &version(12 * DAY, Some(16 * DAY)));
        account.add_version(KEY, &version(DAY, Some(2 * DAY)));
        for _ in 0..3 {
            account.add_use(&used("t1", "service-1@gcp-sa-bigtable.iam.gserviceaccount.com", 0));
        }
        account.add_use(&used("b1", "service-1@gs-project-accounts.iam.gserviceaccount.com", 0));
        account.add_use(&used("b1", "service-1@gs-project-accounts.iam.gserviceaccount.com", 9));
        account
    }

    fn number(line: &Value, field: &str) -> f64 {
        line[field].as_f64().unwrap()
    }

    #[test]
    fn versions_count_while_they_are_there_and_operations_when_they_are_done() {
        let prices = Prices::default();
        let [line] = &account().lines(By::Key, &prices)[..] else { panic!("one key") };
        let months = 14.0 * 24.0 / 730.0;
        assert!((number(line, "versionMonths") - months).abs() < 1e-9, "{line}");
        assert_eq!((&line["activeVersions"], &line["operations"]), (&json!(1), &json!(4.0)));
        let cost = months + 4.0 * 0.03 / 10_000.0;
        assert!((number(line, "cost") - cost).abs() < 1e-9, "{line}");
        assert_eq!(line["protectionLevel"], "HSM");
    }

    #[test]
    fn lines_of_services_and_resources_add_up_to_the_keys() {
        let (account, prices) = (account(), Prices::default());
        let sum = |by| account.lines(by, &prices).iter().map(|line| number(line, "cost")).sum::<f64>();
        assert!(
            (sum(By::Key) - sum(By::Service)).abs() < 1e-9 && (sum(By::Key) - sum(By::Resource)).abs() < 1e-9
        );
        let services: Vec<_> =
            account.lines(By::Service, &prices).iter().map(|line| line["service"].clone()).collect();
        assert_eq!(services, ["", "bigtable", "storage"]);
        let resources: Vec<_> =
            account.lines(By::Resource, &prices).iter().map(|line| line["resource"].clone()).collect();
        assert_eq!(resources, ["", "t1", "b1"]);
    }

    #[test]
    fn a_forecast_goes_on_as_before_and_adds_what_is_planned() {
        let planned = Planned { scopes: 6, interval: Duration::from_secs(3650) };
        let lines = account().forecast(By::Key, &Prices::default(), &planned);
        assert!((number(&lines[0], "versionMonths") - 1.0).abs() < 1e-9);
        // Four in ten days.
        assert!((number(&lines[0], "operations") - (4.0 * 730.0 / 240.0_f64).round()).abs() < 1e-9);
        assert!((number(&lines[1], "operations") - 6.0 * 721.0).abs() < 1e-9, "{}", lines[1]);
        assert_eq!(
            account().forecast(By::Key, &Prices::default(), &Planned { scopes: 0, ..planned }).len(),
            1
        );
    }
}
