//! `claviger storage` against a server.

use std::fs;
use std::path::Path;

use crate::common::Server;

const KEY: &str = "projects/birds/locations/us-east1/keyRings/ring/cryptoKeys/k";

fn with_bucket() -> Server {
    let server = Server::start();
    server.ok("storage buckets create gs://nest-1 --location us-east1");
    server
}

fn with_key() -> Server {
    let server = Server::start();
    server.ok("kms keyrings create ring --location us-east1");
    server.ok("kms keys create k --keyring ring --location us-east1 --purpose encryption");
    server
}

fn write(server: &Server, name: &str, bytes: &[u8]) {
    let path = server.folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn read(server: &Server, name: impl AsRef<Path>) -> Vec<u8> {
    fs::read(server.folder.path().join(name)).unwrap()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// Bytes that no compression helps, all different.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn buckets_are_created_listed_described_updated_and_deleted() {
    let server = with_bucket();
    let made = server.ok("storage buckets create gs://nest-2 gs://nest-3 --labels a=b,c=d --versioning");
    assert!(made.err.contains("Created bucket [gs://nest-2] in US."), "{}", made.err);
    let row = server.ok("storage buckets list").row("nest-2");
    assert_eq!(row[..4], ["nest-2", "US", "STANDARD", "a=b,c=d"]);
    assert_eq!(lines(&server.ok("storage ls").out), ["gs://nest-1/", "gs://nest-2/", "gs://nest-3/"]);
    assert_eq!(server.ok("storage buckets list --limit 2 --format json").json().as_array().unwrap().len(), 2);
    server.ok("storage buckets update gs://nest-2 --no-versioning --update-labels e=f --remove-labels a");
    let bucket = server.ok("storage buckets describe gs://nest-2 --format json").json();
    assert_eq!(bucket["labels"], serde_json::json!({"c": "d", "e": "f"}));
    assert_ne!(bucket["versioning"]["enabled"], true);
    server.ok("storage buckets delete gs://nest-2 gs://nest-3");
    assert_eq!(lines(&server.ok("storage ls").out), ["gs://nest-1/"]);
    server.refused("storage buckets describe gs://nest-2", "NOT_FOUND");
    server.refused("storage buckets create gs://nest-1", "ALREADY_EXISTS");
}

#[test]
fn a_bucket_under_a_key_needs_the_grant_and_shows_the_key_of_each_object() {
    let server = with_key();
    let create = format!("storage buckets create gs://nest-1 --location us-east1 --default-kms-key {KEY}");
    let told = server.refused(&create, "PERMISSION_DENIED");
    let hint = format!("claviger kms keys authorize {KEY} --service storage");
    assert!(told.contains(&hint), "{told}");
    let agent = server.ok(hint.strip_prefix("claviger ").unwrap()).out;
    server.ok(&create);
    let shown = server.ok("storage service-agent").out;
    assert!(agent.ends_with(&shown) && shown.contains("@gs-project-accounts."), "{agent} {shown}");
    assert_eq!(server.ok("storage buckets list").row("nest-1")[3], KEY);
    server.fed("storage cp - gs://nest-1/o", b"egg");
    let version = format!("{KEY}/cryptoKeyVersions/1");
    assert_eq!(
        server.ok("storage objects describe gs://nest-1/o --format json").json()["kmsKeyName"],
        *version
    );
    server.ok(&format!("kms keys disable {KEY}"));
    let locked = server.until("storage cat gs://nest-1/o", |done| done.code == Some(1));
    assert!(locked.err.contains("FAILED_PRECONDITION") && locked.err.contains(KEY), "{}", locked.err);
    assert!(locked.err.contains("hint: enable it: claviger kms keys"), "{}", locked.err);
    server.ok(&format!("kms keys enable {KEY}"));
    assert_eq!(server.until("storage cat gs://nest-1/o", |done| done.code == Some(0)).out, "egg");
    server.ok("storage buckets update gs://nest-1 --clear-default-kms-key");
    server.fed("storage cp - gs://nest-1/other", b"egg");
    let other = |field: &str| {
        server.ok("storage objects describe gs://nest-1/other --format json").json()[field].clone()
    };
    assert!(other("kmsKeyName").is_null());
    server.ok(&format!("storage objects update gs://nest-1/other --kms-key {KEY}"));
    assert_eq!(other("kmsKeyName"), *version);
    assert_eq!(other("size"), "3");
}

#[test]
fn folders_go_up_and_come_down_as_they_were() {
    let server = with_bucket();
    for (name, bytes) in
        [("d/a.csv", &b"1,2"[..]), ("d/s/b c", b""), ("d/s/\u{e4}#%?.txt", b"x"), ("top", b"t")]
    {
        write(&server, name, bytes);
    }
    let said = server.ok("storage cp -r d gs://nest-1").err;
    assert!(said.contains("Copied 3 files, 4 B."), "{said}");
    assert_eq!(
        lines(&server.ok("storage ls -r gs://nest-1").out),
        ["gs://nest-1/d/a.csv", "gs://nest-1/d/s/b c", "gs://nest-1/d/s/\u{e4}#%?.txt"]
    );
    assert_eq!(
        lines(&server.ok("storage ls gs://nest-1/d").out),
        ["gs://nest-1/d/a.csv", "gs://nest-1/d/s/"]
    );
    assert_eq!(lines(&server.ok("storage ls gs://nest-1/d/*.csv").out), ["gs://nest-1/d/a.csv"]);
    let object = server.ok("storage objects describe gs://nest-1/d/a.csv --format json").json();
    assert_eq!((&object["contentType"], &object["size"]), (&"text/csv".into(), &"3".into()));
    server.ok("storage cp -r gs://nest-1/d down");
    for name in ["a.csv", "s/b c", "s/\u{e4}#%?.txt"] {
        assert_eq!(read(&server, format!("down/{name}")), read(&server, format!("d/{name}")), "{name}");
    }
    // A folder that is there gets the source under its own name.
    server.ok("storage cp -r gs://nest-1/d down");
    assert_eq!(read(&server, "down/d/a.csv"), b"1,2");
    server.ok("storage cp gs://nest-1/d/a.csv top2");
    assert_eq!(read(&server, "top2"), b"1,2");
    let kept = server.ok("storage cp -n gs://nest-1/d/a.csv top");
    assert!(kept.err.contains("Left top alone") && read(&server, "top") == b"t", "{}", kept.err);
    let kept = server.ok("storage cp -n top gs://nest-1/d/a.csv");
    assert!(kept.err.contains("Left gs://nest-1/d/a.csv alone"), "{}", kept.err);
    assert_eq!(server.ok("storage cat gs://nest-1/d/a.csv").out, "1,2");
    assert_eq!(server.ok("storage cat gs://nest-1/d/a.csv --range 1-").out, ",2");
    assert_eq!(server.ok("storage cat gs://nest-1/d/a.csv --range=-1").out, "2");
    let names = fs::read_dir(server.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("unfinished")));
}

#[test]
fn a_big_file_goes_in_pieces_and_comes_back_whole() {
    let server = with_bucket();
    // Two full pieces and a rest; and exactly two.
    for (name, length) in [("big", (16 << 20) + 12_345), ("even", 16 << 20)] {
        let bytes = noise(length);
        write(&server, name, &bytes);
        server.ok(&format!("storage cp {name} gs://nest-1/{name} --custom-metadata k=v"));
        let object = server.ok(&format!("storage objects describe gs://nest-1/{name} --format json")).json();
        assert_eq!((&object["size"], &object["metadata"]["k"]), (&length.to_string().into(), &"v".into()));
        server.ok(&format!("storage cp gs://nest-1/{name} back"));
        assert!(read(&server, "back") == bytes, "{name} came back as something else");
        fs::remove_file(server.folder.path().join("back")).unwrap();
    }
    let piped = server.fed("storage cp - gs://nest-1/piped", &noise((8 << 20) + 1));
    assert_eq!(piped.code, Some(0), "{}", piped.err);
    let sums =
        |name: &str| server.ok(&format!("storage objects describe gs://nest-1/{name} --format json")).json();
    assert_eq!(sums("piped")["size"], ((8 << 20) + 1).to_string());
    let head = server.ok("storage cat gs://nest-1/piped --range 0-9").out;
    assert!(!head.is_empty() && head.len() <= 30, "{head:?}");
}

#[test]
fn objects_are_copied_moved_joined_and_deleted_in_the_server() {
    let server = with_bucket();
    server.ok("storage buckets create gs://nest-2 --location us-east1");
    for name in ["1", "2"] {
        server.fed(
            &format!("storage cp - gs://nest-1/{name} --content-type text/x --custom-metadata a=b"),
            name.as_bytes(),
        );
    }
    server.ok("storage objects compose gs://nest-1/1 gs://nest-1/2 gs://nest-1/all");
    assert_eq!(server.ok("storage cat gs://nest-1/all").out, "12");
    server.ok("storage cp gs://nest-1/1 gs://nest-2/d/one --cache-control no-store");
    let copy = server.ok("storage objects describe gs://nest-2/d/one --format json").json();
    assert_eq!(
        (&copy["contentType"], &copy["cacheControl"], &copy["metadata"]["a"]),
        (&"text/x".into(), &"no-store".into(), &"b".into())
    );
    server.ok("storage mv gs://nest-1/* gs://nest-2/moved/");
    assert_eq!(server.ok("storage ls gs://nest-1").out, "");
    assert_eq!(
        lines(&server.ok("storage ls gs://nest-2/**").out),
        ["gs://nest-2/d/one", "gs://nest-2/moved/1", "gs://nest-2/moved/2", "gs://nest-2/moved/all"]
    );
    write(&server, "f/s/x", b"x");
    server.ok("storage mv -r f gs://nest-2/");
    assert!(!server.folder.path().join("f").exists());
    assert_eq!(server.ok("storage cat gs://nest-2/f/s/x").out, "x");
    server.ok("storage objects update gs://nest-2/moved/1 --content-type a/b --remove-custom-metadata a");
    let row = server.ok("storage objects list gs://nest-2/moved").row("moved/1");
    assert_eq!(row[1..3], ["1", "a/b"]);
    let told = server.run("storage rm gs://nest-2/moved");
    assert_eq!(told.code, Some(2));
    assert!(told.err.contains("--recursive"), "{}", told.err);
    let said = server.ok("storage rm -r gs://nest-2/moved gs://nest-2/d/one").err;
    assert!(said.contains("Deleted 3 objects") || said.contains("Deleted 4 objects"), "{said}");
    server.refused("storage rm gs://nest-2/d/one", "NOT_FOUND");
    server.refused("storage buckets delete gs://nest-2", "not empty");
    server.ok("storage rm -r gs://nest-2 --quiet");
    server.refused("storage ls gs://nest-2", "NOT_FOUND");
}

#[test]
fn old_versions_are_listed_read_and_go_with_their_bucket() {
    let server = with_bucket();
    server.ok("storage buckets update gs://nest-1 --versioning");
    server.fed("storage cp - gs://nest-1/o", b"old");
    server.fed("storage cp - gs://nest-1/o", b"new");
    let all = server.ok("storage ls -a gs://nest-1/o").out;
    let all = lines(&all);
    assert_eq!(all.len(), 2);
    assert_eq!(server.ok(&format!("storage cat {}", all[0])).out, "old");
    assert_eq!(server.ok("storage cat gs://nest-1/o").out, "new");
    assert_eq!(
        server.ok("storage objects list gs://nest-1 -a --format json").json().as_array().unwrap().len(),
        2
    );
    server.ok("storage rm gs://nest-1/o");
    assert_eq!(lines(&server.ok("storage ls -a gs://nest-1").out).len(), 2);
    server.ok("storage rm -r gs://nest-1");
    assert_eq!(server.ok("storage ls").out, "");
}

#[test]
fn names_that_lead_out_of_a_folder_are_not_written() {
    let server = with_bucket();
    assert_eq!(server.fed("storage cp - gs://nest-1/d/../../escaped", b"x").code, Some(0));
    server.refused("storage cp -r gs://nest-1/d here/", "makes no path below");
    assert!(!server.folder.path().join("escaped").exists());
    server.ok("storage cp gs://nest-1/d/../../escaped named");
    assert_eq!(read(&server, "named"), b"x");
}
