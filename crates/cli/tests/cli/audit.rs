//! `claviger audit` against servers and copies, faithful ones and others.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use claviger_audit::tlog::{Bundle, KeyKind, VerifierKey, encode_bundle};
use claviger_crypto::SecretKey;
use claviger_crypto::ed25519::SigningKey;
use serde_json::Value;

use crate::common::{Done, Server};

/// A server whose log has some entries, and what a customer holds of it: `log.key`, `held.txt` and the copy `copy`.
fn audited() -> (Server, u64) {
    let server = Server::start();
    server.ok("kms keyrings create ring --location us-east1");
    grow(&server, 1..6);
    keep(&server, "audit key", "log.key");
    keep(&server, "audit checkpoint", "held.txt");
    let report = server.ok("audit export copy --format json").json();
    let size = report["provenEntries"].as_u64().unwrap();
    assert!(size > 5 && report["entries"] == size, "{report}");
    (server, size)
}

/// Makes keys, which makes entries.
fn grow(server: &Server, keys: std::ops::Range<u32>) {
    for number in keys {
        server.ok(&format!(
            "kms keys create k{number} --keyring ring --location us-east1 --purpose encryption"
        ));
    }
}

fn keep(server: &Server, line: &str, file: &str) {
    std::fs::write(server.folder.path().join(file), server.ok(line).out).unwrap();
}

/// What is found wrong, which must be something.
fn findings(done: &Done) -> Vec<String> {
    assert_eq!(done.code, Some(1), "{}{}", done.out, done.err);
    let report: Value = done.json();
    let findings: Vec<String> = serde_json::from_value(report["findings"].clone()).unwrap();
    assert!(done.err.contains(&findings[0]), "{}", done.err);
    findings
}

const VERIFY: &str = "audit verify --checkpoint held.txt --key log.key --format json";

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn a_log_and_its_copies_prove_themselves_and_each_entry() {
    let (server, size) = audited();
    server.ok(VERIFY);
    server.ok(&format!("{VERIFY} --from copy"));
    server.ok(&format!("{VERIFY} --hashes-only"));
    grow(&server, 6..8);
    let report = server.ok(VERIFY).json();
    assert_eq!((&report["provenEntries"], &report["findings"]), (&report["entries"], &Value::Array(vec![])));
    assert!(report["entries"].as_u64().unwrap() > size);
    // The copy is brought up to date and holds the log as it is then, without what it needs no more.
    server.ok("audit export copy");
    assert_eq!(server.ok(&format!("{VERIFY} --from copy")).json(), server.ok(VERIFY).json());
    let partial = std::fs::read_dir(server.folder.path().join("copy/tile/0/000.p")).unwrap().count();
    assert_eq!(partial, 1);

    let number =
        server.ok("logging read protoPayload.methodName=CreateKeyRing --format json").json()[0]["insertId"]
            .as_str()
            .unwrap()
            .trim_start_matches('0')
            .to_owned();
    for from in ["", " --from copy --key log.key", " --checkpoint held.txt"] {
        server.ok(&format!("audit prove {number} --to one.tlog-proof{from}"));
        let entry = server.ok("audit check one.tlog-proof --key log.key --format json").json();
        assert_eq!(entry["method"], "CreateKeyRing", "{from}");
    }
    let proof = server.folder.path().join("one.tlog-proof");
    let changed = std::fs::read_to_string(&proof).unwrap().replace("\nindex ", "\nindex 1");
    std::fs::write(&proof, changed).unwrap();
    server.refused("audit check one.tlog-proof --key log.key", "the proof does not hold");
    server.refused("audit prove 999999", "entries");
}

#[test]
fn a_copy_that_was_altered_reordered_cut_or_shortened_is_caught_and_the_entry_named() {
    let (server, size) = audited();
    let copy = server.folder.path().join("copy");
    let bundle = copy.join(format!("tile/entries/000.p/{size}"));
    let faithful = std::fs::read(&bundle).unwrap();
    let entries = Bundle::decode(Bytes::from(faithful)).entries;
    let write = |entries: &[Bytes]| {
        let bytes = encode_bundle(entries.iter().map(AsRef::as_ref)).unwrap();
        std::fs::write(&bundle, bytes).unwrap();
    };
    let check = || findings(&server.run(&format!("{VERIFY} --from copy")));

    let mut altered = entries.clone();
    let text = String::from_utf8(altered[3].to_vec()).unwrap().replace("claviger.local", "claviger.nowhere");
    altered[3] = text.into();
    write(&altered);
    assert_eq!(check(), ["entry 4 is not what was logged"]);

    let mut reordered = entries.clone();
    reordered.swap(2, 5);
    write(&reordered);
    assert_eq!(check(), ["entry 3 is not what was logged"]);

    let mut cut = entries.clone();
    cut.remove(2);
    write(&cut);
    assert_eq!(check(), ["entry 3 is not what was logged"]);

    write(&entries[..entries.len() - 2]);
    assert_eq!(check(), [format!("entry {} is missing or cannot be read", size - 1)]);

    write(&entries);
    server.ok(&format!("{VERIFY} --from copy"));
    // Rolled back: an older copy in place of this one, which was right when it was made.
    grow(&server, 6..9);
    keep(&server, "audit checkpoint", "held.txt");
    let now = server.ok(VERIFY).json()["entries"].clone();
    let expected = format!(
        "entry {} is missing: the log ends at entry {size}, and the held checkpoint has {now} entries",
        size + 1
    );
    assert_eq!(check(), [expected]);
}

#[test]
fn a_server_whose_log_was_rolled_back_is_caught_and_the_entry_named() {
    let (server, size) = audited();
    let server = server.restart_after(|folder| copy_folder(&folder.join("data-keys"), &folder.join("then")));
    grow(&server, 6..9);
    keep(&server, "audit checkpoint", "held.txt");
    server.ok("audit export copy");
    server.ok(VERIFY);
    let now = server.ok(VERIFY).json()["entries"].as_u64().unwrap();
    let server = server.restart_after(|folder| {
        std::fs::remove_dir_all(folder.join("data-keys")).unwrap();
        std::fs::rename(folder.join("then"), folder.join("data-keys")).unwrap();
    });
    let ends = findings(&server.run(VERIFY));
    let named = findings(&server.run(&format!("{VERIFY} --earlier copy")));
    assert!(named.contains(ends.last().unwrap()), "{named:?}");
    let then = server.ok("audit verify --checkpoint copy/checkpoint --key log.key --format json --from copy");
    assert_eq!(then.json()["entries"], now);
    // Opening the store uses a key, so the log may have grown by a few entries of its own since.
    assert!(ends.iter().any(|finding| finding.contains("the log ends at entry")), "{ends:?}");

    // It grows beyond what was held, by other entries.
    grow(&server, 20..30);
    let among = findings(&server.run(VERIFY));
    assert_eq!(
        among,
        [format!(
            "an entry from 1 to {now} is not what was logged, and the log's hashes were changed with it"
        )]
    );
    let named = findings(&server.run(&format!("{VERIFY} --earlier copy")));
    let number: u64 = named[0].split(' ').nth(1).unwrap().parse().unwrap();
    assert!(named[0].ends_with("is not what was logged") && number > size && number <= now, "{named:?}");
    // A copy is not led astray.
    let exported = server.run("audit export copy --format json");
    assert_eq!(findings(&exported), named);
    server.ok("audit verify --checkpoint held.txt --key log.key --from copy");
}

#[test]
fn a_key_or_a_checkpoint_of_another_log_is_told_from_a_changed_log() {
    let (server, _) = audited();
    let other = Server::start();
    keep(&other, "audit checkpoint", "held.txt");
    let foreign = other.folder.path().join("held.txt");
    let foreign = foreign.to_str().unwrap();
    server.refused(&format!("audit verify --checkpoint {foreign} --key log.key"), "is of the log");
    let key = other.ok("audit key").out;
    let line = format!("audit verify --checkpoint {foreign} --key {}", key.trim_end());
    server.refused(&line, "the server's log is another");
    let held = std::fs::read_to_string(server.folder.path().join("held.txt")).unwrap();
    std::fs::write(server.folder.path().join("forged.txt"), held.replacen('\n', "\n1", 1)).unwrap();
    server.refused("audit verify --checkpoint forged.txt --key log.key", "is not of this text");
    server.refused("audit verify --checkpoint none.txt --key log.key", "cannot read none.txt");
    server.refused("audit verify --checkpoint held.txt --key none.key", "no verifier key");
}

#[test]
fn a_witness_hands_its_cosignature_in_and_checks_can_ask_for_it() {
    let (server, _) = audited();
    let secret = SigningKey::from_seed(&SecretKey::from_slice(&[5; 32]).unwrap()).unwrap();
    let witness = VerifierKey::new("witness.example/w1", KeyKind::Witness, secret.public_key()).unwrap();
    let folder = server.folder.path();
    std::fs::write(folder.join("witness.key"), format!("{witness}\n")).unwrap();
    server.refused("audit checkpoint --cosigned", "No witness has cosigned");
    server.refused("audit cosign --checkpoint held.txt --witness witness.key", "has no cosignature of");

    let note = std::fs::read_to_string(folder.join("held.txt")).unwrap();
    let text = format!("{}\n", note.rsplit_once("\n\n").unwrap().0);
    let time: u64 = 1_700_000_000;
    let signature = secret.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes());
    let key = witness.to_string();
    let id = u32::from_str_radix(key.split('+').nth(1).unwrap(), 16).unwrap();
    let line = BASE64.encode([&id.to_be_bytes()[..], &time.to_be_bytes(), &signature].concat());
    std::fs::write(folder.join("cosigned.txt"), format!("{note}— witness.example/w1 {line}\n")).unwrap();

    grow(&server, 6..7);
    server.ok("audit cosign --checkpoint cosigned.txt --witness witness.key");
    let server = server.restart();
    keep(&server, "audit checkpoint --cosigned", "kept.txt");
    let witnessed = "audit verify --key log.key --witness witness.key --checkpoint";
    server.ok(&format!("{witnessed} kept.txt"));
    server.refused(&format!("{witnessed} held.txt"), "is not cosigned by witness.example/w1");
    let stale = std::fs::read_to_string(server.folder.path().join("cosigned.txt")).unwrap();
    std::fs::write(server.folder.path().join("forged.txt"), stale.replace("w1 ", "w1 A")).unwrap();
    server.refused("audit cosign --checkpoint forged.txt --witness witness.key", "no signed note");
}
