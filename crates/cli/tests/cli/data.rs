//! `claviger bigtable` against a server.

use std::fmt::Write as _;

use crate::common::Server;

const KEY: &str = "projects/birds/locations/us-east1/keyRings/ring/cryptoKeys/k";

fn with_key() -> Server {
    let server = Server::start();
    server.ok("kms keyrings create ring --location us-east1");
    server.ok("kms keys create k --keyring ring --location us-east1 --purpose encryption");
    server
}

fn with_table() -> Server {
    let server = with_key();
    server.ok(&format!("kms keys authorize {KEY} --service bigtable"));
    server.ok(&format!(
        "bigtable instances create aviary --cluster-config id=aviary-c1,zone=us-east1-b,kms-key={KEY}"
    ));
    server.ok("bigtable tables create t --instance aviary --column-families f:maxversions=2,g");
    server
}

#[test]
fn an_instance_without_the_grant_names_the_command_that_gives_it() {
    let server = with_key();
    let create =
        format!("bigtable instances create aviary --cluster aviary-c1 --zone us-east1-b --kms-key {KEY}");
    let told = server.refused(&create, "gcp-sa-bigtable");
    let hint = format!("claviger kms keys authorize {KEY} --service bigtable");
    assert!(told.contains(&hint), "{told}");
    server.ok(hint.strip_prefix("claviger ").unwrap());
    server.ok(&create);
}

#[test]
fn instances_and_clusters_are_created_listed_described_updated_and_deleted() {
    let server = with_table();
    server.ok("bigtable instances create plain-owls --display-name Plain --cluster plain-owls-c1 --zone europe-west1-b --labels a=b");
    assert_eq!(server.ok("bigtable instances list").row("plain-owls")[1..4], ["Plain", "READY", "a=b"]);
    server.ok("bigtable instances update plain-owls --display-name Owls --update-labels c=d");
    let plain = server.ok("bigtable instances describe plain-owls --format json").json();
    assert_eq!(
        (&plain["displayName"], &plain["labels"]),
        (&"Owls".into(), &serde_json::json!({"a": "b", "c": "d"}))
    );
    let row = server.ok("bigtable clusters list --instance aviary").row("aviary-c1");
    assert_eq!(row, ["aviary-c1", "us-east1-b", "1", "SSD", "READY", KEY]);
    assert!(server.ok("bigtable clusters list").out.contains("europe-west1-b"));
    let cluster = server.ok("bigtable clusters describe aviary-c1 --instance aviary --format json").json();
    assert_eq!(cluster["encryptionConfig"]["kmsKeyName"], KEY);
    server.ok("bigtable clusters update aviary-c1 --instance aviary --num-nodes 3");
    assert_eq!(server.ok("bigtable clusters list --instance aviary").row("aviary-c1")[2], "3");
    server.ok("bigtable app-profiles list --instance aviary").row("default");
    server.ok("bigtable app-profiles describe default --instance aviary");
    server.ok("bigtable instances delete plain-owls");
    assert!(!server.ok("bigtable instances list").out.contains("plain-owls"));
    server.refused("bigtable instances describe plain-owls", "NOT_FOUND");
}

#[test]
fn tables_show_their_families_and_their_key() {
    let server = with_table();
    assert_eq!(
        server.ok("bigtable tables list --instance aviary").row("t")[1],
        "projects/birds/instances/aviary/tables/t"
    );
    let row = server.ok("bigtable tables encryption t --instance aviary").row("aviary-c1");
    assert_eq!(
        row,
        ["aviary-c1", "CUSTOMER_MANAGED_ENCRYPTION", "OK", &format!("{KEY}/cryptoKeyVersions/1")]
    );
    let json = server.ok("bigtable tables encryption t --instance aviary --format json").json();
    assert_eq!(
        json["clusterStates"]["aviary-c1"]["encryptionInfo"][0]["encryptionType"],
        "CUSTOMER_MANAGED_ENCRYPTION"
    );
    let said = server
        .ok("bigtable tables update t --instance aviary --add-families h:maxage=30d --update-families f:maxversions=1||maxage=5d --drop-families g")
        .err;
    assert!(said.contains("f:(maxversions=1 || maxage=5d), h:maxage=30d"), "{said}");
    let schema = server.ok("bigtable tables describe t --instance aviary --format json").json();
    let families: Vec<_> = schema["columnFamilies"].as_object().unwrap().keys().collect();
    assert_eq!(families, ["f", "h"]);
    server.ok("bigtable tables update t --instance aviary --deletion-protection");
    let told = server.refused("bigtable tables delete t --instance aviary", "protected from deletion");
    assert!(told.contains("--no-deletion-protection"), "{told}");
    server.ok("bigtable tables update t --instance aviary --no-deletion-protection");
    server.ok("bigtable tables delete t --instance aviary");
    server.refused("bigtable rows read t --instance aviary", "NOT_FOUND");
}

#[test]
fn rows_are_set_read_counted_and_deleted() {
    let server = with_table();
    let rows = |line: &str| server.ok(&format!("bigtable rows {line} --instance aviary"));
    rows("set t wren f:song=long f:eggs=6 g:seen=yes");
    rows("set t owl f:song=low@1700000000000000");
    rows("set t \\xff\\x00 f:song=\\x01 --escaped");
    let read = rows("read t owl").out;
    assert!(
        read.contains("owl\n  f:song") && read.contains("@ 2023-11-14T22:13:20Z\n    \"low\"\n"),
        "{read}"
    );
    assert!(rows("read t").out.contains("\\xff\\x00\n"));
    assert_eq!(rows("count t").out, "3\n");
    assert_eq!(rows("count t --prefix w").out, "1\n");
    assert_eq!(rows("count t --start p --end z").out, "1\n");
    assert_eq!(rows("count t --regex o.*").out, "1\n");
    let keys = |line: &str| {
        let json = rows(&format!("read t {line} --format json")).json();
        json.as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(""), ["b3ds", "d3Jlbg==", "/wA="]);
    assert_eq!(keys("--reversed --limit 2"), ["/wA=", "d3Jlbg=="]);
    assert_eq!(keys("--column f:eggs"), ["d3Jlbg=="]);
    assert_eq!(keys("--value-regex l.*"), ["b3ds", "d3Jlbg=="]);
    assert_eq!(keys("--family g"), ["d3Jlbg=="]);
    assert_eq!(keys("--prefix q"), Vec::<String>::new());
    rows("delete t wren --column f:song");
    let wren = rows("read t wren").out;
    assert!(!wren.contains("song") && wren.contains("eggs"), "{wren}");
    rows("delete t wren");
    assert_eq!(rows("count t").out, "2\n");
    server.ok("bigtable tables drop-rows t --instance aviary --prefix o");
    assert_eq!(rows("count t").out, "1\n");
    server.ok("bigtable tables drop-rows t --instance aviary --all");
    assert_eq!(rows("count t").out, "0\n");
    server.refused("bigtable rows set t k nosuch:x=1 --instance aviary", "nosuch");
}

#[test]
fn a_csv_file_is_imported_and_a_second_time_changes_nothing() {
    let server = with_table();
    let mut csv = "id,year,name,song\n".to_owned();
    for id in 0..2_500 {
        let song = if id % 10 == 0 { "NA" } else { "trill, long" };
        let _ = writeln!(csv, "{id},2026,bird {id},\"{song}\"");
    }
    std::fs::write(server.folder.path().join("birds.csv"), &csv).unwrap();
    let line = "--instance aviary --key-columns year,id --family f --null NA";
    let said = server.ok(&format!("bigtable rows import t birds.csv {line}")).err;
    assert!(said.contains("Wrote 2500 rows with 4750 cells"), "{said}");
    assert_eq!(server.ok("bigtable rows count t --instance aviary").out, "2500\n");
    let row = server.ok("bigtable rows read t 2026#11 --instance aviary").out;
    assert!(row.contains("f:name") && row.contains("\"trill, long\""), "{row}");
    let piped =
        server.fed(&format!("bigtable rows import t - {line} --batch 7 --parallel 3"), csv.as_bytes());
    assert!(piped.err.contains("Wrote 2500 rows"), "{}", piped.err);
    assert_eq!(server.ok("bigtable rows count t --instance aviary").out, "2500\n");
    let told = server.refused(
        "bigtable rows import t birds.csv --instance aviary --key-columns id --family nosuch",
        "nosuch",
    );
    assert!(told.contains("rows were not written") && told.contains("  line 2: "), "{told}");
    server.refused(
        &format!("bigtable rows import t birds.csv {line} --columns colour"),
        "there is no column 'colour'",
    );
}

#[test]
fn a_disabled_key_locks_reading_and_the_advice_opens_it_again() {
    let server = with_table();
    server.ok("bigtable rows set t wren f:song=long --instance aviary");
    server.ok(&format!("kms keys disable {KEY}"));
    let read = "bigtable rows read t --instance aviary";
    let told = server.until(read, |done| done.code == Some(1)).err;
    let hint = told.lines().find_map(|line| line.strip_prefix("hint: enable it: claviger ")).expect("a hint");
    assert!(told.contains("FAILED_PRECONDITION") && told.contains("KEY_DISABLED"), "{told}");
    let row = server.ok("bigtable tables encryption t --instance aviary").row("aviary-c1");
    assert_eq!(row[2], "FAILED_PRECONDITION");
    server.ok(hint);
    assert!(server.until(read, |done| done.code == Some(0)).out.contains("long"));
    let server = server.restart();
    assert!(server.ok(read).out.contains("long"));
}
