"""Beam's own tests for runners behind its Job API, as they are in the wheel, against our server.

`BEAM_ENVIRONMENT` says where the user code of the tests runs: LOOPBACK (the default) or PROCESS.
"""

import os

import pytest
from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.runners.portability import portable_runner_test
from harness.beam import process_environment

ENVIRONMENT = os.environ.get("BEAM_ENVIRONMENT", "LOOPBACK")


@pytest.fixture(scope="class", autouse=True)
def _our_server(request, server, tmp_path_factory):
    request.cls.endpoint = server.address
    if ENVIRONMENT == "PROCESS":
        request.cls.environment_config = process_environment(tmp_path_factory.mktemp("boot"))


class ClavigerRunnerTest(portable_runner_test.PortableRunnerTest):
    """The cases, with our endpoint and environment."""

    environment_config = None

    @classmethod
    def _create_job_endpoint(cls):
        return cls.endpoint

    def create_options(self):
        options = super().create_options()
        portable = options.view_as(PortableOptions)
        portable.environment_type = ENVIRONMENT
        portable.environment_config = self.environment_config
        return options
