//! `claviger billing` against a server.

use crate::common::Server;

const KEY: &str = "projects/birds/locations/us-east1/keyRings/ring/cryptoKeys/k";

#[test]
fn a_report_counts_versions_and_uses_by_key_and_resource() {
    let server = Server::start();
    server.ok("kms keyrings create ring --location us-east1");
    server.ok("kms keys create k --keyring ring --location us-east1 --purpose encryption");
    server.ok("kms keys rotate k --keyring ring --location us-east1");
    server.fed(&format!("kms encrypt --key {KEY} --plaintext-file - --ciphertext-file sealed"), b"plain");
    server.ok(&format!("kms keys authorize {KEY} --service bigtable"));
    server.ok(&format!(
        "bigtable instances create aviary --cluster aviary-c1 --zone us-east1-b --kms-key {KEY}"
    ));
    server.ok("bigtable tables create t --instance aviary --column-families cf");

    let report = server.ok("billing report --format json").json();
    let [line] = &report.as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(
        (&line["key"], &line["activeVersions"], &line["protectionLevel"]),
        (&KEY.into(), &2.into(), &"SOFTWARE".into())
    );
    let uses = line["operations"].as_f64().unwrap();
    assert!(uses >= 2.0, "the encryption, and the wrap of the table's key: {line}");
    let cost = line["versionMonths"].as_f64().unwrap() * 0.06 + uses * 0.03 / 10_000.0;
    assert!((line["cost"].as_f64().unwrap() - cost).abs() < 1e-9, "{line}");

    let table = server.ok("billing report --by resource");
    assert!(
        table.out.contains("projects/birds/instances/aviary/clusters/aviary-c1/tables/t"),
        "{}",
        table.out
    );
    assert!(table.err.contains("public list prices"), "{}", table.err);
    let line = "billing report --forecast --add-tables 200 --add-clusters 3 --format json";
    let forecast = server.ok(line).json();
    let planned = forecast.as_array().unwrap().last().unwrap();
    // 600 scopes, each checked every five minutes of 730 hours, and wrapped once.
    assert_eq!(planned["operations"], 600.0 * (730.0 * 12.0 + 1.0));
    assert!((forecast[0]["versionMonths"].as_f64().unwrap() - 2.0).abs() < 1e-9);
    server.refused("billing report --prices /nowhere/prices.json", "/nowhere/prices.json");
}
