"""Jobs under a customer's key: what is checked when one is made, what shows it, what a lock does. D1 D5 D6 D8."""

import json
import time

import pytest

pytest.importorskip("apache_beam")

import apache_beam as beam  # noqa: E402
from apache_beam.portability.api import beam_job_api_pb2  # noqa: E402
from google.cloud import dataflow_v1beta3 as dataflow  # noqa: E402
from harness.beam import (  # noqa: E402
    STATE,
    Dataflow,
    agent,
    buckets,
    environment,
    job_service,
    messages,
    start,
    state_within,
)
from harness.errors import refused  # noqa: E402

LOCK_WITHIN = 2.0
JOB = dataflow.JobState


@pytest.fixture
def key(keys, server, project):
    """A key that the project's jobs may use."""
    name = keys.key("k", grant=False)
    keys.grant(name, agent(server, project))
    return name


@pytest.fixture(params=["rest", "grpc"])
def api(request, server, project):
    return Dataflow(server, project, request.param)


@pytest.fixture
def bucket(server, project, unique):
    """A bucket in the region of the tests' jobs."""
    return buckets(server, project).create_bucket(unique("b"), location="us-east1").name


def slowly(element):
    time.sleep(0.05)
    return element


def endless(pipeline):
    grouped = pipeline | beam.Create([(n % 7, "planted-value") for n in range(1000)]) | beam.GroupByKey()
    return grouped | beam.FlatMap(lambda kv: range(10_000)) | "Slowly" >> beam.Map(slowly)


def short(pipeline):
    return pipeline | beam.Create([1, 2]) | beam.Map(lambda n: n)


def test_d1_d6_a_job_shows_the_key_that_it_was_started_with(server, project, key, api):
    result = start(server, project, short, f"--dataflow_kms_key={key}", "--job_name=shown")
    assert result.wait_until_finish() == "DONE"
    for view in (dataflow.JobView.JOB_VIEW_SUMMARY, dataflow.JobView.JOB_VIEW_ALL):
        shown = api.get(result._job_id, view)
        assert shown.environment.service_kms_key_name == key
        assert (shown.name, shown.current_state) == ("shown", JOB.JOB_STATE_DONE)
    assert [job.id for job in api.list()] == [result._job_id]


def entries(server, project, *arguments):
    """What `claviger logging read` gives."""
    return json.loads(server.run("logging", "read", *arguments, "--format", "json", project=project))


def test_d5_every_use_of_the_key_is_in_the_audit_log_under_the_jobs_id(server, project, key):
    ids = []
    for name in ("first", "second"):
        result = start(server, project, short, f"--dataflow_kms_key={key}", f"--job_name={name}")
        assert result.wait_until_finish() == "DONE"
        ids.append(result._job_id)
    uses = f'protoPayload.resourceName="{key}" AND log_id("cloudaudit.googleapis.com/data_access")'
    everything = entries(server, project, uses)
    for job_id in ids:
        found = entries(server, project, f'labels.job_id="{job_id}"')
        assert {entry["protoPayload"]["methodName"] for entry in found} == {"Encrypt", "Decrypt"}
        # None that names the job's resource lacks the label, and none has it that names another.
        assert found == [e for e in everything if job_id in e["protoPayload"]["metadata"]["resource"]]
        for entry in found:
            assert f"serviceAccount:{entry['protoPayload']['authenticationInfo']['principalEmail']}" == agent(server, project)
            assert entry["resource"]["type"] == "cloudkms_cryptokey"
            assert entry["resource"]["labels"]["crypto_key_id"] == "k"
            assert entry["protoPayload"]["metadata"]["job_id"] == job_id


def test_d8_a_disabled_key_stops_the_job_with_key_version_and_reason(server, project, key, keys, api):
    result = start(server, project, endless, f"--dataflow_kms_key={key}", "--secret_option=x")
    jobs = job_service(server)
    state_within(jobs, result._job_id, [STATE.RUNNING])
    time.sleep(0.5)
    keys.disable(key)
    assert state_within(jobs, result._job_id, [STATE.FAILED], LOCK_WITHIN) == STATE.FAILED
    told = messages(jobs, result._job_id)
    assert told[-1] == "FAILED"
    assert f"{key}/cryptoKeyVersions/1" in told[-2] and "is disabled" in told[-2]
    with pytest.raises(RuntimeError, match="is disabled"):
        result.wait_until_finish()
    shown = api.get(result._job_id, dataflow.JobView.JOB_VIEW_ALL)
    assert shown.current_state == JOB.JOB_STATE_FAILED
    assert "is disabled" in shown.job_metadata.user_display_properties["state_reason"]
    assert "is disabled" in shown.job_metadata.user_display_properties["not_readable_because"]
    assert not shown.environment.sdk_pipeline_options, "options need the key"
    assert ["is disabled" in message.message_text for message in api.messages(result._job_id)] == [True]
    with refused("FAILED_PRECONDITION", "is disabled"):
        jobs.GetPipeline(beam_job_api_pb2.GetJobPipelineRequest(job_id=result._job_id))
    keys.enable(key)
    until = time.monotonic() + 5
    while not api.get(result._job_id, dataflow.JobView.JOB_VIEW_ALL).environment.sdk_pipeline_options:
        assert time.monotonic() < until, "what it was submitted with comes back with the key"
        time.sleep(0.05)


def test_k3_a_key_without_a_grant_fails_the_job_and_names_agent_and_role(server, project, keys, bucket, api):
    key = keys.key("denied", grant=False)
    made = api.create(name="denied", environment=environment(bucket, f"gs://{bucket}/p.pb", key))
    job = api.ended(made.id)
    assert job.current_state == JOB.JOB_STATE_FAILED
    [message] = api.messages(made.id)
    assert message.message_importance == dataflow.JobMessageImportance.JOB_MESSAGE_ERROR
    for part in (
        f"Workflow failed. Causes: Cloud KMS key {key} cannot be validated",
        "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied",
        agent(server, project).removeprefix("serviceAccount:"),
    ):
        assert part in message.message_text


def test_wrong_keys_are_refused_before_a_job_is_made(keys, bucket, api):
    elsewhere = keys.key("k", location="europe-west4", ring="eu", grant=False)
    everywhere = keys.key("k", location="global", ring="g", grant=False)
    for key, part in [
        ("nonsense", "cannot be validated"),
        (elsewhere, "can't protect resources for this job"),
        (everywhere, "can't protect resources for this job"),
    ]:
        with refused("INVALID_ARGUMENT", part):
            api.create(name="wrong", environment=environment(bucket, f"gs://{bucket}/p.pb", key))
    assert api.list() == []


def test_a_key_needs_a_temp_location(key, bucket, api):
    told = environment(bucket, f"gs://{bucket}/p.pb", key)
    del told["temp_storage_prefix"]
    with refused("INVALID_ARGUMENT", "needs a temp location"):
        api.create(name="no-temp", environment=told)


def test_a_bucket_under_another_regions_key_fails_the_job(server, project, key, keys, unique, api):
    other = keys.key("k", location="europe-west4", ring="eu", grant=False)
    client = buckets(server, project)
    keys.grant(other, f"serviceAccount:{client.get_service_account_email()}")
    bucket = client.bucket(unique("b"))
    bucket.default_kms_key_name = other
    bucket.create(location="europe-west4")
    made = api.create(name="elsewhere", environment=environment(bucket.name, f"gs://{bucket.name}/p.pb", key))
    assert api.ended(made.id).current_state == JOB.JOB_STATE_FAILED
    [message] = [m for m in api.messages(made.id) if "Workflow failed" in m.message_text]
    assert bucket.name in message.message_text and "can't protect resources for a job in us-east1" in message.message_text


def test_e4_nothing_of_a_running_job_is_on_the_disk_in_clear(own_server, project):
    result = start(own_server, project, endless, "--secret_option=planted-option", "--job_name=public")
    jobs = job_service(own_server)
    state_within(jobs, result._job_id, [STATE.RUNNING])
    time.sleep(1)
    result.cancel()
    state_within(jobs, result._job_id, [STATE.CANCELLED])
    own_server.stop()
    for path in own_server.data_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for planted in (b"planted-value", b"planted-option", b"Slowly"):
                assert planted not in content, path
