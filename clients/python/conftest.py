"""Fixtures of the tests by official Python clients."""

import pytest
from harness.kms import Keys, grpc_client, rest_client

_clients = {}


@pytest.fixture(params=["grpc", "rest"])
def kms(request, server, project):
    """The test's keys, through the official client over each of its transports."""
    if request.param not in _clients:
        _clients[request.param] = (grpc_client if request.param == "grpc" else rest_client)(server)
    return Keys(server, project, _clients[request.param])


@pytest.fixture(scope="session", autouse=True)
def _clients_of_one_session():
    yield
    _clients.clear()
