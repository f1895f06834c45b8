"""The Dataflow API from outside: requests, lists, messages, metrics, and Beam's DataflowRunner, unmodified."""

import hashlib
import sys
import time

import pytest

pytest.importorskip("apache_beam")

import apache_beam as beam  # noqa: E402
from apache_beam.internal.gcp import auth  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.portability import common_urns  # noqa: E402
from apache_beam.portability.api import beam_runner_api_pb2  # noqa: E402
from google.cloud import dataflow_v1beta3 as dataflow  # noqa: E402
from harness.beam import REGION, Dataflow, agent, buckets, environment  # noqa: E402
from harness.errors import refused  # noqa: E402
from harness.kms import Keys  # noqa: E402

JOB = dataflow.JobState


@pytest.fixture(scope="module")
def beam_server(tmp_path_factory):
    """A server whose workers run in the tests' own Python."""
    from harness.server import Server

    server = Server(
        tmp_path_factory.mktemp("beam"), "--key-check-interval", "2s", "--kms-min-destroy-duration", "1s",
        "--beam-python", sys.executable,
    ).start()
    yield server
    server.stop()


@pytest.fixture(params=["rest", "grpc"])
def api(request, beam_server, project):
    return Dataflow(beam_server, project, request.param)


@pytest.fixture
def bucket(beam_server, project, unique):
    return buckets(beam_server, project).create_bucket(unique("b"), location=REGION)


def graph(build, container="apache/beam_python%d.%d_sdk:%s"):
    """The pipeline that `build` makes, as a file."""
    pipeline = beam.Pipeline(options=PipelineOptions(["--sdk_location=container"]))
    build(pipeline)
    image = container % (*sys.version_info[:2], beam.__version__)
    docker = beam.transforms.environments.DockerEnvironment.from_container_image(image)
    return pipeline.to_runner_api(default_environment=docker).SerializeToString()


def sleepy(pipeline):
    def slowly(n):
        time.sleep(0.05)
        return n

    return pipeline | beam.Create(range(100_000)) | "Slowly" >> beam.Map(slowly)


def tiny(pipeline):
    return pipeline | beam.Create([1, 2, 3]) | "Double" >> beam.Map(lambda n: 2 * n)


def staged(bucket, content):
    """Puts a graph into the bucket; its URL and hash."""
    bucket.blob("s/pipeline.pb").upload_from_string(content)
    return f"gs://{bucket.name}/s/pipeline.pb", hashlib.sha256(content).hexdigest()


def test_a_job_by_the_raw_api_runs_to_done_and_shows_its_parts(api, bucket):
    url, found = staged(bucket, graph(tiny))
    told = environment(bucket.name, url, pipelineProtoHash=found, secret="x")
    made = api.create(name="tiny", environment=told, client_request_id="1", labels={"a": "b"})
    again = api.create(name="tiny", environment=told, client_request_id="1")
    assert again.id == made.id and made.client_request_id == "1"
    assert api.ended(made.id).current_state == JOB.JOB_STATE_DONE
    shown = api.get(made.id, dataflow.JobView.JOB_VIEW_ALL)
    assert dict(shown.labels) == {"a": "b"}
    assert shown.environment.sdk_pipeline_options["options"]["secret"] == "x"
    assert "Double" in {step.name for step in shown.pipeline_description.original_pipeline_transform}
    assert {stage.execution_stage_state for stage in shown.stage_states} == {JOB.JOB_STATE_DONE}
    described = api.get(made.id, dataflow.JobView.JOB_VIEW_DESCRIPTION)
    assert not described.environment.sdk_pipeline_options
    counts = [m for m in api.metrics(made.id) if m.name.name == "ElementCount"]
    assert counts and 3.0 in {m.scalar for m in counts}


def test_a_corrupt_graph_and_a_missing_one_fail_the_job(api, bucket):
    url, _ = staged(bucket, graph(tiny))
    for name, told, part in [
        ("corrupt", environment(bucket.name, url, pipelineProtoHash="0" * 64), "is corrupt"),
        ("missing", environment(bucket.name, f"gs://{bucket.name}/nothing"), "cannot be read"),
        ("no-bucket", environment("no-such-bucket", url), "gs://no-such-bucket does not exist"),
    ]:
        made = api.create(name=name, environment=told)
        assert api.ended(made.id).current_state == JOB.JOB_STATE_FAILED
        texts = [message.message_text for message in api.messages(made.id)]
        assert any(text.startswith("Workflow failed. Causes: ") and part in text for text in texts), texts


def test_an_unknown_image_and_an_unknown_transform_are_named(api, bucket):
    url, _ = staged(bucket, graph(tiny, container="example.com/mine_%d.%d:%s"))
    made = api.create(name="image", environment=environment(bucket.name, url))
    assert api.ended(made.id).current_state == JOB.JOB_STATE_FAILED
    assert any("example.com/mine_" in message.message_text for message in api.messages(made.id))
    unknown = beam_runner_api_pb2.Pipeline.FromString(graph(tiny))
    for transform in unknown.components.transforms.values():
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            transform.spec.urn = "beam:transform:never_heard_of:v1"
            transform.environment_id = ""
    url, _ = staged(bucket, unknown.SerializeToString())
    made = api.create(name="transform", environment=environment(bucket.name, url))
    assert api.ended(made.id).current_state == JOB.JOB_STATE_FAILED
    assert any("never_heard_of" in message.message_text for message in api.messages(made.id))


def test_cancel_drain_and_the_names_of_running_jobs(api, bucket):
    url, _ = staged(bucket, graph(sleepy))
    made = api.create(name="long", environment=environment(bucket.name, url))
    with refused("ALREADY_EXISTS", "There is already an active job named long"):
        api.create(name="long", environment=environment(bucket.name, url))
    with refused("FAILED_PRECONDITION", "Operation drain not allowed"):
        api.ask(made.id, JOB.JOB_STATE_DRAINED)
    assert [job.id for job in api.list(filter=dataflow.ListJobsRequest.Filter.ACTIVE)] == [made.id]
    api.ask(made.id, JOB.JOB_STATE_CANCELLED)
    assert api.ended(made.id).current_state == JOB.JOB_STATE_CANCELLED
    with refused("FAILED_PRECONDITION", "already in the state JOB_STATE_CANCELLED"):
        api.ask(made.id, JOB.JOB_STATE_CANCELLED)
    assert api.list(filter=dataflow.ListJobsRequest.Filter.ACTIVE) == []
    assert [job.id for job in api.list(filter=dataflow.ListJobsRequest.Filter.TERMINATED)] == [made.id]


def test_lists_and_messages_come_in_pages(api, bucket):
    missing = f"gs://{bucket.name}/nothing"
    made = [api.create(name=f"job-{n}", environment=environment(bucket.name, missing)).id for n in range(5)]
    for job in made:
        api.ended(job)
    request = dataflow.ListJobsRequest(project_id=api.project, location=REGION, page_size=2)
    pages = [[job.id for job in page.jobs] for page in api.jobs.list_jobs(request).pages]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(sum(pages, [])) == sorted(made)
    assert {job.id for job in api.jobs.aggregated_list_jobs(dataflow.ListJobsRequest(project_id=api.project))} == set(made)
    importance = dataflow.JobMessageImportance
    [error] = api.messages(made[0], minimum_importance=importance.JOB_MESSAGE_ERROR)
    assert error.message_importance == importance.JOB_MESSAGE_ERROR
    assert api.messages(made[0], start_time=error.time)
    assert error.id not in {message.id for message in api.messages(made[0], end_time=error.time)}


def test_what_is_not_built_is_refused_with_a_sentence(api, bucket):
    told = environment(bucket.name, f"gs://{bucket.name}/p.pb")
    for job in [
        {"name": "s", "type_": dataflow.JobType.JOB_TYPE_STREAMING, "environment": told},
        {"name": "u", "replace_job_id": "x", "environment": told},
    ]:
        with refused("UNIMPLEMENTED", "not built yet"):
            api.create(**job)
    with refused("INVALID_ARGUMENT", "pipelineUrl"):
        api.create(name="old")
    with refused("INVALID_ARGUMENT", "invalid job name"):
        api.create(name="Not A Name", environment=told)
    with refused("NOT_FOUND", "could not be found"):
        api.get("2026-01-01_00_00_00-1000000000000000000")


@pytest.mark.slow
def test_d1_d6_dataflow_runner_unmodified_runs_word_count_under_a_key(beam_server, project, bucket, monkeypatch):
    keys = Keys(beam_server, project)
    key = keys.key("k", grant=False)
    keys.grant(key, agent(beam_server, project))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", beam_server.endpoint)
    # Else Beam looks for Google's credentials for half a minute before it does without.
    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
    # The endpoint has to be named so for the runner to use REST.
    endpoint = f"http://localhost:{beam_server.port}"
    bucket.blob("in/1.txt").upload_from_string("to be or not to be\n")
    bucket.blob("in/2.txt").upload_from_string("that is the question\n")
    options = PipelineOptions([
        "--runner=DataflowRunner", f"--dataflow_endpoint={endpoint}", "--no_auth", f"--project={project}",
        f"--region={REGION}", f"--temp_location=gs://{bucket.name}/tmp", "--job_name=word-count",
        "--sdk_location=container", f"--dataflow_kms_key={key}",
    ])

    class Split(beam.DoFn):
        def __init__(self):
            self.words = beam.metrics.Metrics.counter("ns", "words")

        def process(self, line):
            for word in line.split():
                self.words.inc()
                yield word, 1

    pipeline = beam.Pipeline(options=options)
    lines = pipeline | beam.io.ReadFromText(f"gs://{bucket.name}/in/*.txt")
    counts = lines | "Split" >> beam.ParDo(Split()) | beam.CombinePerKey(sum)
    counts | beam.MapTuple("{} {}".format) | beam.io.WriteToText(f"gs://{bucket.name}/out/counts")
    result = pipeline.run()
    assert result.wait_until_finish() == "DONE"
    written = "".join(blob.download_as_text() for blob in bucket.list_blobs(prefix="out/counts"))
    assert sorted(written.split("\n")[:-1]) == [
        "be 2", "is 1", "not 1", "or 1", "question 1", "that 1", "the 1", "to 2",
    ]
    shown = Dataflow(beam_server, project).get(result.job_id())
    assert shown.environment.service_kms_key_name == key
    [counter] = result.metrics().query(beam.metrics.MetricsFilter().with_name("words"))["counters"]
    assert (counter.committed, counter.attempted, counter.key.step) == (10, 10, "Split")
