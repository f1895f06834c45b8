//! REST for every gRPC method that has an HTTP rule: the request is transcoded, the gRPC service is called
//! in this process, and its reply goes back as canonical JSON.
//!
//! Invariant: nothing here knows a service. What a method does over REST is what it does over gRPC, with the
//! same metadata, so that authentication, limits and errors have one implementation.
//!
//! The rules are those of `google.api.http`. Clients add `alt=json`, or `$alt=json;enum-encoding=int` for
//! enums as numbers; other system parameters are taken and ignored.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use claviger_core::Error;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost_reflect::DescriptorPool;
use prost_reflect::prost::Message;
use tonic::Status;
use tower::{Service, ServiceExt};

use crate::status;

mod reply;
mod request;
mod routes;
mod template;

use self::request::Query;
use reply::{Messages, Writer};
use routes::{Found, Routes};

/// The most JSON that a request may carry, bytes.
pub const BODY_BYTES: usize = 64 * 1024 * 1024;
/// The most of a path that an error repeats, characters.
const PATH_CHARS: usize = 200;

/// Headers of the HTTP request that are not metadata of the call. `grpc-...` is not either.
const NOT_METADATA: [&str; 14] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// REST in front of a gRPC service `S`, such as `tonic::service::Routes`.
#[derive(Clone, Debug)]
pub struct Rest<S> {
    routes: Arc<Routes>,
    grpc: S,
}

/// Why a request gets no answer of a method.
struct Refusal {
    http: StatusCode,
    status: Box<Status>,
    allow: Vec<Method>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { http: status::http(status.code()).0, status: Box::new(status), allow: Vec::new() }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        status::status(error).into()
    }
}

impl<S, B> Rest<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>> + Clone,
    S::Error: Into<axum::BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    /// REST for all methods of a pool that have an HTTP rule.
    ///
    /// # Panics
    /// When a rule in the pool does not fit its method: a fault in our `.proto` files, which tests look for.
    #[must_use]
    pub fn new(pool: &'static DescriptorPool, grpc: S) -> Self {
        let routes = Routes::new(pool).unwrap_or_else(|why| panic!("an HTTP rule in proto/ is wrong: {why}"));
        Self { routes: Arc::new(routes), grpc }
    }

    /// Whether a request is for REST: its path begins with the version of an API of ours. [`Rest::call`] then
    /// answers it, if only with an error in the form that REST clients read.
    #[must_use]
    pub fn matches(&self, _method: &Method, path: &str) -> bool {
        self.routes.covers(path)
    }

    /// Answers a request, whatever it is.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        match self.answer(parts, body).await {
            Ok(response) => response,
            Err(refusal) => {
                let mut response = status::response_as(refusal.http, &refusal.status);
                let allow: Vec<&str> = refusal.allow.iter().map(Method::as_str).collect();
                if let (false, Ok(allow)) = (allow.is_empty(), HeaderValue::from_str(&allow.join(", "))) {
                    response.headers_mut().insert(ALLOW, allow);
                }
                response
            }
        }
    }

    async fn answer(&self, parts: Parts, body: Body) -> Result<Response<Body>, Refusal> {
        let (route, texts) = match self.routes.find(&parts.method, parts.uri.path()) {
            Found::Route(route, texts) => (route, texts),
            other => return Err(unserved(&other, &parts)),
        };
        let query = Query::parse(parts.uri.query().unwrap_or_default())?;
        let body = read(body).await?;
        let message = request::build(route, texts, &query, &body)?;
        drop(body);
        let framed = reply::frame(&message.encode_to_vec())?;
        drop(message);

        let mut call = Request::new(tonic::body::Body::new(Full::new(framed)));
        *call.method_mut() = Method::POST;
        *call.uri_mut() = http::Uri::try_from(route.grpc_path.as_str())
            .map_err(|why| Error::internal("A method has a name that is no path.").because(why))?;
        *call.version_mut() = http::Version::HTTP_2;
        *call.headers_mut() = metadata(&parts.headers);
        *call.extensions_mut() = parts.extensions;
        let answer = self.grpc.clone().oneshot(call).await.map_err(|why| {
            tracing::error!(method = route.grpc_path, "a service failed: {}", why.into());
            Status::internal("The service failed.")
        })?;
        let (head, answer) = answer.into_parts();
        let messages = Messages::new(head.headers, Body::new(answer));
        let writer = Writer::new(route.output.clone(), query.style);
        Ok(match route.streams {
            true => reply::streaming(messages, writer).await?,
            false => reply::unary(messages, &writer).await?,
        })
    }
}

/// The refusal of a request that no method answers.
fn unserved(found: &Found<'_>, parts: &Parts) -> Refusal {
    let path: String = parts.uri.path().chars().take(PATH_CHARS).collect();
    let method = &parts.method;
    match found {
        Found::OtherMethods(allow) => Refusal {
            http: StatusCode::METHOD_NOT_ALLOWED,
            status: Box::new(Status::unimplemented(format!("{method} is not built for {path}."))),
            allow: allow.clone(),
        },
        Found::UnknownVerb => {
            let verb = path.rsplit_once(':').map(|(_, verb)| verb).unwrap_or_default();
            Status::unimplemented(format!("The method :{verb} is not built.")).into()
        }
        Found::Nothing | Found::Route(..) => {
            Status::not_found(format!("There is no method for {method} {path}.")).into()
        }
    }
}

/// Reads a body within [`BODY_BYTES`].
async fn read(body: Body) -> Result<Bytes, Refusal> {
    match Limited::new(body, BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(why) if why.is::<LengthLimitError>() => Err(Refusal {
            http: StatusCode::PAYLOAD_TOO_LARGE,
            status: Box::new(Status::resource_exhausted(format!(
                "The body of the request is larger than {BODY_BYTES} bytes."
            ))),
            allow: Vec::new(),
        }),
        Err(_) => Err(Status::invalid_argument("The body of the request broke off.").into()),
    }
}

/// The metadata of a call, from the headers of its HTTP request.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        !NOT_METADATA.contains(&name) && !name.starts_with("grpc-") && !name.starts_with("proxy-")
    };
    let mut metadata: HeaderMap = headers
        .iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    metadata.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(TE, HeaderValue::from_static("trailers"));
    metadata
}

#[cfg(test)]
mod tests;
