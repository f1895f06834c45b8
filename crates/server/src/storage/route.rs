//! Paths of the API. Names in them are percent-encoded, slashes of objects' names too; those that are not
//! are taken as they stand.
//!
//! Invariant: a path means the same whatever the buckets are called.

use claviger_callers::Right;
use http::Method;
use percent_encoding::percent_decode_str;

const JSON: &str = "/storage/v1/";
const UPLOAD: [&str; 2] = ["/upload/storage/v1/", "/resumable/upload/storage/v1/"];
const DOWNLOAD: &str = "/download/storage/v1/";
const BATCH: [&str; 2] = ["/batch", "/batch/storage/v1"];
/// Where a caller asks what they may do to a bucket.
const OWN_RIGHTS: &str = "iam/testPermissions";
/// First parts of paths that other services have.
const TAKEN: [&str; 11] =
    ["v1", "v1b3", "v2", "v3", "storage", "upload", "download", "batch", "resumable", "healthz", "readyz"];

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// All buckets of a project.
    Buckets,
    Bucket(String),
    BucketAction(String, String),
    /// All objects of a bucket.
    Objects(String),
    Object(String, String),
    ObjectAction(String, String, String),
    Copy {
        source: (String, String),
        to: (String, String),
        rewrite: bool,
    },
    Upload(String),
    Download(String, String),
    /// A read by a path of the XML API.
    Xml(String, String),
    ServiceAccount(String),
    /// Something that is not built; the sentence's subject.
    Unbuilt(&'static str),
}

impl Route {
    /// The right that a request needs; none to ask for one's own. Whoever copies reads too; no role writes objects
    /// without reading them.
    pub(super) fn right(&self, method: &Method) -> Option<Right> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        Some(match (self, reads) {
            (Self::BucketAction(_, action), true) if action == OWN_RIGHTS => return None,
            (Self::Buckets | Self::Bucket(_) | Self::BucketAction(..) | Self::ServiceAccount(_), true) => {
                Right::BucketsRead
            }
            (Self::Buckets | Self::Bucket(_) | Self::BucketAction(..) | Self::ServiceAccount(_), false)
            | (Self::Unbuilt(_), _) => Right::BucketsChange,
            (Self::Objects(_) | Self::Object(..) | Self::ObjectAction(..), true)
            | (Self::Download(..) | Self::Xml(..), _) => Right::ObjectsRead,
            (Self::Objects(_) | Self::Object(..) | Self::ObjectAction(..), false)
            | (Self::Copy { .. } | Self::Upload(_), _) => Right::ObjectsWrite,
        })
    }
}

/// Whether a path is one of the JSON API.
pub(super) fn is_json(path: &str) -> bool {
    path.starts_with(JSON)
        || path.starts_with(DOWNLOAD)
        || UPLOAD.iter().any(|prefix| path.starts_with(prefix))
        || is_batch(path)
}

pub(super) fn is_batch(path: &str) -> bool {
    BATCH.contains(&path.trim_end_matches('/'))
}

/// The bucket and object of a path of the XML API.
pub(super) fn xml(path: &str) -> Option<(String, String)> {
    let (bucket, object) = path.strip_prefix('/')?.split_once('/')?;
    if TAKEN.contains(&bucket) || object.is_empty() {
        return None;
    }
    Some((decode(bucket)?, decode(object)?))
}

pub(super) fn parse(path: &str) -> Option<Route> {
    if let Some(rest) = UPLOAD.iter().find_map(|prefix| path.strip_prefix(prefix)) {
        let (bucket, rest) = rest.strip_prefix("b/")?.split_once('/')?;
        return (rest.trim_end_matches('/') == "o").then(|| decode(bucket).map(Route::Upload))?;
    }
    if let Some(rest) = path.strip_prefix(DOWNLOAD) {
        let (bucket, object) = rest.strip_prefix("b/")?.split_once("/o/")?;
        return Some(Route::Download(decode(bucket)?, decode(object)?));
    }
    if let Some(rest) = path.strip_prefix(JSON) {
        return json(&rest.split('/').collect::<Vec<_>>());
    }
    xml(path).map(|(bucket, object)| Route::Xml(bucket, object))
}

fn json(parts: &[&str]) -> Option<Route> {
    match parts {
        ["b"] | ["b", ""] => Some(Route::Buckets),
        ["b", bucket] => decode(bucket).map(Route::Bucket),
        ["b", bucket, "o"] | ["b", bucket, "o", ""] => decode(bucket).map(Route::Objects),
        ["b", bucket, "o", object @ ..] => self::object(decode(bucket)?, object),
        ["b", bucket, action @ ..] => Some(Route::BucketAction(decode(bucket)?, action.join("/"))),
        ["projects", project, "serviceAccount"] => decode(project).map(Route::ServiceAccount),
        ["projects", _, "hmacKeys", ..] => Some(Route::Unbuilt("HMAC keys")),
        ["channels", ..] => Some(Route::Unbuilt("Notification channels")),
        _ => None,
    }
}

fn object(bucket: String, parts: &[&str]) -> Option<Route> {
    Some(match parts {
        [object, verb @ ("copyTo" | "rewriteTo"), "b", to, "o", name @ ..] if !name.is_empty() => {
            let to = (decode(to)?, decode(&name.join("/"))?);
            Route::Copy { source: (bucket, decode(object)?), to, rewrite: *verb == "rewriteTo" }
        }
        [object, action @ ("compose" | "acl" | "iam" | "restore" | "move")] => {
            Route::ObjectAction(bucket, decode(object)?, (*action).to_owned())
        }
        [object, "moveTo", ..] => Route::ObjectAction(bucket, decode(object)?, "moveTo".to_owned()),
        [object, "acl", _] => Route::ObjectAction(bucket, decode(object)?, "acl".to_owned()),
        [object, "iam", "testPermissions"] => Route::ObjectAction(bucket, decode(object)?, "iam".to_owned()),
        ["watch" | "bulkRestore"] => Route::Unbuilt("Notification channels and soft delete"),
        name => Route::Object(bucket, decode(&name.join("/"))?),
    })
}

fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_buckets_objects_and_what_to_do() {
        let object = |bucket: &str, object: &str| Route::Object(bucket.into(), object.into());
        for (path, route) in [
            ("/storage/v1/b", Route::Buckets),
            ("/storage/v1/b/x", Route::Bucket("x".into())),
            (
                "/storage/v1/b/x/iam/testPermissions",
                Route::BucketAction("x".into(), "iam/testPermissions".into()),
            ),
            ("/storage/v1/b/x/o", Route::Objects("x".into())),
            ("/storage/v1/b/x/o/a%2Fb%20c", object("x", "a/b c")),
            ("/storage/v1/b/x/o/a/b", object("x", "a/b")),
            ("/storage/v1/b/x/o/o%2Fcompose", object("x", "o/compose")),
            ("/storage/v1/b/x/o/a/compose", Route::ObjectAction("x".into(), "a".into(), "compose".into())),
            (
                "/storage/v1/b/x/o/a%2F1/rewriteTo/b/y/o/c%2F2",
                Route::Copy {
                    source: ("x".into(), "a/1".into()),
                    to: ("y".into(), "c/2".into()),
                    rewrite: true,
                },
            ),
            ("/upload/storage/v1/b/x/o", Route::Upload("x".into())),
            ("/download/storage/v1/b/x/o/a%2Fb", Route::Download("x".into(), "a/b".into())),
            ("/bucket/a/b", Route::Xml("bucket".into(), "a/b".into())),
            ("/storage/v1/projects/p/serviceAccount", Route::ServiceAccount("p".into())),
        ] {
            assert_eq!(parse(path), Some(route), "{path}");
        }
        for path in ["/storage/v1/", "/storage/v1/x", "/upload/storage/v1/b/x", "/v2/projects/p", "/x"] {
            assert_eq!(parse(path), None, "{path}");
        }
        assert!(is_json("/storage/v1/b") && is_batch("/batch/storage/v1") && !is_json("/v1/projects"));
    }
}
