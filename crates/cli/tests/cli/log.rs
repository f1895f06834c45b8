//! `claviger logging` against a server.

use crate::common::Server;

const KEY: &str = "projects/birds/locations/us-east1/keyRings/ring/cryptoKeys/k";

#[test]
fn uses_and_changes_of_a_key_are_read_by_filter_in_every_format() {
    let server = Server::start();
    server.ok("kms keyrings create ring --location us-east1");
    server.ok("kms keys create k --keyring ring --location us-east1 --purpose encryption");
    server.fed(&format!("kms encrypt --key {KEY} --plaintext-file - --ciphertext-file sealed"), b"plain");
    let entries = server.ok("logging read --format json").json();
    let methods: Vec<_> =
        entries.as_array().unwrap().iter().map(|e| &e["protoPayload"]["methodName"]).collect();
    assert_eq!(methods, ["Encrypt", "CreateCryptoKey", "CreateKeyRing"]);
    let one =
        server.ok("logging read resource.labels.crypto_key_id=k --order asc --limit 1 --format yaml").out;
    let one: serde_json::Value = serde_yaml_ng::from_str(&one).unwrap();
    assert_eq!(one, serde_json::json!([entries[1]]));
    let table = server.ok("logging read protoPayload.methodName=Encrypt");
    assert!(table.out.starts_with("TIME") && table.out.contains(KEY), "{}", table.out);
    assert!(server.ok("logging read severity>=ERROR").err.contains("Listed 0 items."));
    server.refused("logging read severity>=LOUD", "line 1, column 11");
    server.ok("logging logs list").row("projects/birds/logs/cloudaudit.googleapis.com%2Factivity");
}
