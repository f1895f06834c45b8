//! Objects over the JSON API: records, listings, copies, compositions.

use axum::body::Body;
use claviger_buckets::model::{Object, ObjectMetadata};
use claviger_buckets::{ComposeRequest, ComposeSource, CopyRequest, ListRequest};
use claviger_core::Error;
use http::{Method, Response};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::{Answer, Call, StorageApi, json, json_body, no_content, reply};

impl StorageApi {
    /// `b/BUCKET/o`: a listing.
    pub(super) async fn objects(&self, call: &Call, bucket: &str) -> Answer {
        if call.method != Method::GET {
            return Err(Failure::method());
        }
        let query = &call.query;
        if query.flag("softDeleted") {
            return Err(Error::unimplemented("Soft delete is not built in this server.").into());
        }
        let page = self
            .buckets
            .list(&ListRequest {
                bucket: bucket.to_owned(),
                prefix: query.text("prefix").unwrap_or_default(),
                delimiter: query.text("delimiter"),
                start_offset: query.text("startOffset"),
                end_offset: query.text("endOffset"),
                versions: query.flag("versions"),
                include_trailing_delimiter: query.flag("includeTrailingDelimiter"),
                match_glob: query.text("matchGlob"),
                max_results: query.number("maxResults")?,
                page_token: query.text("pageToken"),
            })
            .await?;
        let found = self.buckets.bucket(bucket)?;
        let keys = self.buckets.key_versions(bucket).await?;
        let items: Vec<Value> =
            page.objects.iter().map(|object| json::object(object, &found, &keys, &call.origin)).collect();
        let mut shown = Map::from_iter([("kind".to_owned(), json!("storage#objects"))]);
        if !items.is_empty() {
            shown.insert("items".into(), items.into());
        }
        if !page.prefixes.is_empty() {
            shown.insert("prefixes".into(), page.prefixes.into());
        }
        if let Some(next) = page.next {
            shown.insert("nextPageToken".into(), next.into());
        }
        Ok(reply(&shown.into()))
    }

    /// `b/BUCKET/o/OBJECT`.
    pub(super) async fn object(&self, call: &Call, bucket: &str, name: &str, body: Body) -> Answer {
        let generation = call.query.generation()?;
        let conditions = call.query.conditions()?;
        match call.method {
            Method::GET | Method::HEAD if call.query.get("alt") == Some("media") => {
                self.download(call, bucket, name, false).await
            }
            Method::GET | Method::HEAD => {
                let object = self.buckets.object(bucket, name, generation, &conditions).await?;
                self.shown_object(call, bucket, &object).await
            }
            Method::PATCH | Method::PUT => {
                let (body, whole) = (json_body(body).await?, call.method == Method::PUT);
                let mut failure = None;
                let changed = self.buckets.update_object(bucket, name, generation, &conditions, |metadata| {
                    if whole {
                        *metadata = ObjectMetadata {
                            storage_class: metadata.storage_class.take(),
                            custom_time: metadata.custom_time,
                            ..ObjectMetadata::default()
                        };
                    }
                    json::patch_object(metadata, &body).map_err(|refused| {
                        failure = Some(refused);
                        Error::invalid("The patch cannot be read.")
                    })
                });
                let changed = changed.await;
                match (changed, failure) {
                    (Ok(object), _) => self.shown_object(call, bucket, &object).await,
                    (Err(_), Some(failure)) => Err(failure),
                    (Err(error), None) => Err(error.into()),
                }
            }
            Method::DELETE => {
                self.buckets.delete_object(bucket, name, generation, &conditions).await?;
                Ok(no_content())
            }
            _ => Err(Failure::method()),
        }
    }

    /// What lies below `b/BUCKET/o/OBJECT`.
    pub(super) async fn object_action(
        &self,
        call: &Call,
        bucket: &str,
        name: &str,
        action: &str,
        body: Body,
    ) -> Answer {
        match (&call.method, action) {
            (&Method::POST, "compose") => self.compose(call, bucket, name, body).await,
            (_, "compose") => Err(Failure::method()),
            (_, "acl" | "iam") => Err(Failure::uniform()),
            (_, "restore") => Err(Error::unimplemented("Soft delete is not built in this server.").into()),
            _ => {
                Err(Error::unimplemented("Moving objects is not built in this server: copy and delete.")
                    .into())
            }
        }
    }

    async fn compose(&self, call: &Call, bucket: &str, name: &str, body: Body) -> Answer {
        let body = json_body(body).await?;
        let destination = body.get("destination").and_then(Value::as_object).cloned().unwrap_or_default();
        // Clients send the first source's record along, its checksum too.
        let (_, metadata, _) = json::new_object(&destination)?;
        let mut sources = Vec::new();
        for source in body.get("sourceObjects").and_then(Value::as_array).into_iter().flatten() {
            let name = source.get("name").and_then(Value::as_str).ok_or_else(|| Failure::required("name"))?;
            let conditions = source.get("objectPreconditions").and_then(|c| c.get("ifGenerationMatch"));
            sources.push(ComposeSource {
                name: name.to_owned(),
                generation: source.get("generation").and_then(number),
                generation_match: conditions.and_then(number),
            });
        }
        let request = ComposeRequest {
            bucket: bucket.to_owned(),
            name: name.to_owned(),
            metadata,
            sources,
            kms_key: call.query.key("kmsKeyName")?,
            conditions: call.query.conditions()?,
        };
        let object = self.buckets.compose(request).await?;
        self.shown_object(call, bucket, &object).await
    }

    /// `copyTo` and `rewriteTo`. A rewrite is done at once, whatever its size.
    pub(super) async fn copy(
        &self,
        call: &Call,
        source: (String, String),
        to: (String, String),
        rewrite: bool,
        body: Body,
    ) -> Answer {
        if call.method != Method::POST {
            return Err(Failure::method());
        }
        let body = json_body(body).await?;
        let (_, metadata, _) = json::new_object(&body)?;
        let key = match call.query.key("destinationKmsKeyName")? {
            Some(key) => Some(key),
            // What a client read from another object is no wish.
            None if rewrite => None,
            None => json::key_of(&body)?,
        };
        let bucket = to.0.clone();
        let request = CopyRequest {
            source_bucket: source.0,
            source_name: source.1,
            source_generation: call.query.number("sourceGeneration")?,
            source_conditions: call.query.conditions_of("ifSource")?,
            bucket: to.0,
            name: to.1,
            metadata: names_metadata(&body).then_some(metadata),
            kms_key: key,
            conditions: call.query.conditions()?,
        };
        let object = self.buckets.copy(request).await?;
        if !rewrite {
            return self.shown_object(call, &bucket, &object).await;
        }
        let size = object.size.to_string();
        Ok(reply(&json!({
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": size,
            "objectSize": size,
            "done": true,
            "resource": self.object_value(call, &bucket, &object).await?,
        })))
    }

    pub(super) async fn object_value(
        &self,
        call: &Call,
        bucket: &str,
        object: &Object,
    ) -> Result<Value, Failure> {
        let found = self.buckets.bucket(bucket)?;
        let keys = self.buckets.key_versions(bucket).await?;
        Ok(json::object(object, &found, &keys, &call.origin))
    }

    pub(super) async fn shown_object(
        &self,
        call: &Call,
        bucket: &str,
        object: &Object,
    ) -> Result<Response<Body>, Failure> {
        Ok(reply(&self.object_value(call, bucket, object).await?))
    }
}

/// Whether a body sets anything on the copy: then it has only what is set, else all of the source.
fn names_metadata(body: &Map<String, Value>) -> bool {
    const SET: [&str; 9] = [
        "contentType",
        "contentEncoding",
        "contentDisposition",
        "contentLanguage",
        "cacheControl",
        "storageClass",
        "customTime",
        "metadata",
        "temporaryHold",
    ];
    SET.iter().any(|field| body.contains_key(*field))
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}
