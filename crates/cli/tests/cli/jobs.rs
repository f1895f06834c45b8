//! `claviger dataflow` against a server, with a pipeline that needs no worker: an impulse.

use claviger_beam_proto::pipeline::{
    Coder, Components, FunctionSpec, PCollection, PTransform, Pipeline, WindowingStrategy,
};
use prost::Message;

use crate::common::Server;

const KEY: &str = "projects/birds/locations/us-east1/keyRings/ring/cryptoKeys/k";

fn spec(urn: &str) -> Option<FunctionSpec> {
    Some(FunctionSpec { urn: urn.into(), ..FunctionSpec::default() })
}

fn impulse() -> Vec<u8> {
    let transform = PTransform {
        unique_name: "Start".into(),
        spec: spec("beam:transform:impulse:v1"),
        outputs: [("out".to_owned(), "c".to_owned())].into(),
        ..PTransform::default()
    };
    let collection = PCollection {
        unique_name: "c".into(),
        coder_id: "bytes".into(),
        windowing_strategy_id: "w".into(),
        is_bounded: 2,
        ..PCollection::default()
    };
    let coder = |urn: &str| Coder { spec: spec(urn), ..Coder::default() };
    let strategy = WindowingStrategy {
        window_fn: spec("beam:window_fn:global_windows:v1"),
        window_coder_id: "window".into(),
        merge_status: 1,
        ..WindowingStrategy::default()
    };
    let components = Components {
        transforms: [("t".to_owned(), transform)].into(),
        pcollections: [("c".to_owned(), collection)].into(),
        windowing_strategies: [("w".to_owned(), strategy)].into(),
        coders: [
            ("bytes".to_owned(), coder("beam:coder:bytes:v1")),
            ("window".to_owned(), coder("beam:coder:global_window:v1")),
        ]
        .into(),
        ..Components::default()
    };
    Pipeline { components: Some(components), root_transform_ids: vec!["t".into()], ..Pipeline::default() }
        .encode_to_vec()
}

fn with_pipeline() -> Server {
    let server = Server::start();
    std::fs::write(server.folder.path().join("p.pb"), impulse()).unwrap();
    server
}

#[test]
fn a_pipeline_is_run_to_its_end_listed_and_described() {
    let server = with_pipeline();
    let done = server.ok("dataflow jobs run start --pipeline-pb p.pb --region us-east1 --option input=x");
    assert!(done.err.contains("Job start [") && done.err.contains("ended as Done."), "{}", done.err);
    let left = server.ok("dataflow jobs run left --pipeline-pb p.pb --async").out;
    assert!(server.ok(&format!("dataflow jobs wait {left}")).err.contains("ended as Done."));
    let list = server.ok("dataflow jobs list --name start --format json").json();
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!((&list[0]["name"], &list[0]["location"]), (&"start".into(), &"us-east1".into()));
    let row = server.ok("dataflow jobs list --status terminated --region us-east1").row(id);
    assert_eq!(row[1..3], ["start", "Batch"]);
    assert_eq!(row[4..], ["Done", "us-east1"]);
    assert_eq!(server.ok("dataflow jobs list --status active").err, "Listed 0 items.\n");
    for name in [id, "start"] {
        let job = server.ok(&format!("dataflow jobs describe {name} --full --format json")).json();
        assert_eq!((&job["id"], &job["currentState"]), (&id.into(), &"JOB_STATE_DONE".into()));
        let options = job["environment"]["sdkPipelineOptions"].to_string();
        assert!(options.contains("input"), "{options}");
    }
    assert!(!server.ok("dataflow jobs describe start").out.contains("executionPipelineStage"));
    assert!(server.ok("dataflow jobs describe start --full").out.contains("executionPipelineStage"));
    server.ok("dataflow jobs wait start");
    server.ok("dataflow jobs messages start --importance debug");
    server.ok("dataflow jobs metrics start");
    server.refused("dataflow jobs cancel start", "no job that runs of the name start");
    server.refused(&format!("dataflow jobs cancel {id}"), "already in the state JOB_STATE_DONE");
    server.refused("dataflow jobs describe nosuch", "no job of the name nosuch");
    server.refused("dataflow jobs describe 2026-01-01_00_00_00-1", "NOT_FOUND");
}

#[test]
fn a_job_under_a_key_needs_the_grant_and_shows_its_key() {
    let server = with_pipeline();
    server.ok("kms keyrings create ring --location us-east1");
    server.ok("kms keys create k --keyring ring --location us-east1 --purpose encryption");
    let run =
        format!("dataflow jobs run start --pipeline-pb p.pb --kms-key {KEY} --temp-location gs://tmp/t");
    let told = server.run(&run);
    assert_eq!(told.code, Some(1));
    let hint = format!("claviger kms keys authorize {KEY} --service dataflow");
    assert!(told.err.contains("ended as Failed") && told.err.contains(&hint), "{}", told.err);
    server.ok(hint.strip_prefix("claviger ").unwrap());
    server.ok("storage buckets create gs://tmp --location us-east1");
    server.ok(&run);
    let job = server.ok("dataflow jobs describe start --format json").json();
    assert_eq!(job["environment"]["serviceKmsKeyName"], KEY);
    assert_eq!(job["location"], "us-east1");
    assert!(server.ok("dataflow jobs describe start").out.contains(KEY));
}

#[test]
fn what_is_no_pipeline_is_refused() {
    let server = with_pipeline();
    std::fs::write(server.folder.path().join("noise"), [0xff; 40]).unwrap();
    std::fs::write(server.folder.path().join("empty"), []).unwrap();
    server.refused("dataflow jobs run start --pipeline-pb noise", "no encoded pipeline");
    server.refused("dataflow jobs run start --pipeline-pb empty", "without transforms");
    server.refused("dataflow jobs run start --pipeline-pb missing", "cannot read missing");
}

#[test]
fn a_program_gets_the_options_and_its_job_is_followed() {
    let server = with_pipeline();
    let script = format!(
        "echo \"got $*\"\nfor word in \"$@\"; do case $word in --job_name=*) name=${{word#*=}};; esac; done\n\
         exec {} dataflow jobs run \"$name\" --pipeline-pb p.pb --quiet\n",
        env!("CARGO_BIN_EXE_claviger")
    );
    std::fs::write(server.folder.path().join("start.sh"), script).unwrap();
    let done = server.ok("dataflow jobs run start --py-file start.sh --python sh -- --input x");
    assert!(
        done.out.starts_with("got --job_name=start --project=birds --runner=PortableRunner"),
        "{}",
        done.out
    );
    assert!(done.out.trim_end().ends_with("--input x"), "{}", done.out);
    assert!(done.err.contains("ended as Done."), "{}", done.err);
}

#[test]
fn a_program_that_fails_or_submits_nothing_is_told() {
    let server = with_pipeline();
    std::fs::write(server.folder.path().join("bad.sh"), "echo why >&2\nexit 3\n").unwrap();
    std::fs::write(server.folder.path().join("idle.sh"), "true\n").unwrap();
    let told = server.run("dataflow jobs run start --py-file bad.sh --python sh");
    assert_eq!(told.code, Some(1));
    assert!(
        told.err.starts_with("why\nerror: the program ended with exit status: 3 before it submitted"),
        "{}",
        told.err
    );
    server.refused("dataflow jobs run start --py-file idle.sh --python sh", "without submitting a job");
    server.refused("dataflow jobs run start --py-file idle.sh --python /no/such", "cannot run /no/such");
    server.refused("dataflow jobs run start --py-file no.py", "there is no file no.py");
}
