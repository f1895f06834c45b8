"""A KMS elsewhere: one server keeps keys, others keep data, over TLS with certificates of both ends.

Each test has processes of its own.
"""

import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent import futures

import grpc
import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import kms_v1
from google.cloud.bigtable_admin_v2.types import Table
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from harness import tls
from harness.bigtable import Bigtable
from harness.errors import refused
from harness.kms import Keys
from harness.proxy import Proxy
from harness.server import NotReady, Server, binary, environment
from harness.storage import client as storage_client
from harness.storage import storage_agent
from harness.wait import WITHIN, eventually

LOCK_WITHIN = 1.0
PROJECT = "birds"
ADMIN = "user:ada@example.com"


class World:
    """A KMS over TLS, its administrator, and servers of data."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = tls.Authority(folder / "tls", "ours")
        self.kms = Server(folder / "kms", "--services", "kms", *self.kms_flags())
        self.kms.start()
        # The same place after a restart.
        self.kms.listen = self.kms.address
        self.admin = self.authority.client("ada", ADMIN)
        self.data = []

    def kms_flags(self):
        shown = self.authority.server("kms")
        return [
            "--tls-cert", shown.cert, "--tls-key", shown.key, "--client-ca", self.authority.ca,
            "--admin", ADMIN, "--data-server", "principal:data-1,principal:spiffe://ours/data-2",
        ]

    def data_flags(self, identity=None, authority=None, place=None):
        flags = ["--services", "bigtable,storage", "--kms", place or self.kms.endpoint]
        flags += ["--kms-ca", (authority or self.authority).ca]
        if identity is not None:
            flags += ["--kms-cert", identity.cert, "--kms-key", identity.key]
        return flags

    def data_server(self, *more, name="data-1", uri=None, place=None):
        identity = self.authority.client(name, uri)
        flags = self.data_flags(identity, place=place)
        server = Server(self.folder / f"server-{len(self.data)}", *flags, *more)
        self.data.append(server)
        return server.start()

    def keys(self, data):
        """Keys of the KMS, for services whose numbers the server of data tells."""
        channel = tls.channel(self.kms, self.authority, self.admin)
        transport = KeyManagementServiceGrpcTransport(channel=channel)
        return Keys(data, PROJECT, kms_v1.KeyManagementServiceClient(transport=transport))

    def stop(self):
        for server in [*self.data, self.kms]:
            server.stop()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.stop()


def table_under(bigtable, key, instance="instance-1"):
    """A table with one row under a key."""
    table = bigtable.create_table(bigtable.create_instance(instance, key=key), "t")
    bigtable.put(table, b"r")
    return table


def reads(bigtable, table):
    assert bigtable.keys(table) == [b"r"]


def locked(bigtable, table, *texts):
    with refused("FAILED_PRECONDITION", *texts):
        bigtable.keys(table)


def test_a_disabled_key_locks_a_server_elsewhere_within_a_second_and_enabling_brings_it_back(world):
    data = world.data_server()
    keys, bigtable = world.keys(data), Bigtable(data.address, PROJECT)
    key = keys.key("k")
    table = table_under(bigtable, key)
    reads(bigtable, table)
    keys.disable(key)
    eventually(lambda: locked(bigtable, table, f"{key}/cryptoKeyVersions/1", "is disabled"), LOCK_WITHIN)
    keys.enable(key)
    eventually(lambda: reads(bigtable, table))
    keys.revoke(key)
    eventually(lambda: locked(bigtable, table, "gcp-sa-bigtable", "Grant it"), LOCK_WITHIN)
    keys.grant(key)
    eventually(lambda: reads(bigtable, table))
    version = keys.rotate(key)

    def shown():
        shown = bigtable.tables.get_table(request={"name": table, "view": Table.View.ENCRYPTION_VIEW})
        [state] = shown.cluster_states.values()
        assert state.encryption_info[0].kms_key_version == version

    eventually(shown)
    assert not world.data[0].kms_dir.exists(), "a server of data keeps no keys"


def test_a_key_that_may_not_be_used_makes_nothing_and_the_error_is_the_one_of_the_kms(world):
    data = world.data_server()
    keys, bigtable = world.keys(data), Bigtable(data.address, PROJECT)
    key = keys.key("k", grant=False)
    with refused(("FAILED_PRECONDITION", "PERMISSION_DENIED", "INVALID_ARGUMENT"), "gcp-sa-bigtable"):
        bigtable.create_instance("instance-1", key=key)
    keys.grant(key)
    keys.disable(key)
    with refused("FAILED_PRECONDITION", "cryptoKeyVersions/1"):
        bigtable.create_instance("instance-1", key=key)


def test_buckets_and_what_has_no_customers_key_are_under_the_kms_too(world):
    data = world.data_server()
    keys, buckets = world.keys(data), storage_client(data, PROJECT)
    key = keys.key("k", grant=False)
    keys.grant(key, storage_agent(data, PROJECT))
    bucket = buckets.bucket("under-a-key")
    bucket.default_kms_key_name = key
    buckets.create_bucket(bucket, location="us-east1")
    bucket.blob("o").upload_from_string(b"words")
    plain = buckets.create_bucket("without-a-key", location="us-east1")
    plain.blob("o").upload_from_string(b"words")
    keys.disable(key)

    def is_locked():
        try:
            bucket.blob("o").download_as_bytes(retry=None)
        except GoogleAPICallError as error:
            assert "is disabled" in str(error)
        else:
            raise AssertionError("it is still read")

    eventually(is_locked, LOCK_WITHIN)
    assert plain.blob("o").download_as_bytes() == b"words"
    data.restart()
    plain = storage_client(data, PROJECT).bucket("without-a-key")
    assert plain.blob("o").download_as_bytes() == b"words"


def test_a_silent_kms_is_served_without_for_the_grace_and_comes_back_by_itself(world):
    data = world.data_server("--kms-grace", "4s", "--key-check-interval", "500ms")
    keys, bigtable = world.keys(data), Bigtable(data.address, PROJECT)
    table = table_under(bigtable, keys.key("k"))
    world.kms.kill()
    time.sleep(1.5)
    reads(bigtable, table)
    bigtable.put(table, b"r")
    eventually(lambda: locked(bigtable, table, "has not been reachable since"))
    with refused("UNAVAILABLE", "does not answer"):
        bigtable.create_instance("instance-2", key=f"{keys.location()}/keyRings/ring/cryptoKeys/other")
    world.kms.start()
    eventually(lambda: reads(bigtable, table))


def test_a_change_that_was_missed_while_the_stream_was_broken_is_caught_up_with(world):
    proxy = Proxy(world.kms.address)
    data = world.data_server(place=f"https://{proxy.address}")
    keys, bigtable = world.keys(data), Bigtable(data.address, PROJECT)
    key = keys.key("k")
    table = table_under(bigtable, key)
    port = proxy.address
    proxy.stop()
    proxy.cut_all()
    keys.disable(key)
    # The KMS cannot tell, and the next check is in minutes.
    reads(bigtable, table)
    again = Proxy(world.kms.address, port)
    eventually(lambda: locked(bigtable, table, "is disabled"))
    again.stop()


def test_a_lock_is_kept_over_restarts_of_both(world):
    data = world.data_server()
    keys, bigtable = world.keys(data), Bigtable(data.address, PROJECT)
    key = keys.key("k")
    table = table_under(bigtable, key)
    keys.disable(key)
    eventually(lambda: locked(bigtable, table, "is disabled"), LOCK_WITHIN)
    world.kms.restart()
    data.restart(kill=True)
    bigtable = Bigtable(data.address, PROJECT)
    locked(bigtable, table, "is disabled")
    world.keys(data).enable(key)
    eventually(lambda: reads(bigtable, table))


def test_two_servers_of_data_have_one_kms(world):
    first = world.data_server()
    second = world.data_server(name="other", uri="spiffe://ours/data-2")
    keys = world.keys(first)
    key = keys.key("k")
    clients = [Bigtable(server.address, PROJECT) for server in (first, second)]
    tables = [table_under(bigtable, key) for bigtable in clients]
    keys.disable(key)
    for bigtable, table in zip(clients, tables):
        eventually(lambda: locked(bigtable, table, "is disabled"), LOCK_WITHIN)
    keys.enable(key)
    for bigtable, table in zip(clients, tables):
        eventually(lambda: reads(bigtable, table))


def test_wrong_certificates_end_the_start_and_say_which_flag_is_to_be_looked_at(world, tmp_path):
    foreign = tls.Authority(tmp_path / "foreign", "foreign")
    ours = world.authority
    cases = [
        (world.data_flags(None), "--kms-cert"),
        (world.data_flags(foreign.client("data-1")), "--client-ca"),
        (world.data_flags(ours.client("data-1"), authority=foreign), "--kms-ca"),
        (world.data_flags(ours.client("data-9")), "--data-server principal:data-9"),
        (world.data_flags(tls.Identity("/no/such/file", ours.client("data-1").key)), "cannot read /no/such/file"),
    ]
    for number, (flags, text) in enumerate(cases):
        with pytest.raises(NotReady) as caught:
            Server(tmp_path / f"wrong-{number}", *flags).start()
        assert text in caught.value.log, caught.value.log


def test_the_kms_lets_nobody_in_without_a_certificate_and_gives_each_what_is_theirs(world):
    def client(identity):
        channel = tls.channel(world.kms, world.authority, identity)
        return kms_v1.KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))

    location = f"projects/{PROJECT}/locations/us-east1"
    with refused("UNAVAILABLE"):
        client(None).list_key_rings(parent=location, retry=None, timeout=10)
    client(world.admin).create_key_ring(parent=location, key_ring_id="r", key_ring={})
    for name, uri in [("data-1", None), ("eve", "user:eve@example.com")]:
        with refused("PERMISSION_DENIED", "cloudkms.keyRings.create"):
            client(world.authority.client(name, uri)).create_key_ring(parent=location, key_ring_id="s", key_ring={})
    # One that would be a service agent is no one.
    agent = "serviceAccount:service-1@gcp-sa-bigtable.iam.gserviceaccount.com"
    with refused("UNAVAILABLE"):
        client(world.authority.client("agent", agent)).list_key_rings(parent=location, retry=None, timeout=10)


def test_what_is_not_safe_or_not_built_is_refused_by_name(tmp_path):
    shown = tls.Authority(tmp_path / "tls", "ours").server()
    secure = ["--tls-cert", shown.cert, "--tls-key", shown.key]
    for number, (flags, text) in enumerate([
        (["--services", "bigtable"], "give --kms URL"),
        (["--kms", "http://kms.example.com"], "must be https://"),
        (["--kms", "https://localhost:1", "--services", "kms,bigtable"], "leave kms out of --services"),
        (["--kms", "http://localhost:1", "--kms-ca", "/x"], "are for https://"),
        (secure, "dataflow over TLS is not built"),
        ([*secure, "--services", "kms", "--admin", ADMIN], "needs --client-ca"),
        (["--tls-cert", shown.cert], "belong together"),
    ]):
        with pytest.raises(NotReady) as caught:
            Server(tmp_path / f"wrong-{number}", *flags).start()
        assert text in caught.value.log, caught.value.log
    with pytest.raises(NotReady) as caught:
        Server(tmp_path / "open", *secure, "--services", "kms", listen="0.0.0.0:0").start()
    assert "refusing to listen on 0.0.0.0:0" in caught.value.log and "--client-ca" in caught.value.log


def test_a_server_of_data_waits_for_a_kms_that_does_not_answer_yet(world):
    identity = world.authority.client("data-1")
    world.kms.kill()
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    server = Server(world.folder / "early", *world.data_flags(identity), listen=place)
    world.data.append(server)
    starting = threading.Thread(target=server.start, daemon=True)
    starting.start()

    def waits():
        assert "waiting for the KMS" in server.log()

    eventually(waits)
    with urllib.request.urlopen(f"http://{place}/healthz", timeout=10) as reply:
        assert reply.read() == b"ok\n"
    with pytest.raises(urllib.error.HTTPError, match="503") as caught:
        urllib.request.urlopen(f"http://{place}/readyz", timeout=10)
    assert f"waits for its KMS at {world.kms.endpoint}" in caught.value.read().decode()
    with refused("UNAVAILABLE", "waits for its KMS"):
        Bigtable(place, PROJECT).create_instance("instance-1")
    world.kms.start()
    starting.join(WITHIN)
    assert server.endpoint is not None, server.log()
    with urllib.request.urlopen(f"{server.endpoint}/readyz", timeout=10) as reply:
        assert reply.read() == b"ok\n"


def test_a_kms_listens_beyond_loopback_when_it_asks_for_certificates(world, tmp_path):
    kms = Server(tmp_path / "open", "--services", "kms", *world.kms_flags(), listen="0.0.0.0:0").start()
    assert kms.endpoint.startswith("https://0.0.0.0:")
    place = kms.endpoint.replace("0.0.0.0", "127.0.0.1")
    data = world.data_server(place=place)
    bigtable = Bigtable(data.address, PROJECT)
    table = bigtable.create_table(bigtable.create_instance("instance-1"), "t")
    bigtable.put(table, b"r")
    reads(bigtable, table)
    data.stop()
    kms.stop()


class PublicApi:
    """A KMS with the public API alone: a server that hands on the calls of Google's service and of no other."""

    def __init__(self, kms):
        self.channel = grpc.insecure_channel(kms.address)
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers((self,))
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def service(self, details):
        if not details.method.startswith("/google.cloud.kms.v1.KeyManagementService/"):
            return None

        def hand_on(request, context):
            try:
                return self.channel.unary_unary(details.method)(request, timeout=10)
            except grpc.RpcError as error:
                context.set_trailing_metadata(error.trailing_metadata())
                context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(hand_on)


def test_any_endpoint_of_the_public_api_will_do_and_states_are_found_by_checks(tmp_path):
    kms = Server(tmp_path / "kms", "--services", "kms").start()
    public = PublicApi(kms)
    data = Server(
        tmp_path / "data", "--services", "bigtable", "--kms", public.endpoint, "--key-check-interval", "300ms"
    ).start()
    keys, bigtable = Keys(kms, PROJECT), Bigtable(data.address, PROJECT)
    key = keys.key("k", grant=False)
    table = table_under(bigtable, key)
    keys.disable(key)
    eventually(lambda: locked(bigtable, table, f"{key}/cryptoKeyVersions/1", "is disabled"))
    keys.enable(key)
    eventually(lambda: reads(bigtable, table))
    # What has no customer's key does not need that KMS.
    other = bigtable.create_table(bigtable.create_instance("instance-2"), "t")
    bigtable.put(other, b"r")
    data.restart()
    bigtable = Bigtable(data.address, PROJECT)
    reads(bigtable, table)
    reads(bigtable, other)
    data.stop()
    public.server.stop(None)
    kms.stop()


def test_in_the_clear_on_one_machine_it_works_without_any_certificate(tmp_path):
    kms = Server(tmp_path / "kms", "--services", "kms").start()
    data = Server(tmp_path / "data", "--kms", kms.endpoint, "--services", "bigtable").start()
    keys, bigtable = Keys(kms, PROJECT), Bigtable(data.address, PROJECT)
    key = keys.key("k")
    table = table_under(bigtable, key)
    keys.disable(key)
    eventually(lambda: locked(bigtable, table, "is disabled"), LOCK_WITHIN)
    keys.enable(key)
    eventually(lambda: reads(bigtable, table))
    told = environment(CLAVIGER_ENDPOINT=data.endpoint, CLAVIGER_PROJECT=PROJECT)
    listed = [str(binary()), "kms", "keyrings", "list", "--location", "us-east1"]
    asked = subprocess.run(listed, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert asked.returncode != 0, "a server of data serves no keys"
    entries = kms.run("logging", "read", "protoPayload.methodName:Decrypt", "--format", "json", project=PROJECT)
    assert "user:admin@claviger.local" in entries and "data_server" in entries, entries
    data.stop()
    kms.stop()
