"""What goes wrong in a pipeline ends in a clear state and message, leaves a server that lives, and no files."""

import json
import os
import signal
import time
from concurrent import futures

import grpc
import pytest

pytest.importorskip("apache_beam")

import apache_beam as beam  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc  # noqa: E402
from apache_beam.testing.util import assert_that, equal_to  # noqa: E402
from harness.beam import REGION, STATE, job_service, messages, process_environment, start, state_within  # noqa: E402
from harness.server import Server  # noqa: E402

# A worker that does not connect is given up after this long, and a little more.
CONNECT_WITHIN = 150


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Options of jobs whose workers are processes of this Python."""
    config = process_environment(tmp_path_factory.mktemp("boot"))
    return ["--environment_type=PROCESS", f"--environment_config={config}"]


def command(path, script):
    """Options of jobs whose worker is a shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return ["--environment_type=PROCESS", "--environment_config=" + json.dumps({"command": str(path)})]


def run(server, project, build, *more):
    """Submits a pipeline with the options, which need not be those of LOOPBACK."""
    pipeline = beam.Pipeline(options=PipelineOptions([
        "--runner=PortableRunner", f"--job_endpoint={server.address}", f"--project={project}", f"--region={REGION}",
        *more,
    ]))
    build(pipeline)
    return pipeline.run()


def failed(server, result, *parts, within=60):
    """Waits for the job's failure; its last message has all the parts, and nothing is left of it."""
    jobs = job_service(server)
    assert state_within(jobs, result._job_id, [STATE.FAILED, STATE.DONE], within) == STATE.FAILED
    told = messages(jobs, result._job_id)
    assert told[-1] == "FAILED"
    for part in parts:
        assert part in told[-2], told
    assert server.alive()
    until = time.monotonic() + 5
    while left := [path for path in server.data_dir.glob("dataflow/*/work/**/*") if path.is_file()]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def tiny(pipeline):
    return pipeline | beam.Create([1, 2, 3]) | "Double" >> beam.Map(lambda n: 2 * n)


@pytest.fixture(scope="module", autouse=True)
def lazy(tmp_path_factory):
    """A job whose worker never connects, on a server of its own: server, job, when it began. It begins with the
    module, since it takes its time to fail."""
    folder = tmp_path_factory.mktemp("lazy")
    server = Server(folder / "server").start()
    yield server, run(server, "p-lazy", tiny, *command(folder / "worker", "exec sleep 600")), time.monotonic()
    server.stop()


def test_a_dofn_that_raises_after_a_shuffle_names_its_step(own_server, project):
    def boom(kv):
        raise ValueError("that-is-why")

    def build(pipeline):
        pairs = pipeline | beam.Create([(n % 5, n) for n in range(1000)])
        return pairs | beam.GroupByKey() | "Boom" >> beam.Map(boom)

    failed(own_server, start(own_server, project, build), "Boom", "that-is-why")


def test_a_worker_that_is_killed_each_time_fails_the_job_and_says_how(own_server, project, python):
    def build(pipeline):
        return pipeline | beam.Create([1]) | "Die" >> beam.Map(lambda _: os.kill(os.getpid(), signal.SIGKILL))

    failed(own_server, run(own_server, project, build, *python), "was lost", "signal: 9")


def test_a_worker_that_is_killed_once_costs_nothing_but_time(own_server, project, python, tmp_path):
    marker = tmp_path / "killed"

    def once(n):
        import os
        import signal

        if n == 500 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return n % 10, n

    def build(pipeline):
        grouped = pipeline | beam.Create(range(1000)) | beam.Reshuffle() | beam.Map(once) | beam.GroupByKey()
        sums = grouped | beam.MapTuple(lambda k, v: (k, sum(v)))
        assert_that(sums, equal_to([(k, sum(range(k, 1000, 10))) for k in range(10)]))

    assert run(own_server, project, build, *python).wait_until_finish() == "DONE"
    assert marker.exists()


def test_a_command_that_is_not_there_and_one_that_ends_at_once(own_server, project, tmp_path):
    missing = ["--environment_type=PROCESS", '--environment_config={"command": "/no/such/worker"}']
    failed(own_server, run(own_server, project, tiny, *missing), "/no/such/worker", "cannot be run")
    ends = command(tmp_path / "worker", "echo out of cheese >&2; exit 7")
    failed(own_server, run(own_server, project, tiny, *ends), "exit status: 7", "out of cheese")


def test_a_missing_package_fails_the_job_with_pips_words(own_server, project, python, tmp_path):
    # pip looks at no index because of the first line, on whichever machine.
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("--no-index\nno-such-package-of-a-test==1.0\n")
    more = [f"--requirements_file={requirements}", "--requirements_cache=skip"]
    result = run(own_server, project, tiny, *python, *more)
    failed(own_server, result, "a package of the job could not be installed", "no-such-package-of-a-test", within=110)


def test_a_pool_that_refuses_fails_the_job(own_server, project):
    class Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
        def StartWorker(self, request, context):
            return beam_fn_api_pb2.StartWorkerResponse(error="no room for a worker")

    pool = grpc.server(futures.ThreadPoolExecutor(2))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(Pool(), pool)
    port = pool.add_insecure_port("127.0.0.1:0")
    pool.start()
    options = ["--environment_type=EXTERNAL", f"--environment_config=127.0.0.1:{port}"]
    failed(own_server, run(own_server, project, tiny, *options), "no room for a worker")
    pool.stop(0)


def test_an_element_of_100_mb_passes(own_server, project):
    size = 100_000_000

    def big(n):
        return n, bytes([n]) * size

    def build(pipeline):
        made = pipeline | beam.Create([1, 2]) | beam.Reshuffle() | beam.Map(big)
        lengths = made | beam.GroupByKey() | beam.MapTuple(lambda k, v: (k, [(len(x), x[-1]) for x in v]))
        assert_that(lengths, equal_to([(1, [(size, 1)]), (2, [(size, 2)])]))

    result = start(own_server, project, build)
    assert result.wait_until_finish() == "DONE"
    assert own_server.alive()


def test_e4_nothing_that_spills_is_on_the_disk_in_clear_while_the_job_runs_and_after(start_server, project, tmp_path):
    """More goes through a group by key than the shuffle may have in memory."""
    server = start_server("--shuffle-memory", "16MiB")
    planted = (b"planted-key", b"planted-value", b"Planted step", b"planted-option")
    go, grouped = tmp_path / "go", tmp_path / "grouped"

    def pair(n):
        return f"planted-key-{n % 1000}", b"planted-value" * 8 + os.urandom(900)

    def wait(kv):
        grouped.touch()
        while not go.exists():
            time.sleep(0.05)
        return len(list(kv[1]))

    def build(pipeline):
        made = pipeline | beam.Create(range(60)) | beam.Reshuffle() | beam.FlatMap(lambda n: range(n * 1000, (n + 1) * 1000))
        counts = made | "Planted step" >> beam.Map(pair) | beam.GroupByKey() | beam.Map(wait)
        assert_that(counts, equal_to([60] * 1000))

    def scan():
        """How many bytes there are, none of them planted ones."""
        seen = 0
        for path in [*server.folder.rglob("*")]:
            try:
                content = path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:
                continue
            seen += len(content)
            for text in planted:
                assert text not in content, path
        return seen

    result = start(server, project, build, "--some_option=planted-option")
    until = time.monotonic() + 60
    while not grouped.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert scan() > 30_000_000, "the shuffle is on the disk"
    go.touch()
    assert result.wait_until_finish() == "DONE"
    server.stop()
    assert scan() < 10_000_000, "and gone with the job"


@pytest.mark.slow
@pytest.mark.timeout(CONNECT_WITHIN + 60)
def test_a_worker_that_never_connects_fails_the_job(lazy):
    server, result, started = lazy
    failed(server, result, "did not connect", within=CONNECT_WITHIN)
    assert time.monotonic() - started < CONNECT_WITHIN
