//! REST in front of real tonic services.

use std::pin::Pin;

use axum::body::Body;
use claviger_proto::google::bigtable::admin::v2 as admin;
use claviger_proto::google::bigtable::v2 as data;
use claviger_proto::google::bigtable::v2::bigtable_server::{Bigtable, BigtableServer};
use claviger_proto::google::iam::v1 as iam;
use claviger_proto::google::iam::v1::iam_policy_server::{IamPolicy, IamPolicyServer};
use claviger_proto::google::longrunning as lro;
use claviger_proto::google::longrunning::operations_server::{Operations, OperationsServer};
use futures::Stream;
use http_body_util::BodyExt;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::service::Routes as Services;
use tonic::{Request, Response, Status};

use super::*;

/// Answers from constants; the names of resources choose which.
struct Constant;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Operations for Constant {
    async fn get_operation(
        &self,
        request: Request<lro::GetOperationRequest>,
    ) -> Result<Response<lro::Operation>, Status> {
        let told = |name: &str| {
            request.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned()
        };
        let cluster = admin::Cluster {
            name: format!(
                "{} {} {}",
                told("authorization"),
                told("x-goog-request-params"),
                told("grpc-timeout")
            ),
            state: 1,
            ..Default::default()
        };
        Ok(Response::new(lro::Operation {
            name: request.get_ref().name.clone(),
            metadata: Any::from_msg(&admin::CreateClusterMetadata::default()).ok(),
            done: true,
            result: Any::from_msg(&cluster).ok().map(lro::operation::Result::Response),
        }))
    }

    async fn list_operations(
        &self,
        _: Request<lro::ListOperationsRequest>,
    ) -> Result<Response<lro::ListOperationsResponse>, Status> {
        Ok(Response::new(lro::ListOperationsResponse::default()))
    }

    async fn delete_operation(
        &self,
        _: Request<lro::DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn cancel_operation(
        &self,
        _: Request<lro::CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let error = Error::precondition("the key is disabled").violating("KEY_DISABLED", "k", "Enable it.");
        Err(status::status(error))
    }

    async fn wait_operation(
        &self,
        _: Request<lro::WaitOperationRequest>,
    ) -> Result<Response<lro::Operation>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tonic::async_trait]
impl IamPolicy for Constant {
    async fn set_iam_policy(
        &self,
        request: Request<iam::SetIamPolicyRequest>,
    ) -> Result<Response<iam::Policy>, Status> {
        request.into_inner().policy.map(Response::new).ok_or_else(|| Status::invalid_argument("no policy"))
    }

    async fn get_iam_policy(
        &self,
        request: Request<iam::GetIamPolicyRequest>,
    ) -> Result<Response<iam::Policy>, Status> {
        let version = request.into_inner().options.unwrap_or_default().requested_policy_version;
        Ok(Response::new(iam::Policy { version, etag: "\u{3e}\u{3f}".into(), ..Default::default() }))
    }

    async fn test_iam_permissions(
        &self,
        request: Request<iam::TestIamPermissionsRequest>,
    ) -> Result<Response<iam::TestIamPermissionsResponse>, Status> {
        Ok(Response::new(iam::TestIamPermissionsResponse { permissions: request.into_inner().permissions }))
    }
}

#[tonic::async_trait]
impl Bigtable for Constant {
    type ReadRowsStream = Streamed<data::ReadRowsResponse>;
    type SampleRowKeysStream = Streamed<data::SampleRowKeysResponse>;
    type MutateRowsStream = Streamed<data::MutateRowsResponse>;

    async fn read_rows(
        &self,
        request: Request<data::ReadRowsRequest>,
    ) -> Result<Response<Self::ReadRowsStream>, Status> {
        let chunk = |key: &'static str| {
            let chunk = data::read_rows_response::CellChunk {
                row_key: key.into(),
                family_name: Some("f".into()),
                qualifier: Some(Bytes::from_static(b"q")),
                timestamp_micros: 5_000_000_000_000_000,
                row_status: Some(data::read_rows_response::cell_chunk::RowStatus::CommitRow(true)),
                ..Default::default()
            };
            Ok(data::ReadRowsResponse { chunks: vec![chunk], ..Default::default() })
        };
        let items = match request.get_ref().rows_limit {
            0 => vec![],
            1 => vec![chunk("a"), chunk("b")],
            2 => vec![chunk("a"), Err(status::status(Error::precondition("the key went away")))],
            3 => vec![Err(status::status(Error::not_found("no such table")))],
            _ => return Err(status::status(Error::not_found("no such table"))),
        };
        Ok(Response::new(Box::pin(futures::stream::iter(items))))
    }

    async fn sample_row_keys(
        &self,
        _: Request<data::SampleRowKeysRequest>,
    ) -> Result<Response<Self::SampleRowKeysStream>, Status> {
        Ok(Response::new(Box::pin(futures::stream::empty())))
    }

    async fn mutate_row(
        &self,
        _: Request<data::MutateRowRequest>,
    ) -> Result<Response<data::MutateRowResponse>, Status> {
        Ok(Response::new(data::MutateRowResponse {}))
    }

    async fn mutate_rows(
        &self,
        _: Request<data::MutateRowsRequest>,
    ) -> Result<Response<Self::MutateRowsStream>, Status> {
        Ok(Response::new(Box::pin(futures::stream::empty())))
    }

    async fn check_and_mutate_row(
        &self,
        _: Request<data::CheckAndMutateRowRequest>,
    ) -> Result<Response<data::CheckAndMutateRowResponse>, Status> {
        Ok(Response::new(data::CheckAndMutateRowResponse { predicate_matched: true }))
    }

    async fn ping_and_warm(
        &self,
        _: Request<data::PingAndWarmRequest>,
    ) -> Result<Response<data::PingAndWarmResponse>, Status> {
        Ok(Response::new(data::PingAndWarmResponse {}))
    }

    async fn read_modify_write_row(
        &self,
        _: Request<data::ReadModifyWriteRowRequest>,
    ) -> Result<Response<data::ReadModifyWriteRowResponse>, Status> {
        Ok(Response::new(data::ReadModifyWriteRowResponse::default()))
    }
}

fn rest() -> Rest<Services> {
    let services = Services::new(OperationsServer::new(Constant))
        .add_service(IamPolicyServer::new(Constant))
        .add_service(BigtableServer::new(Constant))
        .prepare();
    Rest::new(claviger_proto::pool(), services)
}

async fn send(method: &str, target: &str, body: impl Into<Body>) -> (u16, HeaderMap, Value) {
    let request = http::Request::builder().method(method).uri(target).body(body.into()).expect("a request");
    let response = rest().call(request).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    assert_eq!(head.headers[CONTENT_TYPE], "application/json; charset=UTF-8");
    (head.status.as_u16(), head.headers, serde_json::from_slice(&body).expect("JSON"))
}

const TABLE: &str = "/v2/projects/p/instances/i/tables/t";

#[tokio::test]
async fn a_reply_is_canonical_json_with_its_packed_messages_open() {
    let (code, _, reply) = send("GET", "/v2/operations/projects/p/instances/i/op", "").await;
    assert_eq!(code, 200);
    assert_eq!(
        reply,
        json!({
            "name": "operations/projects/p/instances/i/op",
            "metadata": {"@type": "type.googleapis.com/google.bigtable.admin.v2.CreateClusterMetadata"},
            "done": true,
            "response": {
                "@type": "type.googleapis.com/google.bigtable.admin.v2.Cluster",
                "name": "- - -",
                "state": "READY",
            },
        })
    );
    let (_, _, reply) =
        send("GET", "/v2/operations/projects/p/instances/i/op?$alt=json%3Benum-encoding%3Dint", "").await;
    assert_eq!(reply["response"]["state"], json!(1));
    let (code, _, reply) = send("DELETE", "/v2/operations/projects/p/op", "").await;
    assert_eq!((code, reply), (200, json!({})));
}

#[tokio::test]
async fn headers_become_metadata_except_those_of_the_wire() {
    let request = http::Request::builder()
        .uri("/v1/operations/op")
        .header("authorization", "Bearer t")
        .header("x-goog-request-params", "name=op")
        .header("grpc-timeout", "1n")
        .header("content-length", "0")
        .header("accept-encoding", "gzip")
        .body(Body::empty())
        .expect("a request");
    let body = rest().call(request).await.into_body().collect().await.expect("a body").to_bytes();
    let reply: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(reply["response"]["name"], "Bearer t name=op -");
}

#[tokio::test]
async fn an_error_keeps_its_code_its_message_and_its_details() {
    let (code, _, reply) = send("POST", "/v2/operations/projects/p/op:cancel", "{}").await;
    assert_eq!(code, 400);
    assert_eq!(
        reply,
        json!({"error": {
            "code": 400,
            "message": "the key is disabled",
            "status": "FAILED_PRECONDITION",
            "details": [{
                "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
                "violations": [{"type": "KEY_DISABLED", "subject": "k", "description": "Enable it."}],
            }],
        }})
    );
}

#[tokio::test]
async fn bodies_go_in_and_come_back() {
    let policy =
        json!({"version": 3, "bindings": [{"role": "r", "members": ["user:a@b.c"]}], "etag": "Pj8="});
    let body = json!({"policy": policy}).to_string();
    let (code, _, reply) = send("POST", "/v1/projects/p/locations/l/keyRings/r:setIamPolicy", body).await;
    assert_eq!((code, reply), (200, policy));
    let key = "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let (_, _, reply) =
        send("GET", &format!("{key}:getIamPolicy?options.requestedPolicyVersion=1"), "").await;
    assert_eq!(reply, json!({"version": 1, "etag": "Pj8="}));
    let (_, _, reply) =
        send("POST", &format!("{key}:testIamPermissions?permissions=a&permissions=b"), "").await;
    assert_eq!(reply, json!({"permissions": ["a", "b"]}));
}

#[tokio::test]
async fn a_stream_is_an_array() {
    let target = format!("{TABLE}:readRows");
    let chunk = |key: &str| {
        json!({"chunks": [{
            "rowKey": key,
            "familyName": "f",
            "qualifier": "cQ==",
            "timestampMicros": "5000000000000000",
            "commitRow": true,
        }]})
    };
    let (code, _, reply) = send("POST", &target, r#"{"rowsLimit": "1"}"#).await;
    assert_eq!((code, reply), (200, json!([chunk("YQ=="), chunk("Yg==")])));
    let (code, _, reply) = send("POST", &target, "").await;
    assert_eq!((code, reply), (200, json!([])));
}

#[tokio::test]
async fn a_stream_that_fails_late_ends_with_its_error_and_one_that_fails_early_is_an_error() {
    let target = format!("{TABLE}:readRows");
    let (code, _, reply) = send("POST", &target, r#"{"rowsLimit": 2}"#).await;
    assert_eq!(code, 200);
    assert_eq!(reply[0]["chunks"][0]["rowKey"], "YQ==");
    assert_eq!(
        reply[1],
        json!({"error": {"code": 400, "message": "the key went away", "status": "FAILED_PRECONDITION"}})
    );
    for limit in [3, 4] {
        let (code, _, reply) = send("POST", &target, format!("{{\"rowsLimit\": {limit}}}")).await;
        assert_eq!(code, 404);
        assert_eq!(reply["error"]["status"], "NOT_FOUND");
    }
}

#[tokio::test]
async fn requests_that_no_method_answers_say_what_is_wrong() {
    let (code, _, reply) = send("GET", "/v1/nothing/here", "").await;
    assert_eq!(code, 404);
    assert_eq!(
        reply,
        json!({"error": {"code": 404, "message": "There is no method for GET /v1/nothing/here.", "status": "NOT_FOUND"}})
    );
    let (code, headers, reply) = send("POST", "/v2/projects/p/instances/i/clusters/c", "").await;
    assert_eq!((code, &reply["error"]["status"]), (405, &json!("UNIMPLEMENTED")));
    let mut allow: Vec<&str> = headers[ALLOW].to_str().expect("text").split(", ").collect();
    allow.sort_unstable();
    assert_eq!(allow, ["DELETE", "GET", "PATCH", "PUT"]);
    let key = "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let (code, _, reply) = send("POST", &format!("{key}/cryptoKeyVersions/1:asymmetricSign"), "{}").await;
    assert_eq!(code, 501);
    assert_eq!(reply["error"]["message"], "The method :asymmetricSign is not built.");
    // A method that has a rule and no service behind it.
    let (code, _, reply) = send("GET", key, "").await;
    assert_eq!((code, &reply["error"]["status"]), (501, &json!("UNIMPLEMENTED")));
}

#[tokio::test]
async fn bad_bodies_are_the_callers_fault() {
    let target = format!("{TABLE}:mutateRow");
    let (code, _, reply) = send("POST", &target, r#"{"rowKey": "eA==", "mutations": [{"paint": {}}]}"#).await;
    assert_eq!(code, 400);
    assert_eq!(reply["error"]["details"][0]["fieldViolations"][0]["field"], "mutations[0].paint");
    let (code, _, reply) = send("POST", &target, vec![b' '; BODY_BYTES + 1]).await;
    assert_eq!((code, &reply["error"]["code"]), (413, &json!(413)));
}

/// A small generator of numbers that look random; the same on each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap_or_default()
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.roll(words.len())]
    }
}

#[tokio::test]
async fn no_bytes_make_it_panic() {
    let paths = [
        "/v2/projects/p/instances/i/tables/t:readRows",
        "/v2/projects/p/instances/i/tables/t:mutateRow",
        "/v2/projects/p/instances/i/tables/t:sampleRowKeys",
        "/v2/projects/p/instances",
        "/v2/operations/a/b",
        "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k:setIamPolicy",
        "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k:encrypt",
        "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k",
    ];
    let queries = [
        "",
        "alt=json",
        "$alt=json;enum-encoding=int",
        "view=1",
        "rows.rowRanges=x",
        "filter.sink=true",
        "=",
        "&&",
        "options.requestedPolicyVersion=9999999999",
        "rowRange.startKeyOpen=%00",
        "updateMask=a,,b..c",
        "%41=%zz",
        "cryptoKey.nextRotationTime=2030-13-01T00:00:00Z",
        "cryptoKey.rotationPeriod=1e400s",
        "name=%F0%9F%98%80",
        "cryptoKey.primary.state=-1",
        "rowsLimit=-9223372036854775809",
        "a.b.c.d=1",
        "clusters.x.name=y",
    ];
    let bodies = [
        "",
        "{}",
        "null",
        "[]",
        "1e999",
        "\"\\ud800\"",
        "{\"rowsLimit\": 1e30}",
        "{\"filter\": {\"rowSampleFilter\": \"NaN\"}}",
        "{\"policy\": {\"bindings\": [{\"condition\": {\"title\": 5}}], \"etag\": \"====\"}}",
        "{\"rows\": {\"rowKeys\": [null]}}",
        "{\"mutations\": [{\"setCell\": {\"value\": \"AA\"}, \"deleteFromRow\": {}}]}",
        "{\"instance\": {\"labels\": {\"\": null}}}",
        "{\"updateMask\": \"a_b\", \"policy\": null}",
        "{\"cryptoKey\": {\"nextRotationTime\": \"0000-00-00T99:99:99Z\"}}",
        "{\"clusters\": {\"c\": {\"encryptionConfig\": {\"kmsKeyName\": [1]}}}}",
        "{\"plaintextCrc32c\": 1.5}",
    ];
    let rest = rest();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut seen = std::collections::BTreeMap::<u16, usize>::new();
    for _ in 0..4000 {
        let mut target: Vec<u8> = match dice.roll(2) {
            0 => dice.pick(&paths).into(),
            _ => format!("{}?{}", dice.pick(&paths), dice.pick(&queries)).into(),
        };
        let mut body: Vec<u8> = dice.pick(&bodies).into();
        for text in [&mut target, &mut body] {
            for _ in 0..dice.roll(4).saturating_sub(1) {
                let byte = u8::try_from(dice.roll(256)).unwrap_or_default();
                let at = dice.roll(text.len().max(1));
                match dice.roll(3) {
                    0 => text.insert(at, byte),
                    1 if at < text.len() => text[at] = byte,
                    _ => text.truncate(at.max(1)),
                }
            }
        }
        let fits = if target.windows(5).any(|word| matches!(word, b":read" | b":muta" | b":setI" | b":encr"))
        {
            "POST"
        } else {
            "GET"
        };
        let method = dice.pick(&[fits, fits, fits, "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "x"]);
        // What is no URI never gets this far: hyper refuses it.
        let Ok(uri) = http::Uri::try_from(target) else { continue };
        let request =
            http::Request::builder().method(method).uri(uri).body(Body::from(body)).expect("a request");
        let response = rest.call(request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        let _: Value = serde_json::from_slice(&bytes).expect("JSON, whatever came");
        *seen.entry(code).or_default() += 1;
    }
    assert!(!seen.contains_key(&500), "{seen:?}");
    for code in [200, 400, 404, 405] {
        assert!(seen.get(&code).is_some_and(|times| *times > 20), "{seen:?}");
    }
}
