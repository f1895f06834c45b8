//! What requests become, read back as the generated messages.

use claviger_proto::google::bigtable::admin::v2 as admin;
use claviger_proto::google::bigtable::v2 as data;
use claviger_proto::google::cloud::kms::v1 as kms;
use claviger_proto::google::iam::v1 as iam;
use http::Method;
use prost::Message;

use super::super::routes::{Found, Routes};
use super::*;

const KEY: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k";

fn request<M: Message + Default>(method: Method, target: &str, body: &str) -> Result<M> {
    let routes = Routes::new(claviger_proto::pool()).expect("our own rules");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Found::Route(route, texts) = routes.find(&method, path) else { panic!("{target} leads nowhere") };
    let message = build(route, texts, &Query::parse(query)?, body.as_bytes())?;
    Ok(M::decode(message.encode_to_vec().as_slice()).expect("a message of the method's type"))
}

#[track_caller]
fn refused<M: Message + Default + std::fmt::Debug>(method: Method, target: &str, body: &str, field: &str) {
    let error = request::<M>(method, target, body).expect_err("refused");
    assert_eq!(error.kind(), claviger_core::ErrorKind::InvalidArgument);
    let fields: Vec<&str> = error.fields().iter().map(|field| field.field.as_str()).collect();
    assert_eq!(fields, if field.is_empty() { vec![] } else { vec![field] }, "{error}");
}

#[test]
fn a_whole_body_and_a_name_in_the_path() {
    let body = r#"{"plaintext": "aGk=", "plaintextCrc32c": "12", "additional_authenticated_data": "-_-_"}"#;
    let encrypt: kms::EncryptRequest =
        request(Method::POST, &format!("/v1/{KEY}:encrypt?$alt=json;enum-encoding=int"), body)
            .expect("valid");
    assert_eq!(encrypt.name, KEY);
    assert_eq!(encrypt.plaintext.as_ref(), b"hi");
    assert_eq!(encrypt.plaintext_crc32c, Some(12));
    assert_eq!(encrypt.additional_authenticated_data.as_ref(), [0xfb, 0xff, 0xbf]);
}

#[test]
fn a_body_of_one_field_a_nested_name_and_a_mask() {
    let update: kms::UpdateCryptoKeyRequest = request(
        Method::PATCH,
        &format!("/v1/{KEY}?updateMask=rotationPeriod%2CnextRotationTime,labels&alt=json"),
        r#"{"name": "another", "rotationPeriod": "86400s", "labels": {"a": "b"}, "nextRotationTime": "2030-01-01T00:00:00Z"}"#,
    )
    .expect("valid");
    let key = update.crypto_key.expect("a key");
    assert_eq!(key.name, KEY, "the path is above the body");
    assert_eq!(key.next_rotation_time.expect("a time").seconds, 1_893_456_000);
    assert_eq!(key.labels["a"], "b");
    assert_eq!(
        update.update_mask.expect("a mask").paths,
        ["rotation_period", "next_rotation_time", "labels"]
    );
    let empty: kms::UpdateCryptoKeyRequest =
        request(Method::PATCH, &format!("/v1/{KEY}"), "").expect("valid");
    assert_eq!(empty.crypto_key.expect("made for its name").name, KEY);
}

#[test]
fn query_fields_of_every_kind() {
    let create: kms::CreateCryptoKeyRequest = request(
        Method::POST,
        "/v1/projects/p/locations/l/keyRings/r/cryptoKeys?cryptoKeyId=k+1%20x&skip_initial_version_creation=true&key=K&prettyPrint=true",
        r#"{"purpose": 1, "versionTemplate": {"algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION", "protectionLevel": "HSM"}}"#,
    )
    .expect("valid");
    assert_eq!((create.crypto_key_id.as_str(), create.skip_initial_version_creation), ("k 1 x", true));
    let key = create.crypto_key.expect("a key");
    assert_eq!(
        (key.purpose(), key.version_template.expect("a template").protection_level),
        (kms::crypto_key::CryptoKeyPurpose::EncryptDecrypt, 2)
    );

    let list = |view: &str| {
        let target = format!("/v2/projects/p/instances/i/tables?view={view}&pageSize=7&page_token=t");
        request::<admin::ListTablesRequest>(Method::GET, &target, "")
    };
    assert_eq!(list("FULL").expect("by name").view, 4);
    let five = list("5").expect("by number");
    assert_eq!(
        (five.view(), five.page_size, five.page_token.as_str()),
        (admin::table::View::EncryptionView, 7, "t")
    );
    assert_eq!(list("BLUE").expect_err("unknown").fields()[0].field, "view");

    let policy: iam::GetIamPolicyRequest =
        request(Method::GET, &format!("/v1/{KEY}:getIamPolicy?options.requestedPolicyVersion=3"), "")
            .expect("valid");
    assert_eq!(
        (policy.resource.as_str(), policy.options.expect("options").requested_policy_version),
        (KEY, 3)
    );

    let sample: data::SampleRowKeysRequest = request(
        Method::GET,
        "/v2/projects/p/instances/i/tables/t:sampleRowKeys?rowRange.startKeyClosed=-_-_&appProfileId=a",
        "",
    )
    .expect("valid");
    let range = sample.row_range.expect("a range");
    assert_eq!(
        range.start_key,
        Some(data::row_range::StartKey::StartKeyClosed(vec![0xfb, 0xff, 0xbf].into()))
    );
}

#[test]
fn well_known_types_have_their_one_word_forms() {
    let pool = claviger_proto::pool();
    let check = |name: &str, text: &str, expect: &str| {
        let message = pool.get_message_by_name(name).expect("in the pool");
        let read = well_known(&message, text).expect("valid");
        assert_eq!(serde_json::to_string(&read).expect("writes"), expect);
    };
    check("google.protobuf.Duration", "1.5s", "\"1.500s\"");
    check("google.protobuf.Timestamp", "2030-01-01T00:00:00Z", "\"2030-01-01T00:00:00Z\"");
    check("google.protobuf.Int64Value", "-7", "\"-7\"");
    check("google.protobuf.BoolValue", "true", "true");
    check("google.protobuf.StringValue", "x", "\"x\"");
    check("google.protobuf.BytesValue", "aGk", "\"aGk=\"");
    check("google.protobuf.FieldMask", "a.bC,d_e", "\"a.bC,dE\"");
    let row = pool.get_message_by_name("google.bigtable.v2.RowRange").expect("in the pool");
    assert!(well_known(&row, "x").expect_err("not one word").contains("RowRange"));
}

#[test]
fn what_is_wrong_is_named() {
    let encrypt = format!("/v1/{KEY}:encrypt");
    refused::<kms::EncryptRequest>(Method::POST, &encrypt, r#"{"plaintext": 5}"#, "plaintext");
    refused::<kms::EncryptRequest>(Method::POST, &encrypt, r#"{"plaintext": "*"}"#, "plaintext");
    refused::<kms::EncryptRequest>(Method::POST, &encrypt, r#"{"painting": "x"}"#, "painting");
    refused::<kms::EncryptRequest>(Method::POST, &encrypt, "{", "");
    refused::<kms::EncryptRequest>(Method::POST, &encrypt, "{} {}", "");
    refused::<kms::EncryptRequest>(Method::POST, &encrypt, "[]", "");
    refused::<kms::EncryptRequest>(Method::POST, &encrypt, "\u{1}", "");
    refused::<kms::EncryptRequest>(Method::POST, &format!("{encrypt}?alt=media"), "{}", "alt");
    refused::<kms::EncryptRequest>(Method::POST, &format!("{encrypt}?x=%"), "{}", "");
    refused::<kms::EncryptRequest>(Method::POST, &format!("{encrypt}?x=1"), "{}", "x");
    refused::<kms::EncryptRequest>(Method::POST, &format!("{encrypt}?name.x=1"), "{}", "name.x");
    let create = "/v1/projects/p/locations/l/keyRings/r/cryptoKeys?cryptoKeyId=k";
    refused::<kms::CreateCryptoKeyRequest>(
        Method::POST,
        create,
        r#"{"versionTemplate": {"algorithm": "ROT13"}}"#,
        "cryptoKey.versionTemplate.algorithm",
    );
    refused::<kms::CreateCryptoKeyRequest>(
        Method::POST,
        create,
        r#"{"destroyScheduledDuration": "soon"}"#,
        "cryptoKey.destroyScheduledDuration",
    );
    refused::<kms::CreateCryptoKeyRequest>(
        Method::POST,
        &format!("{create}&cryptoKey.labels.a=b"),
        "",
        "cryptoKey.labels.a",
    );
    refused::<kms::CreateCryptoKeyRequest>(Method::POST, &format!("{create}&cryptoKey=b"), "", "cryptoKey");
    refused::<kms::CreateCryptoKeyRequest>(
        Method::POST,
        &format!("{create}&skipInitialVersionCreation=x"),
        "",
        "skipInitialVersionCreation",
    );
    refused::<kms::GetCryptoKeyRequest>(Method::GET, &format!("/v1/{KEY}"), r#"{"name": "x"}"#, "");
    refused::<data::MutateRowRequest>(
        Method::POST,
        "/v2/projects/p/instances/i/tables/t:mutateRow",
        r#"{"rowKey": "eA==", "mutations": [{"setCell": {"value": "eA=="}}, {"setCell": {"timestampMicros": "x"}}]}"#,
        "mutations[1].setCell.timestampMicros",
    );
}

#[test]
fn an_empty_body_or_an_empty_object_goes_with_methods_that_take_none() {
    for body in ["", "{}", " \n", "{ }"] {
        let get: kms::GetCryptoKeyRequest = request(Method::GET, &format!("/v1/{KEY}"), body).expect("valid");
        assert_eq!(get.name, KEY);
    }
}

#[test]
fn json_nested_too_deep_is_refused() {
    let mut body = String::from("{}");
    for _ in 0..5000 {
        body = format!(r#"{{"chain": {{"filters": [{body}]}}}}"#);
    }
    let body = format!(r#"{{"filter": {body}}}"#);
    let error =
        request::<data::ReadRowsRequest>(Method::POST, "/v2/projects/p/instances/i/tables/t:readRows", &body);
    assert_eq!(error.expect_err("refused").kind(), claviger_core::ErrorKind::InvalidArgument);
}
