"""The life of jobs by Beam's Job API, in LOOPBACK: states, messages, metrics, cancel, failures, files, restarts."""

import contextlib
import hashlib
import time

import grpc
import pytest

pytest.importorskip("apache_beam")

import apache_beam as beam  # noqa: E402
from apache_beam.metrics import Metrics, MetricsFilter  # noqa: E402
from apache_beam.portability import common_urns  # noqa: E402
from apache_beam.portability.api import (  # noqa: E402
    beam_artifact_api_pb2_grpc,
    beam_job_api_pb2,
    beam_runner_api_pb2,
)
from apache_beam.runners.portability import artifact_service  # noqa: E402
from apache_beam.testing.util import assert_that, equal_to  # noqa: E402
from harness.beam import STATE, job_service, messages, start, state_within  # noqa: E402
from harness.errors import refused  # noqa: E402


class Count(beam.DoFn):
    """Words, counted while they pass."""

    def __init__(self):
        self.words = Metrics.counter("ns", "words")
        self.lengths = Metrics.distribution("ns", "lengths")

    def process(self, line):
        for word in line.split():
            self.words.inc()
            self.lengths.update(len(word))
            yield word, 1


def words(pipeline):
    counted = (
        pipeline
        | beam.Create(["to be or not to be", "that is the question"])
        | "Count" >> beam.ParDo(Count())
        | beam.CombinePerKey(sum)
    )
    expected = [("to", 2), ("be", 2), ("or", 1), ("not", 1), ("that", 1), ("is", 1), ("the", 1), ("question", 1)]
    assert_that(counted, equal_to(expected))


def slowly(element):
    time.sleep(0.05)
    return element


def endless(pipeline):
    """Much longer than any test waits."""
    return pipeline | beam.Create(range(100_000)) | "Slowly" >> beam.Map(slowly)


@contextlib.contextmanager
def running(server, project, *more):
    """A job that runs until it is stopped."""
    result = start(server, project, endless, *more)
    jobs = job_service(server)
    state_within(jobs, result._job_id, [STATE.RUNNING])
    time.sleep(0.3)
    yield jobs, result
    with contextlib.suppress(Exception):
        result.cancel()


def test_a_job_comes_to_done_with_its_states_in_order_and_its_metrics(server, project):
    result = start(server, project, words)
    assert result.wait_until_finish() == "DONE"
    jobs = job_service(server)
    assert [told for told in messages(jobs, result._job_id) if told.isupper()] == [
        "STOPPED", "STARTING", "RUNNING", "DONE",
    ]
    found = result.metrics().query(MetricsFilter().with_namespace("ns"))
    [counter] = found["counters"]
    assert (counter.key.step, counter.key.metric.name) == ("Count", "words")
    assert (counter.committed, counter.attempted) == (10, 10)
    [lengths] = found["distributions"]
    assert (lengths.committed.sum, lengths.committed.min, lengths.committed.max) == (30, 2, 8)
    pipeline = jobs.GetPipeline(beam_job_api_pb2.GetJobPipelineRequest(job_id=result._job_id)).pipeline
    assert "Count" in {transform.unique_name for transform in pipeline.components.transforms.values()}


def test_what_a_dofn_raises_is_the_jobs_error_with_its_step(server, project):
    def boom(_):
        raise ValueError("that-is-why")

    def build(pipeline):
        return pipeline | beam.Create([1]) | "Boom" >> beam.Map(boom)

    result = start(server, project, build)
    with pytest.raises(RuntimeError, match="that-is-why") as error:
        result.wait_until_finish()
    assert "Boom" in str(error.value)
    assert messages(job_service(server), result._job_id)[-1] == "FAILED"
    assert server.alive()


def test_a_cancelled_job_stops_at_once(server, project):
    with running(server, project) as (jobs, result):
        started = time.monotonic()
        result.cancel()
        assert state_within(jobs, result._job_id, [STATE.CANCELLED]) == STATE.CANCELLED
        assert time.monotonic() - started < 5
        assert "The job was cancelled." in messages(jobs, result._job_id)


def test_drain_says_what_to_do_instead(server, project):
    with running(server, project) as (jobs, result):
        with refused("FAILED_PRECONDITION", "cannot be drained", "Cancel it instead"):
            jobs.Drain(beam_job_api_pb2.DrainJobRequest(job_id=result._job_id))


def test_a_job_that_is_not_there_is_not_found(server):
    jobs = job_service(server)
    for call, request in [
        (jobs.GetState, beam_job_api_pb2.GetJobStateRequest),
        (jobs.Cancel, beam_job_api_pb2.CancelJobRequest),
        (jobs.GetJobMetrics, beam_job_api_pb2.GetJobMetricsRequest),
        (jobs.GetPipeline, beam_job_api_pb2.GetJobPipelineRequest),
    ]:
        with refused("NOT_FOUND"):
            call(request(job_id="2026-01-01_00_00_00-1000000000000000000"))
    with refused("NOT_FOUND"):
        next(jobs.GetStateStream(beam_job_api_pb2.GetJobStateRequest(job_id="x")))


def prepared(jobs, dependency):
    """Prepares a job whose environment names a file: the response."""
    environment = beam_runner_api_pb2.Environment(
        urn=common_urns.environments.PROCESS.urn,
        payload=beam_runner_api_pb2.ProcessPayload(command="/no/such/boot").SerializeToString(),
        dependencies=[dependency],
    )
    pipeline = beam_runner_api_pb2.Pipeline(
        components=beam_runner_api_pb2.Components(environments={"e": environment})
    )
    return jobs.Prepare(beam_job_api_pb2.PrepareJobRequest(pipeline=pipeline, job_name="files"))


def file(path, sha256=""):
    return beam_runner_api_pb2.ArtifactInformation(
        type_urn=common_urns.artifact_types.FILE.urn,
        type_payload=beam_runner_api_pb2.ArtifactFilePayload(path=str(path), sha256=sha256).SerializeToString(),
        role_urn=common_urns.artifact_roles.STAGING_TO.urn,
        role_payload=beam_runner_api_pb2.ArtifactStagingToRolePayload(staged_name="model.bin").SerializeToString(),
    )


def offer(prepare):
    artifact_service.offer_artifacts(
        beam_artifact_api_pb2_grpc.ArtifactStagingServiceStub(
            grpc.insecure_channel(prepare.artifact_staging_endpoint.url)
        ),
        artifact_service.ArtifactRetrievalService(lambda path: open(path, "rb")),
        prepare.staging_session_token,
    )


def test_staged_files_are_checked_and_a_corrupt_one_fails_the_job_by_name(server, tmp_path):
    jobs = job_service(server)
    path = tmp_path / "model.bin"
    path.write_bytes(b"model" * 1_000_000)
    good = prepared(jobs, file(path, hashlib.sha256(path.read_bytes()).hexdigest()))
    offer(good)
    jobs.Cancel(beam_job_api_pb2.CancelJobRequest(job_id=good.preparation_id))
    bad = prepared(jobs, file(path, "0" * 64))
    with refused("INVALID_ARGUMENT", "'model.bin' is corrupt"):
        offer(bad)
    run = jobs.Run(beam_job_api_pb2.RunJobRequest(preparation_id=bad.preparation_id))
    told = messages(jobs, run.job_id)
    assert told[-1] == "FAILED" and "'model.bin' is corrupt" in told[-2]
    with refused("NOT_FOUND"):
        offer(good)


def test_a_job_that_ran_at_a_kill_has_failed_and_finished_ones_keep_everything(own_server, project):
    done = start(own_server, project, words)
    done.wait_until_finish()
    jobs = job_service(own_server)
    told = messages(jobs, done._job_id)
    with running(own_server, project) as (_, result):
        own_server.restart(kill=True)
        jobs = job_service(own_server)
        assert state_within(jobs, result._job_id, [STATE.FAILED]) == STATE.FAILED
        assert "The server restarted while the job ran." in messages(jobs, result._job_id)
    assert messages(jobs, done._job_id) == told
    metrics = jobs.GetJobMetrics(beam_job_api_pb2.GetJobMetricsRequest(job_id=done._job_id)).metrics
    assert {info.labels["NAME"] for info in metrics.committed} >= {"words", "lengths"}
    work = [path for path in own_server.data_dir.glob("dataflow/*/work/**/*") if path.is_file()]
    assert work == []


def test_a_stop_of_the_server_ends_running_jobs_and_does_not_take_long(own_server, project):
    with running(own_server, project) as (_, result):
        started = time.monotonic()
        own_server.stop()
        assert time.monotonic() - started < 8
        own_server.start()
        jobs = job_service(own_server)
        assert "The server was stopped while the job ran." in messages(jobs, result._job_id)


def test_options_that_the_server_reads_are_described(server):
    jobs = job_service(server)
    known = jobs.DescribePipelineOptions(beam_job_api_pb2.DescribePipelineOptionsRequest()).options
    assert "dataflow_kms_key" in {option.name for option in known}
