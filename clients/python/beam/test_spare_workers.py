"""A worker that was started before its job: quicker, and nothing that user code could tell from a new one."""

import json
import os
import pathlib
import signal
import sys
import time
import zipfile

import pytest

pytest.importorskip("apache_beam")

import apache_beam as beam  # noqa: E402
from apache_beam.internal.cloudpickle import cloudpickle  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from harness.beam import REGION  # noqa: E402
from harness.server import Server  # noqa: E402

# Workers are other processes, which cannot import the tests: what is defined here goes to them whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def serve(tmp_path):
    """Starts a server whose workers run in the tests' own Python."""
    servers = []

    def start(*flags):
        servers.append(Server(tmp_path / "server", "--beam-python", sys.executable, *flags).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


class Look(beam.DoFn):
    """Writes to a file what a worker can see of its process, and leaves a mark in it."""

    def __init__(self, package=None):
        self.package = package

    def process(self, path):
        import __main__
        import atexit
        import importlib
        import re
        import tempfile
        import threading

        if self.package:
            importlib.import_module(self.package)
        marked, json.was_here = getattr(json, "was_here", False), True
        # A worker that is through ends quickly, but not before this.
        atexit.register(pathlib.Path(path + ".left").touch)
        umask = os.umask(0o077)
        os.umask(umask)
        ticks = int(pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        pathlib.Path(path).write_text(json.dumps({
            "pid": os.getpid(),
            "started": ticks / os.sysconf("SC_CLK_TCK"),
            "id": os.environ["WORKER_ID"],
            "seen": {
                "marked": marked,
                "variables": dict(os.environ),
                "directory": os.getcwd(),
                "files": sorted(os.listdir(".")),
                "temporary": [tempfile.gettempdir(), os.listdir(tempfile.gettempdir())],
                "umask": umask,
                "path": sys.path,
                "argv": [sys.argv, sys.orig_argv],
                "main": __main__.__file__,
                "modules": sorted(sys.modules),
                "input": os.readlink("/proc/self/fd/0"),
                "handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
                "group": os.getpgrp() == os.getpid(),
                # Kinds, not a count: the SDK's own come and go, and its pools grow when they are first used.
                "threads": sorted({
                    re.sub("[0-9]+", "N", thread.name)
                    for thread in threading.enumerate()
                    if not thread.name.startswith("ThreadPoolExecutor")
                }),
            },
        }))


def look(server, project, folder, *more, package=None):
    """Runs a job in the image environment; gives what its worker saw, and when the job came."""
    came = time.clock_gettime(time.CLOCK_BOOTTIME)
    pipeline = beam.Pipeline(options=PipelineOptions([
        "--runner=PortableRunner", f"--job_endpoint={server.address}", f"--project={project}", f"--region={REGION}",
        "--environment_type=DOCKER", "--experiments=disable_logging_submission_environment", *more,
    ]))
    report = folder / f"{came}.json"
    pipeline | beam.Create([str(report)]) | beam.ParDo(Look(package))
    assert pipeline.run().wait_until_finish() == "DONE"
    assert pathlib.Path(f"{report}.left").exists()
    return came, json.loads(report.read_text())


def plain(report):
    """What was seen, without the worker's name."""
    return json.loads(json.dumps(report["seen"]).replace(report["id"], "WORKER"))


def spares(server):
    """The server's processes that wait for a job: their numbers."""
    found = []
    for process in pathlib.Path("/proc").iterdir():
        try:
            parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if parent == str(server.pid) and b"--spare" in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except (OSError, IndexError):
            continue
    return found


def within(seconds, look):
    """What `look` gives once it gives something."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_second_job_gets_a_process_that_waited_and_cannot_tell(serve, project, tmp_path):
    server = serve()
    came, first = look(server, project, tmp_path)
    assert first["started"] > came - 0.1
    [spare] = within(10, lambda: spares(server))
    came, second = look(server, project, tmp_path)
    assert second["pid"] == spare and second["started"] < came
    assert not second["seen"]["marked"]
    assert plain(second) == plain(first)
    [third] = within(10, lambda: spares(server))
    assert len({first["pid"], spare, third}) == 3


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_job_with_packages_of_its_own_gets_them_in_a_spare(serve, project, tmp_path):
    wheel = tmp_path / "greeting-1.0-py3-none-any.whl"
    info = "greeting-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("greeting.py", "")
        files.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        files.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        files.writestr(f"{info}/RECORD", f"greeting.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    more = [f"--extra_package={wheel}"]
    server = serve()
    _, first = look(server, project, tmp_path, *more, package="greeting")
    [spare] = within(10, lambda: spares(server))
    _, second = look(server, project, tmp_path, *more, package="greeting")
    assert second["pid"] == spare
    assert plain(second) == plain(first)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_spare_ends_with_the_server(serve, project, tmp_path, end):
    server = serve()
    look(server, project, tmp_path)
    [spare] = within(10, lambda: spares(server))
    process = pathlib.Path(f"/proc/{spare}")
    home = pathlib.Path(os.readlink(process / "cwd"))
    if end == "stopped":
        server.stop()
        assert not home.exists()
    else:
        server.kill()
    # Whoever adopts it may not have asked after it yet.
    within(5, lambda: not process.exists() or process.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] == "Z")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_without_spares_each_job_starts_its_own(serve, project, tmp_path):
    server = serve("--spare-workers", "0")
    look(server, project, tmp_path)
    came, second = look(server, project, tmp_path)
    assert second["started"] > came - 0.1
    assert spares(server) == []
