"""A pytest plugin for Beam's own suites: what is known of their cases, and the server and options for those that
ask for a runner on the command line.

Invariant: a case that is skipped or fails and is not in `known.toml` with its reason fails the run, and so does one
that is there and passes.
"""

import pathlib
import tempfile
import tomllib

import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from harness.server import Server

KNOWN = pathlib.Path(__file__).with_name("known.toml")
REGION = "us-east1"

# Beam's own markers, which its repository declares and its wheel does not.
MARKERS = (
    "it_validatesrunner", "no_sickbay_batch", "no_sickbay_streaming", "sickbay_batch", "sickbay_streaming", "no_xdist",
    "uses_gcp_java_expansion_service", "uses_java_expansion_service", "uses_python_expansion_service",
    "uses_transform_service", "xlang_sql_expansion_service", "xlang_transforms", "it_postcommit",
    "it_postcommit_sickbay", "examples_postcommit", "uses_testcontainer", "integration_test",
    "no_direct_runner_test", "uses_mock_api", "vertex_ai_postcommit", "spark_inference_tests", "uses_dill",
    "sickbay_direct",
)


def pytest_addoption(parser):
    parser.addoption("--known", action="append", required=True, help="a section of known.toml")
    parser.addoption("--serve", action="store_true", help="starts a server, and has test pipelines run there")
    parser.addoption("--test-pipeline-options", default=None, help="an option that Beam's TestPipeline looks up")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    sections = tomllib.loads(KNOWN.read_text())
    config.known = {"skips": {}, "fails": {}}
    for name in config.getoption("known"):
        for kind, cases in sections[name].items():
            config.known[kind].update(cases)
    config.known_folder = None
    if config.getoption("serve"):
        config.known_folder = tempfile.TemporaryDirectory(prefix="claviger-suite-")
        config.known_server = Server(config.known_folder.name).start()
        TestPipeline.pytest_test_pipeline_options = " ".join([
            "--runner=PortableRunner", f"--job_endpoint={config.known_server.address}",
            "--environment_type=LOOPBACK", "--project=validates", f"--region={REGION}",
        ])


def pytest_unconfigure(config):
    if getattr(config, "known_folder", None):
        config.known_server.stop()
        config.known_folder.cleanup()


def case(item):
    """The name of a case in `known.toml`: its class and function."""
    return ".".join(item.nodeid.split("::")[1:])


def pytest_collection_modifyitems(config, items):
    for item in items:
        reason = config.known["fails"].get(case(item))
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    expected = item.config.known["skips"]
    if report.skipped and not hasattr(report, "wasxfail"):
        if case(item) in expected:
            # What pytest shows as the reason: place, line, words.
            report.longrepr = (case(item), 0, f"Skipped: {case(item)}: {expected[case(item)]}")
        else:
            report.outcome = "failed"
            report.longrepr = f"skipped, and not one of the known ones: {call.excinfo.value if call.excinfo else ''}"
    elif report.when == "call" and report.passed and case(item) in expected:
        report.outcome = "failed"
        report.longrepr = "passed, and is in known.toml as one that is skipped: take it out there"
    return report
