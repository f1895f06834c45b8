//! What every request passes.

use claviger_crypto::rs256::SigningKey;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use tonic::Code;

use super::*;

/// A request of the local administrator, as it comes to a service.
pub(crate) fn asked<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(Identity::Local);
    request
}

fn request(path: &str, authorization: &[&str]) -> Request<()> {
    let mut request = Request::builder().uri(path);
    for value in authorization {
        request = request.header(AUTHORIZATION, *value);
    }
    request.body(()).unwrap()
}

/// Callers of a file with one account that no role was given.
fn tokens() -> Callers {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callers.toml");
    std::fs::create_dir(folder.path().join("accounts")).unwrap();
    let key = SigningKey::generate().unwrap().public_pem().unwrap();
    std::fs::write(folder.path().join("accounts/app@p.iam.gserviceaccount.com.pem"), key).unwrap();
    std::fs::write(&file, "service_accounts = \"accounts\"").unwrap();
    let config = ServeConfig { callers: Some(file), ..ServeConfig::default() };
    let clock: Arc<dyn Clock> = Arc::new(claviger_core::SystemClock::new());
    Callers::open(&config, config.listen, &clock).unwrap()
}

fn refused(callers: &Callers, request: Request<()>, grpc: bool) -> Answer {
    match callers.admit(request, grpc) {
        Admitted::Refused(answer) => answer,
        _ => panic!("it was let in"),
    }
}

#[test]
fn without_a_file_everyone_is_the_local_administrator_whatever_the_headers_say() {
    for header in ["Bearer user:ada@example.com", "Basic x", ""] {
        let admitted = Callers::Local.admit(request("/v1/projects/p", &[header]), false);
        let Admitted::Go(_, Some(identity)) = admitted else { panic!("{header}") };
        assert_eq!(identity.caller(), Caller::local_admin());
        assert!(identity.has(Right::Seals) && identity.allow_method("/unheard.of/Method").is_ok());
    }
    assert!(matches!(
        Callers::Local.admit(request("/token", &[]), false),
        Admitted::Go(_, Some(Identity::Local))
    ));
}

#[test]
fn with_a_file_nothing_is_let_in_without_a_token_but_what_is_open() {
    let callers = tokens();
    for path in [
        "/healthz",
        "/readyz",
        "/ekm/v1/certs",
        "/org.apache.beam.model.fn_execution.v1.BeamFnControl/Control",
        "/org.apache.beam.model.job_management.v1.ArtifactRetrievalService/GetArtifact",
    ] {
        assert!(matches!(callers.admit(request(path, &[]), false), Admitted::Go(_, None)), "{path}");
    }
    assert!(matches!(callers.admit(request("/token", &[]), false), Admitted::Exchange(..)));
    for path in [
        "/",
        "/metrics",
        "/healthz/",
        "/healthz2",
        "//healthz",
        "/token/",
        "/v1/projects/p/locations",
        "/storage/v1/b",
        "/batch/storage/v1",
        "/bucket/object",
        "/audit/v1/checkpoint",
        "/seal/v1/status",
        "/seal/v1/unseal",
        "/org.apache.beam.model.job_management.v1.JobService/Prepare",
        "/org.apache.beam.model.job_management.v1.ArtifactStagingService/ReverseArtifactRetrievalService",
    ] {
        let answer = refused(&callers, request(path, &[]), false);
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer realm=\"claviger\"");
    }
    let post = Request::builder().method("POST").uri("/healthz").body(()).unwrap();
    refused(&callers, post, false);
    // A gRPC call cannot be one for a token.
    refused(&callers, request("/token", &[]), true);
}

#[tokio::test]
async fn a_refusal_has_the_shape_that_clients_read() {
    let callers = tokens();
    let answer = refused(&callers, request("/storage/v1/b", &["Bearer wrong"]), false);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer realm=\"claviger\", error=\"invalid_token\"");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (told["error"]["code"].as_u64(), &told["error"]["status"]),
        (Some(401), &"UNAUTHENTICATED".into())
    );
    assert_eq!(told["error"]["errors"][0]["reason"], "authError");
    let answer = refused(&callers, request("/google.bigtable.v2.Bigtable/ReadRows", &[]), true);
    assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &"16".parse().unwrap()));
    for headers in [
        &["Basic dXNlcjpwYXNz"][..],
        &["Bearer"],
        &["Bearer "],
        &["bearer x", "bearer y"],
        &["Bearer a.b.c"],
        &["x"],
    ] {
        assert_eq!(refused(&callers, request("/x", headers), false).status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn services_behind_the_guard_need_an_identity_and_its_rights() {
    use tower::{Service as _, service_fn};
    let inner = service_fn(async |_: Request<()>| {
        Ok::<_, std::convert::Infallible>(Response::new(axum::body::Body::from("answered")))
    });
    let code = async |path: &str, identity: Option<Identity>| {
        let mut request = request(path, &[]);
        if let Some(identity) = identity {
            request.extensions_mut().insert(identity);
        }
        let response = Guarded(inner).call(request).await.unwrap();
        tonic::Status::from_header_map(response.headers()).map(|status| status.code())
    };
    let rows = "/google.bigtable.v2.Bigtable/ReadRows";
    assert_eq!(code(rows, None).await, Some(Code::Unauthenticated));
    assert_eq!(code(rows, Some(Identity::Local)).await, None);
    let worker = "/org.apache.beam.model.fn_execution.v1.BeamFnData/Data";
    assert_eq!(code(worker, None).await, None);
    assert_eq!(code("/healthz", None).await, Some(Code::Unauthenticated));
}

/// A service that is forgotten in the table is for administrators alone; none is.
#[test]
fn every_method_of_every_service_has_a_right() {
    let mut seen = 0;
    for service in claviger_proto::pool().services() {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            assert_ne!(methods::right(&path), Some(Right::Seals), "{path} is in no row of the table");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
    for (path, right) in [
        ("/google.bigtable.v2.Bigtable/ReadRows", Some(Right::RowsRead)),
        ("/google.bigtable.v2.Bigtable/ReadModifyWriteRow", Some(Right::RowsWrite)),
        ("/google.bigtable.v2.Bigtable/Unheard", Some(Right::RowsWrite)),
        ("/google.bigtable.admin.v2.BigtableTableAdmin/GetTable", Some(Right::TablesRead)),
        ("/google.bigtable.admin.v2.BigtableTableAdmin/DropRowRange", Some(Right::TablesChange)),
        ("/google.longrunning.Operations/CancelOperation", Some(Right::TablesChange)),
        ("/google.dataflow.v1beta3.JobsV1Beta3/CreateJob", Some(Right::JobsRun)),
        ("/google.dataflow.v1beta3.MetricsV1Beta3/GetJobMetrics", Some(Right::JobsRead)),
        ("/org.apache.beam.model.job_management.v1.JobService/Run", Some(Right::JobsRun)),
        ("/org.apache.beam.model.job_management.v1.JobService/GetPipeline", Some(Right::JobsRead)),
        ("/org.apache.beam.model.fn_execution.v1.BeamFnState/State", None),
        ("/google.cloud.kms.v1.Other/Method", Some(Right::Seals)),
        ("google.cloud.kms.v1.KeyManagementService", Some(Right::Seals)),
        ("", Some(Right::Seals)),
    ] {
        assert_eq!(methods::right(path), right, "{path}");
    }
}

/// A request over a connection whose certificate says who is there.
fn shown(path: &str, authorization: &[&str], caller: Caller) -> Request<()> {
    let mut request = request(path, authorization);
    request.extensions_mut().insert(Peer(caller));
    request
}

fn let_in(callers: &Callers, request: Request<()>) -> Identity {
    match callers.admit(request, true) {
        Admitted::Go(_, Some(identity)) => identity,
        _ => panic!("it was not let in as somebody"),
    }
}

const READ: &str = "/google.bigtable.v2.Bigtable/ReadRows";
const JOIN: &str = "/claviger.kms.v1.DataServers/Join";

#[test]
fn without_a_file_a_certificate_is_for_all_data_and_the_seals_are_the_administrators() {
    let data = let_in(&Callers::Local, shown(READ, &[], Caller::new("principal:data-1")));
    assert_eq!(data.caller(), Caller::new("principal:data-1"));
    assert!(data.allow_method(READ).is_ok() && data.allow_method(JOIN).is_ok());
    assert!(!data.has(Right::Seals) && data.allow_method("/unheard.of/Method").is_err());
    let ada = let_in(&Callers::Local, shown(READ, &[], Caller::administrator("user:ada@example.com")));
    assert!(ada.has(Right::Seals) && ada.caller().is_administrator());
}

#[test]
fn with_a_file_a_certificate_gives_what_the_file_gives_its_owner_and_a_token_goes_before_it() {
    let callers = tokens();
    let data = let_in(&callers, shown(READ, &[], Caller::new("principal:data-1")));
    assert_eq!(data.caller(), Caller::new("principal:data-1"));
    assert!(data.allow_method(JOIN).is_ok(), "the service asks itself who is a data server");
    assert_eq!(data.allow_method(READ).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let ada = Caller::administrator("user:ada@example.com");
    assert!(let_in(&callers, shown(READ, &[], ada.clone())).has(Right::Seals));
    refused(&callers, shown(READ, &["Bearer wrong"], ada), true);
}
