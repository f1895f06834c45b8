//! `claviger kms` against a server.

use crate::common::Server;

const RING: &str = "projects/birds/locations/us-east1/keyRings/ring";
const KEY: &str = "projects/birds/locations/us-east1/keyRings/ring/cryptoKeys/k";
const AT: &str = "--keyring ring --location us-east1";

fn with_key() -> Server {
    let server = Server::start();
    server.ok("kms keyrings create ring --location us-east1");
    server.ok(&format!("kms keys create k {AT} --purpose encryption --labels team=owls"));
    server
}

fn states(server: &Server) -> Vec<String> {
    let listed = server.ok(&format!("kms keys versions list --key {KEY} --format json")).json();
    let mut states: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|v| {
            format!(
                "{}={}",
                v["name"].as_str().unwrap().rsplit('/').next().unwrap(),
                v["state"].as_str().unwrap()
            )
        })
        .collect();
    states.sort();
    states
}

#[test]
fn rings_and_keys_are_created_listed_and_described_in_every_format() {
    let server = with_key();
    assert!(server.ok("kms keyrings list --location us-east1").out.starts_with("NAME"));
    server.ok("kms keyrings list --location us-east1").row(RING);
    let row = server.ok(&format!("kms keys list {AT}")).row(KEY);
    assert_eq!(
        row[1..],
        ["ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION", "SOFTWARE", "team=owls", "1", "ENABLED"]
    );
    let json = server.ok(&format!("kms keys describe k {AT} --format json")).json();
    assert_eq!((json["name"].as_str(), json["primary"]["state"].as_str()), (Some(KEY), Some("ENABLED")));
    let yaml: serde_json::Value =
        serde_yaml_ng::from_str(&server.ok(&format!("kms keys describe {KEY} --format yaml")).out).unwrap();
    assert_eq!(yaml, json);
    assert_eq!(server.ok(&format!("kms keys describe {KEY}")).row("labels.team")[1], "owls");
    assert!(server.ok("kms keyrings list --location europe-west1").err.contains("Listed 0 items."));
    server.refused(&format!("kms keys create k {AT} --purpose encryption"), "ALREADY_EXISTS");
    server.refused(&format!("kms keys describe nosuch {AT}"), "nosuch");
}

#[test]
fn a_key_is_updated_rotated_and_its_schedule_removed() {
    let server = with_key();
    let update = format!("kms keys update k {AT}");
    server.ok(&format!(
        "{update} --rotation-period 30d --next-rotation-time +30d --update-labels a=b --remove-labels team"
    ));
    let key = server.ok(&format!("kms keys describe {KEY} --format json")).json();
    assert_eq!(
        (key["rotationPeriod"].as_str(), &key["labels"]),
        (Some("2592000s"), &serde_json::json!({"a": "b"}))
    );
    server.ok(&format!("{update} --remove-rotation-schedule --clear-labels"));
    let key = server.ok(&format!("kms keys describe {KEY} --format json")).json();
    assert!(
        key.get("rotationPeriod").is_none()
            && key.get("nextRotationTime").is_none()
            && key.get("labels").is_none()
    );
    let rotated = server.ok(&format!("kms keys rotate {KEY} --format json"));
    assert!(rotated.json()["primary"]["name"].as_str().unwrap().ends_with("/cryptoKeyVersions/2"));
    server.ok(&format!("kms keys set-primary-version k {AT} --version 1"));
    let primary =
        server.ok(&format!("kms keys describe {KEY} --format json")).json()["primary"]["name"].clone();
    assert!(primary.as_str().unwrap().ends_with("/cryptoKeyVersions/1"));
    let nothing = server.run(&update);
    assert_eq!(nothing.code, Some(2), "{}", nothing.err);
}

#[test]
fn a_file_comes_back_and_only_with_its_additional_data() {
    let server = with_key();
    let file = |name: &str| server.folder.path().join(name);
    std::fs::write(file("plain"), b"the \x00 plain bytes").unwrap();
    std::fs::write(file("aad"), b"about them").unwrap();
    let aad = "--additional-authenticated-data-file aad";
    server.ok(&format!("kms keys encrypt k {AT} --plaintext-file plain --ciphertext-file sealed {aad}"));
    assert!(!std::fs::read(file("sealed")).unwrap().windows(5).any(|window| window == b"plain"));
    server.ok(&format!("kms decrypt --key k {AT} --ciphertext-file sealed --plaintext-file back {aad}"));
    assert_eq!(std::fs::read(file("back")).unwrap(), b"the \x00 plain bytes");
    server.refused(
        &format!("kms keys decrypt {KEY} --ciphertext-file sealed --plaintext-file -"),
        "INVALID_ARGUMENT",
    );
    let piped = server
        .fed(&format!("kms encrypt --key {KEY} --plaintext-file - --ciphertext-file piped"), b"from a pipe");
    assert_eq!(piped.code, Some(0), "{}", piped.err);
    assert_eq!(
        server.ok(&format!("kms keys decrypt {KEY} --ciphertext-file piped --plaintext-file -")).out,
        "from a pipe"
    );
}

#[test]
fn disable_enable_and_destroy_mean_all_versions() {
    let server = with_key();
    std::fs::write(server.folder.path().join("plain"), b"text").unwrap();
    server.ok(&format!("kms keys encrypt {KEY} --plaintext-file plain --ciphertext-file sealed"));
    server.ok(&format!("kms keys rotate {KEY}"));
    server.ok(&format!("kms keys disable {KEY}"));
    assert_eq!(states(&server), ["1=DISABLED", "2=DISABLED"]);
    let decrypt = format!("kms keys decrypt {KEY} --ciphertext-file sealed --plaintext-file -");
    let told = server.refused(&decrypt, "FAILED_PRECONDITION");
    let hint = format!("claviger kms keys versions enable {KEY}/cryptoKeyVersions/1");
    assert!(told.contains("KEY_DISABLED") && told.contains(&hint), "{told}");
    // The advice is a command that can be run as it stands.
    server.ok(hint.strip_prefix("claviger ").unwrap());
    assert_eq!(server.ok(&decrypt).out, "text");
    server.ok(&format!("kms keys enable {KEY}"));
    assert_eq!(states(&server), ["1=ENABLED", "2=ENABLED"]);
    assert!(server.ok(&format!("kms keys enable {KEY}")).err.contains("Nothing to do"));
    server.ok(&format!("kms keys destroy {KEY}"));
    assert_eq!(states(&server), ["1=DESTROY_SCHEDULED", "2=DESTROY_SCHEDULED"]);
    let told = server.refused(&decrypt, "KEY_DESTROY_SCHEDULED");
    assert!(told.contains(&format!("versions restore {KEY}/cryptoKeyVersions/1")), "{told}");
    server.ok(&format!("kms keys versions restore 1 --key k {AT}"));
    server.ok(&format!("kms keys versions enable 1 --key k {AT}"));
    assert_eq!(server.ok(&decrypt).out, "text");
    let described = server.ok(&format!("kms keys versions describe 1 --key k {AT} --format json")).json();
    assert_eq!(described["state"], "ENABLED");
}

#[test]
fn a_version_is_made_destroyed_and_disabled_alone() {
    let server = with_key();
    server.ok(&format!("kms keys versions create --key {KEY} --primary"));
    server.ok(&format!("kms keys versions create --key {KEY}"));
    server.ok(&format!("kms keys versions disable 1 --key {KEY}"));
    server.ok(&format!("kms keys versions destroy 3 --key {KEY}"));
    assert_eq!(states(&server), ["1=DISABLED", "2=ENABLED", "3=DESTROY_SCHEDULED"]);
    assert_eq!(server.ok(&format!("kms keys list {AT}")).row(KEY)[5..], ["2", "ENABLED"]);
}

#[test]
fn a_service_is_authorized_once_and_its_agent_printed() {
    let server = with_key();
    let authorize = format!("kms keys authorize k {AT} --service bigtable");
    let agent = server.ok(&authorize).out.trim().to_owned();
    assert!(
        agent.starts_with("serviceAccount:service-")
            && agent.ends_with("@gcp-sa-bigtable.iam.gserviceaccount.com")
    );
    let again = server.ok(&authorize);
    assert!(again.out.trim() == agent && again.err.contains("already given"), "{}{}", again.out, again.err);
    let policy = server.ok(&format!("kms keys get-iam-policy {KEY} --format json")).json();
    let bindings = policy["bindings"].as_array().unwrap();
    let held: Vec<_> =
        bindings.iter().filter(|b| b["role"] == "roles/cloudkms.cryptoKeyEncrypterDecrypter").collect();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0]["members"], serde_json::json!([agent]));
    // The agent is of the project of the data, whosever the key is.
    let other = server.ok(&format!("kms keys authorize {KEY} --service bigtable --project owls")).out;
    assert_ne!(other.trim(), agent);
}

#[test]
fn grants_are_given_taken_and_replaced_from_a_file() {
    let server = with_key();
    let grant = "--member user:ada@example.com --role roles/cloudkms.viewer";
    assert!(
        server
            .ok(&format!("kms keys add-iam-policy-binding k {AT} {grant}"))
            .out
            .contains("user:ada@example.com")
    );
    let policy = server.ok(&format!("kms keys get-iam-policy {KEY} --format yaml")).out;
    server.ok(&format!("kms keys remove-iam-policy-binding k {AT} {grant}"));
    assert!(!server.ok(&format!("kms keys get-iam-policy {KEY}")).out.contains("ada"));
    server.refused(&format!("kms keys remove-iam-policy-binding k {AT} {grant}"), "does not have the role");
    std::fs::write(server.folder.path().join("old.yaml"), &policy).unwrap();
    // Someone changed the policy since it was read.
    server.refused(&format!("kms keys set-iam-policy {KEY} old.yaml"), "ABORTED");
    let fresh: String =
        policy.lines().filter(|line| !line.starts_with("etag")).map(|line| format!("{line}\n")).collect();
    std::fs::write(server.folder.path().join("fresh.yaml"), fresh).unwrap();
    server.ok(&format!("kms keys set-iam-policy {KEY} fresh.yaml"));
    assert!(server.ok(&format!("kms keys get-iam-policy {KEY}")).out.contains("ada"));
    server.ok(&format!("kms keyrings add-iam-policy-binding ring --location us-east1 {grant}"));
    assert!(server.ok("kms keyrings get-iam-policy ring --location us-east1").out.contains("ada"));
}

#[test]
fn keys_and_project_numbers_outlive_a_restart() {
    let server = with_key();
    let agent = server.ok(&format!("kms keys authorize {KEY} --service bigtable")).out;
    let server = server.restart();
    server.ok("kms keyrings list --location us-east1").row(RING);
    let again = server.ok(&format!("kms keys authorize {KEY} --service bigtable"));
    assert!(again.out == agent && again.err.contains("already given"));
}

#[test]
fn a_key_made_elsewhere_is_imported_destroyed_and_imported_again() {
    let server = Server::start();
    server.ok("kms keyrings create ring --location us-east1");
    server.ok(&format!(
        "kms keys create k {AT} --purpose encryption --import-only --skip-initial-version-creation \
         --destroy-scheduled-duration 0"
    ));
    server.refused(&format!("kms keys versions create --key {KEY}"), "FAILED_PRECONDITION");
    server.ok(&format!("kms import-jobs create j {AT} --import-method rsa-oaep-3072-sha256-aes-256"));
    let until = |command: &str, state: &str| {
        let mut asked = 0;
        while server.ok(&format!("{command} --format json")).json()["state"] != state {
            asked += 1;
            assert!(asked < 2000, "{command}: never {state}");
        }
    };
    until(&format!("kms import-jobs describe j {AT}"), "ACTIVE");
    let row = server.ok(&format!("kms import-jobs list {AT} --filter state=ACTIVE"));
    assert_eq!(row.row(&format!("{RING}/importJobs/j"))[2], "RSA_OAEP_3072_SHA256_AES_256");
    let file = |name: &str| server.folder.path().join(name);
    std::fs::write(file("key"), [7; 32]).unwrap();
    std::fs::write(file("other"), [8; 32]).unwrap();
    std::fs::write(file("plain"), b"text").unwrap();
    let import = format!("kms keys versions import --key {KEY} --import-job j");
    server.ok(&format!("{import} --target-key-file key"));
    server.ok(&format!("kms keys set-primary-version k {AT} --version 1"));
    server.ok(&format!("kms keys encrypt {KEY} --plaintext-file plain --ciphertext-file sealed"));
    server.ok(&format!("kms keys versions destroy 1 --key {KEY} --quiet"));
    until(&format!("kms keys versions describe 1 --key {KEY}"), "DESTROYED");
    let again = format!("kms keys versions import 1 --key {KEY} --import-job j --target-key-file");
    server.refused(&format!("{again} other"), "not the one that this version held before");
    server.ok(&format!("{again} key"));
    let decrypted = server.ok(&format!("kms keys decrypt {KEY} --ciphertext-file sealed --plaintext-file -"));
    assert_eq!(decrypted.out, "text");
    server.refused(&format!("{import} --wrapped-key-file plain"), "Wrapped key is too short");
    let failed = server.ok(&format!("kms keys versions list --key {KEY} --filter state=IMPORT_FAILED"));
    assert_eq!(failed.row(&format!("{KEY}/cryptoKeyVersions/2"))[1], "IMPORT_FAILED");
    assert!(
        server.ok(&format!("kms keys list {AT} --filter import_only=false")).err.contains("Listed 0 items.")
    );
    let grant = "--member user:ada@example.com --role roles/cloudkms.importer";
    server.ok(&format!("kms import-jobs add-iam-policy-binding j {AT} {grant}"));
    assert!(server.ok(&format!("kms import-jobs get-iam-policy j {AT}")).out.contains("ada"));
}
