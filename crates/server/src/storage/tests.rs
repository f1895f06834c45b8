//! The API over real buckets in memory, request by request.

use std::sync::Arc;

use async_trait::async_trait;
use claviger_buckets::{Config, KeyDirectory};
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, ManualClock, Timestamp};
use claviger_kms::agents::Service;
use claviger_kms::{Kms, KmsConfig};
use claviger_sealed::Records;
use object_store::memory::InMemory;
use serde_json::json;

use super::*;

struct Directory(Arc<Kms>);

#[async_trait]
impl KeyDirectory for Directory {
    async fn project_number(&self, project: &str) -> claviger_core::Result<u64> {
        self.0.project_number(project).await
    }
    async fn agent(&self, project: &str) -> claviger_core::Result<Caller> {
        self.0.service_agent(Service::Storage, project).await
    }
    async fn managed_key(&self, location: &str) -> claviger_core::Result<(CryptoKeyName, Caller)> {
        let key = self.0.managed_key(Service::Storage, location).await?;
        let agent = self.0.service_agent(Service::Storage, key.project()).await?;
        Ok((key, agent))
    }
    async fn try_key(&self, _: &Caller, _: &CryptoKeyName) -> claviger_core::Result<()> {
        Ok(())
    }
}

async fn api() -> StorageApi {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000_000)));
    let kms =
        Box::pin(Kms::open(KmsConfig::default(), Arc::new(InMemory::new()), clock.clone())).await.unwrap();
    let records = Arc::new(Records::open(Arc::new(InMemory::new()), "records").await.unwrap());
    let keys = claviger_cmek::Manager::open(records.clone(), kms.clone(), clock.clone(), Default::default());
    let buckets = Buckets::open(Config {
        files: Arc::new(InMemory::new()),
        records,
        keys: keys.unwrap(),
        directory: Arc::new(Directory(kms)),
        clock,
        cache_bytes: 1 << 20,
        room: Arc::new(|| Ok(())),
    });
    let api = StorageApi::new(buckets.await.unwrap());
    let made =
        send(&api, "POST", "/storage/v1/b?project=p", &[], json!({"name": "bucket"}).to_string()).await;
    assert_eq!(made.0, 200, "{:?}", made.2);
    api
}

/// Sends a request; its status, headers and body.
async fn send(
    api: &StorageApi,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> (u16, HeaderMap, Bytes) {
    let mut request = Request::builder().method(method).uri(path).header("host", "h:1");
    request = request.extension(Identity::Local);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = api.call(request.body(body.into()).unwrap()).await;
    let (head, body) = response.into_parts();
    (head.status.as_u16(), head.headers, body.collect().await.unwrap().to_bytes())
}

fn value(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_goes_up_in_two_parts_and_comes_down_in_ranges() {
    let api = api().await;
    let body = "--B\r\ncontent-type: application/json\r\n\r\n{\"name\": \"d/é\", \"metadata\": {\"k\": \"v\"}}\r\n--B\r\ncontent-type: text/x\r\n\r\nhello world\r\n--B--";
    let kind = ("content-type", "multipart/related; boundary=B");
    let up = send(&api, "POST", "/upload/storage/v1/b/bucket/o?uploadType=multipart", &[kind], body).await;
    let object = value(&up.2);
    assert_eq!((up.0, object["name"].as_str(), object["size"].as_str()), (200, Some("d/é"), Some("11")));
    assert_eq!(
        (&object["crc32c"], &object["md5Hash"]),
        (&json!("yZRlqg=="), &json!("XrY7u+Ae7tCTyyK7j1rNww=="))
    );
    assert_eq!(
        object["mediaLink"].as_str().unwrap().split('?').next(),
        Some("http://h:1/download/storage/v1/b/bucket/o/d%2F%C3%A9")
    );
    let path = "/download/storage/v1/b/bucket/o/d%2F%C3%A9?alt=media";
    let (status, headers, body) = send(&api, "GET", path, &[], "").await;
    assert_eq!((status, &body[..]), (200, &b"hello world"[..]));
    assert_eq!(headers["content-type"], "text/x");
    assert_eq!(headers["x-goog-hash"], "crc32c=yZRlqg==,md5=XrY7u+Ae7tCTyyK7j1rNww==");
    let (status, headers, body) = send(&api, "GET", path, &[("range", "bytes=6-")], "").await;
    assert_eq!((status, &body[..]), (206, &b"world"[..]));
    assert_eq!(headers["content-range"], "bytes 6-10/11");
    let past = send(&api, "GET", path, &[("range", "bytes=11-")], "").await;
    assert_eq!(
        (past.0, value(&past.2)["error"]["errors"][0]["reason"].as_str()),
        (416, Some("requestedRangeNotSatisfiable"))
    );
    let (status, headers, body) = send(&api, "GET", "/bucket/d/%C3%A9", &[], "").await;
    assert_eq!(
        (status, &body[..], &headers["x-goog-meta-k"]),
        (200, &b"hello world"[..], &HeaderValue::from_static("v"))
    );
    let (status, headers, body) = send(&api, "HEAD", "/bucket/d/%C3%A9", &[], "").await;
    assert_eq!((status, body.len(), &headers["content-length"]), (200, 0, &HeaderValue::from_static("11")));
    assert!(api.matches(&Method::GET, "/bucket/x") && !api.matches(&Method::GET, "/other/x"));
    assert!(!api.matches(&Method::POST, "/bucket/x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumable_upload_says_how_far_it_is() {
    let api = api().await;
    let start =
        send(&api, "POST", "/upload/storage/v1/b/bucket/o?uploadType=resumable&name=a", &[], "{}").await;
    let location = start.1["location"].to_str().unwrap().to_owned();
    let path = location.strip_prefix("http://h:1").unwrap();
    let asked = send(&api, "PUT", path, &[("content-range", "bytes */*")], "").await;
    assert_eq!((asked.0, asked.1.get("range")), (308, None));
    let chunk = vec![7_u8; 262_144];
    let first = send(&api, "PUT", path, &[("content-range", "bytes 0-262143/*")], chunk.clone()).await;
    assert_eq!((first.0, &first.1["range"]), (308, &HeaderValue::from_static("bytes=0-262143")));
    let asked = send(&api, "PUT", path, &[("content-range", "bytes */300000")], "").await;
    assert_eq!((asked.0, &asked.1["range"]), (308, &HeaderValue::from_static("bytes=0-262143")));
    let last = ("content-range", "bytes 262144-262145/262146");
    let wrong = send(&api, "PUT", path, &[("content-range", "bytes x-y/z")], "ab").await;
    assert_eq!(wrong.0, 400);
    let other = send(&api, "PUT", path, &[last], "ab").await;
    assert_eq!(other.0, 400, "the total was said to be another: {:?}", other.2);
    let start =
        send(&api, "POST", "/upload/storage/v1/b/bucket/o?uploadType=resumable&name=b", &[], "{}").await;
    let path = start.1["location"].to_str().unwrap().strip_prefix("http://h:1").unwrap().to_owned();
    send(&api, "PUT", &path, &[("content-range", "bytes 0-262143/*")], chunk).await;
    let done = send(&api, "PUT", &path, &[last, ("x-goog-hash", "crc32c=AAAAAA==")], "ab").await;
    assert_eq!(done.0, 400, "{:?}", done.2);
    let again = send(&api, "PUT", &path, &[("content-range", "bytes */*")], "").await;
    assert!(matches!(again.0, 308 | 400), "{:?}", again.2);
    let start =
        send(&api, "POST", "/upload/storage/v1/b/bucket/o?uploadType=resumable&name=c", &[], "{}").await;
    let path = start.1["location"].to_str().unwrap().strip_prefix("http://h:1").unwrap().to_owned();
    let done = send(&api, "PUT", &path, &[], "all at once").await;
    assert_eq!((done.0, value(&done.2)["size"].as_str()), (200, Some("11")));
    let cancelled = send(&api, "DELETE", &path, &[], "").await;
    assert_eq!(cancelled.0, 410, "it is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_and_errors_have_the_statuses_and_reasons_of_cloud_storage() {
    let api = api().await;
    let up = "/upload/storage/v1/b/bucket/o?uploadType=media&name=a";
    assert_eq!(send(&api, "POST", up, &[], "x").await.0, 200);
    let cases = [
        ("POST", format!("{up}&ifGenerationMatch=0"), 412, "conditionNotMet"),
        ("GET", "/storage/v1/b/bucket/o/none".into(), 404, "notFound"),
        ("GET", "/storage/v1/b/none".into(), 404, "notFound"),
        ("GET", "/storage/v1/b/bucket/o?maxResults=x".into(), 400, "invalidParameter"),
        ("GET", "/storage/v1/b".into(), 400, "required"),
        ("DELETE", "/storage/v1/b/bucket".into(), 409, "conflict"),
        ("POST", "/storage/v1/b/bucket".into(), 405, "methodNotAllowed"),
        ("GET", "/storage/v1/b/bucket/o/a/acl".into(), 400, "invalid"),
        ("POST", format!("{up}&kmsKeyName=x"), 400, "cloudKmsBadKey"),
        ("GET", "/storage/v1/projects/p/hmacKeys".into(), 501, "notImplemented"),
        ("GET", "/storage/v1/nothing".into(), 404, "notFound"),
    ];
    for (method, path, status, reason) in cases {
        let (found, _, body) = send(&api, method, &path, &[], "").await;
        let error = &value(&body)["error"];
        assert_eq!(
            (found, error["errors"][0]["reason"].as_str()),
            (status, Some(reason)),
            "{method} {path} {error}"
        );
        assert_eq!(error["code"], status);
    }
    let generation =
        value(&send(&api, "GET", "/storage/v1/b/bucket/o/a", &[], "").await.2)["generation"].clone();
    let same = format!("/storage/v1/b/bucket/o/a?ifGenerationNotMatch={}", generation.as_str().unwrap());
    let (status, _, body) = send(&api, "GET", &same, &[], "").await;
    assert_eq!((status, body.len()), (304, 0));
    let csek = [("x-goog-encryption-algorithm", "AES256")];
    assert_eq!(send(&api, "GET", "/storage/v1/b/bucket/o/a", &csek, "").await.0, 501);
    let bad = send(&api, "PATCH", "/storage/v1/b/bucket/o/a", &[], "[").await;
    assert_eq!((bad.0, value(&bad.2)["error"]["errors"][0]["reason"].as_str()), (400, Some("parseError")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_change_what_they_name_and_nulls_remove() {
    let api = api().await;
    let up = "/upload/storage/v1/b/bucket/o?uploadType=media&name=a";
    send(&api, "POST", up, &[("content-type", "text/x")], "x").await;
    let path = "/storage/v1/b/bucket/o/a";
    let patch = json!({"metadata": {"a": "1", "b": "2"}, "cacheControl": "no-store", "customTime": "2020-01-02T03:04:05.678Z"});
    let object = value(&send(&api, "PATCH", path, &[], patch.to_string()).await.2);
    assert_eq!(
        (&object["metadata"], &object["contentType"]),
        (&json!({"a": "1", "b": "2"}), &json!("text/x"))
    );
    assert_eq!(
        (&object["customTime"], &object["metageneration"]),
        (&json!("2020-01-02T03:04:05.678Z"), &json!("2"))
    );
    let patch = json!({"metadata": {"a": null}, "cacheControl": null});
    let override_ = [("x-http-method-override", "PATCH")];
    let object = value(&send(&api, "POST", path, &override_, patch.to_string()).await.2);
    assert_eq!((&object["metadata"], object.get("cacheControl")), (&json!({"b": "2"}), None));
    let patch = json!({"labels": {"team": "birds"}, "versioning": {"enabled": true}, "lifecycle": {"rule": [{"action": {"type": "Delete"}, "condition": {"age": 3}}]}});
    let bucket = value(&send(&api, "PATCH", "/storage/v1/b/bucket", &[], patch.to_string()).await.2);
    assert_eq!(
        (&bucket["labels"], &bucket["versioning"]),
        (&json!({"team": "birds"}), &json!({"enabled": true}))
    );
    assert_eq!(bucket["metageneration"], "2");
    let patch = json!({"labels": {"team": null}, "lifecycle": null, "autoclass": {"enabled": false}});
    let bucket = value(&send(&api, "PATCH", "/storage/v1/b/bucket", &[], patch.to_string()).await.2);
    assert_eq!((bucket.get("labels"), bucket.get("lifecycle")), (None, None));
    let patch = json!({"autoclass": {"enabled": true}});
    assert_eq!(send(&api, "PATCH", "/storage/v1/b/bucket", &[], patch.to_string()).await.0, 501);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_answers_each_of_its_calls() {
    let api = api().await;
    send(&api, "POST", "/upload/storage/v1/b/bucket/o?uploadType=media&name=a", &[], "x").await;
    let body = "--B\r\nContent-Type: application/http\r\nContent-ID: <q+1>\r\n\r\nDELETE /storage/v1/b/bucket/o/a HTTP/1.1\r\n\r\n\r\n--B\r\nContent-Type: application/http\r\nContent-ID: <q+2>\r\n\r\nDELETE /storage/v1/b/bucket/o/a HTTP/1.1\r\n\r\n\r\n--B--";
    let kind = [("content-type", "multipart/mixed; boundary=B")];
    let (status, headers, body) = send(&api, "POST", "/batch/storage/v1", &kind, body).await;
    let text = String::from_utf8_lossy(&body);
    assert_eq!(
        (status, &headers["content-type"]),
        (200, &HeaderValue::from_static("multipart/mixed; boundary=batch_answers"))
    );
    let (first, second) = (text.find("HTTP/1.1 204").unwrap(), text.find("HTTP/1.1 404").unwrap());
    assert!(first < second && text.contains("<response-q+1>") && text.contains("<response-q+2>"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_kept_and_stale_ones_refused() {
    let api = api().await;
    let path = "/storage/v1/b/bucket/iam";
    let policy = value(&send(&api, "GET", path, &[], "").await.2);
    let binding = json!([{"role": "roles/storage.objectViewer", "members": ["allUsers"]}]);
    let new = json!({"bindings": binding, "etag": policy["etag"]});
    let set = value(&send(&api, "PUT", path, &[], new.to_string()).await.2);
    assert_eq!(set["bindings"], binding);
    assert_eq!(send(&api, "PUT", path, &[], new.to_string()).await.0, 412);
    let asked = "/storage/v1/b/bucket/iam/testPermissions?permissions=a&permissions=b";
    assert_eq!(value(&send(&api, "GET", asked, &[], "").await.2)["permissions"], json!(["a", "b"]));
}
