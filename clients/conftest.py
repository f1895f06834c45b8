"""Fixtures of all client tests: a server for the session, servers of their own for tests that stop or lock one."""

import itertools
import re

import pytest
from harness.bigtable import Bigtable
from harness.kms import Keys
from harness.server import Server, binary

# Checks so often that nothing waits for one, and destroys within a test's time.
FLAGS = ("--key-check-interval", "2s", "--kms-min-destroy-duration", "1s")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for the whole session. Tests keep apart by their projects and tables."""
    if not binary().is_file():
        pytest.exit(f"there is no server at {binary()}: cargo build --release, or set CLAVIGER_BIN", returncode=1)
    server = Server(tmp_path_factory.mktemp("server"), *FLAGS).start()
    yield server
    server.stop()


@pytest.fixture
def start_server(tmp_path_factory):
    """Makes servers with directories of their own, which end with the test."""
    servers = []

    def start(*flags, run=True, usual_flags=True, **options):
        flags = (*FLAGS, *flags) if usual_flags else flags
        made = Server(tmp_path_factory.mktemp("own"), *flags, **options)
        servers.append(made)
        return made.start() if run else made

    yield start
    for made in servers:
        made.stop()


@pytest.fixture
def own_server(start_server):
    """A server for one test alone."""
    return start_server()


@pytest.fixture(scope="session", autouse=True)
def _server_lives(server):
    """Says at the end of the session whether the shared server is still the same process."""
    pid = server.pid
    yield
    assert server.alive() and server.pid == pid


@pytest.fixture
def unique(request):
    """Gives names that no other test uses: lower-case letters, digits and dashes."""
    stem = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.removeprefix("test_").lower())[:12].strip("-")

    def name(prefix="x"):
        return f"{prefix}-{stem}-{next(_numbers)}"

    return name


@pytest.fixture
def project(unique):
    """A project of the test's own."""
    return unique("p")


@pytest.fixture
def keys(server, project):
    """The test's keys on the shared server."""
    return Keys(server, project)


@pytest.fixture
def bigtable(server, project):
    """The gapic clients on the shared server, in the test's project."""
    return Bigtable(server.address, project)


@pytest.fixture(scope="module")
def shared_instance(server, request):
    """An instance without a customer's key for the tests of one module: clients and its name."""
    stem = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    clients = Bigtable(server.address, f"p-{stem}"[:30])
    return clients, clients.create_instance(f"shared-{next(_numbers)}")


@pytest.fixture
def table(shared_instance, unique):
    """A new table with the families f and g: clients and its name."""
    clients, instance = shared_instance
    return clients, clients.create_table(instance, unique("t"), ("f", "g"))
