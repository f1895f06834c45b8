"""Garbage to every method and to the port: a clear code, and a server that lives.

"An RPC that is not built yet answers UNIMPLEMENTED and never kills the server, whatever bytes it gets."
"""

import http.client
import importlib.resources
import json
import random
import socket
import urllib.error
import urllib.request

import grpc
import pytest
from harness.bigtable import Bigtable

PACKAGES = ("google.cloud.kms_v1", "google.cloud.bigtable_v2", "google.cloud.bigtable_admin_v2")
MIXINS = {
    "google.longrunning.Operations": ["GetOperation", "ListOperations", "CancelOperation", "DeleteOperation", "WaitOperation"],
    "google.iam.v1.IAMPolicy": ["GetIamPolicy", "SetIamPolicy", "TestIamPermissions"],
    "google.cloud.location.Locations": ["ListLocations", "GetLocation"],
}
SERVER_STREAMS = {"ReadRows", "MutateRows", "SampleRowKeys", "ExecuteQuery", "ReadChangeStream",
                  "GenerateInitialChangeStreamPartitions"}
BOTH_STREAMS = {"OpenTable", "OpenAuthorizedView", "OpenMaterializedView"}


def methods():
    """Every method that the official clients know."""
    found = [f"/{service}/{name}" for service, names in MIXINS.items() for name in names]
    for package in PACKAGES:
        data = json.loads(importlib.resources.files(package).joinpath("gapic_metadata.json").read_text())
        for service, spec in data["services"].items():
            found += [f"/{data['protoPackage']}.{service}/{name}" for name in spec["clients"]["grpc"]["rpcs"]]
    return sorted(found)


METHODS = methods()


def payloads(rng):
    """Bytes that are no message, or a strange one."""
    nested = b""
    for _ in range(200):
        nested = b"\x0a" + varint(len(nested)) + nested
    return [
        b"",
        b"\x00",
        b"\xff" * 20,
        b"\x0a\xff\xff\xff\xff\x0f",  # a field that claims 4 GiB
        b"\x0a\x04\xff\xfe\xfd\xfc",  # a string that is no UTF-8
        b"\x0a\x10projects/p/locat",
        b"\x0a\x00" * 100,
        nested,
        *[rng.randbytes(rng.choice([1, 10, 100, 1000])) for _ in range(6)],
        *[b"".join(field(rng) for _ in range(rng.randint(1, 8))) for _ in range(10)],
    ]


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(rng):
    """One field of a random number and kind, well formed."""
    number, kind = rng.randint(1, 20), rng.choice([0, 1, 2, 2, 2, 5])
    tag = varint(number << 3 | kind)
    if kind == 0:
        return tag + varint(rng.getrandbits(rng.choice([1, 7, 31, 63])))
    if kind == 1:
        return tag + rng.randbytes(8)
    if kind == 5:
        return tag + rng.randbytes(4)
    text = rng.choice([b"", b"projects/p1/instances/i", b"projects/p/locations/us-east1/keyRings/r/cryptoKeys/k", b"-"])
    inner = text if rng.random() < 0.6 else (field(rng) if rng.random() < 0.6 else rng.randbytes(5))
    return tag + varint(len(inner)) + inner


def call(channel, method, data):
    """Sends the bytes; the name of the code that came back."""
    name = method.rpartition("/")[2]
    bare = {"request_serializer": None, "response_deserializer": None}
    try:
        if name in BOTH_STREAMS:
            list(channel.stream_stream(method, **bare)(iter([data]), timeout=20))
        elif name in SERVER_STREAMS:
            list(channel.unary_stream(method, **bare)(data, timeout=20))
        else:
            channel.unary_unary(method, **bare)(data, timeout=20)
        return "OK", ""
    except grpc.RpcError as error:
        return error.code().name, error.details()


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A server of its own, so that a fault here is not taken for another test's."""
    from harness.server import Server

    own = Server(tmp_path_factory.mktemp("bad")).start()
    yield own
    own.stop()


@pytest.mark.parametrize("method", METHODS)
def test_no_bytes_to_a_method_kill_the_server(target, method):
    pid = target.pid
    with grpc.insecure_channel(target.address) as channel:
        for number, data in enumerate(payloads(random.Random(method))):
            code, details = call(channel, method, data)
            assert code not in ("UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"), (number, code, details)
            if data == b"":
                # An empty request names nothing.
                assert code in ("INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "OK"), (code, details)
            if code == "UNIMPLEMENTED":
                assert details, "UNIMPLEMENTED without a sentence"
    assert target.alive() and target.pid == pid


@pytest.mark.parametrize(
    "method",
    ["/google.bigtable.v2.Bigtable/NoSuchMethod", "/no.such.Service/Method", "/", "/google.cloud.kms.v1.EkmService/x"],
)
def test_an_unknown_method_is_unimplemented(target, method):
    with grpc.insecure_channel(target.address) as channel:
        assert call(channel, method, b"")[0] == "UNIMPLEMENTED"


def test_a_name_of_any_kind_never_kills_the_server(target):
    names = ["", "/", "a" * 5_000, "projects//instances//tables//", "projects/p/instances/i/tables/" + "t" * 5_000,
             "../../etc/passwd", "projects/p/instances/../tables/t", "\x00", "projects/\u202e/instances/i/tables/t", "%2e%2e"]
    bigtable = Bigtable(target.address, "p")
    for name in names:
        for use in (
            lambda: bigtable.keys(name),
            lambda: bigtable.put(name, b"r"),
            lambda: bigtable.tables.get_table(name=name),
            lambda: bigtable.tables.delete_table(name=name),
            lambda: bigtable.instances.delete_instance(name=name),
        ):
            try:
                use()
                raise AssertionError(f"{name!r} was taken")
            except Exception as error:
                code = getattr(error, "grpc_status_code", None)
                assert code is not None, repr(error)
                assert code.name in ("INVALID_ARGUMENT", "NOT_FOUND"), (name, error)
    assert target.alive()


def http_call(target, method, path, body=None, headers=None):
    request = urllib.request.Request(target.endpoint + path, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    "method, path, body, expected",
    [
        ("POST", "/v1/projects/p/locations/us-east1/keyRings?keyRingId=r", b"{not json", 400),
        ("POST", "/v1/projects/p/locations/us-east1/keyRings?keyRingId=r", b"[1, 2]", 400),
        ("POST", "/v1/projects/p/locations/us-east1/keyRings?keyRingId=r", b'{"noSuchField": 1}', 400),
        ("POST", "/v1/projects/p/locations/us-east1/keyRings?noSuchParameter=r", b"{}", 400),
        ("GET", "/v1/projects/p/locations/us-east1/keyRings?pageSize=many", None, 400),
        ("POST", "/v1/projects/p/locations/us-east1/keyRings/r/cryptoKeys/k:encrypt", b'{"plaintext": "!!"}', 400),
        ("POST", "/v1/projects/p/locations/us-east1/keyRings/r/cryptoKeys/k:nosuchverb", b"{}", 501),
        ("GET", "/v1/projects/p/locations/us-east1/keyRings/%ff%fe", None, 404),
        ("GET", "/v1/projects/p/locations/us-east1/keyRings/none", None, 404),
        ("POST", "/v2/projects/p/instances", b'{"instanceId": {}}', 400),
        ("PATCH", "/v1/projects/p", b"{}", 404),
        ("GET", "/../../../etc/passwd", None, 404),
        ("POST", "/v1/projects/p/locations/us-east1/keyRings?keyRingId=r", b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    ],
)
def test_bad_rest_requests_get_an_error_in_googles_shape(target, method, path, body, expected):
    status, text = http_call(target, method, path, body, {"content-type": "application/json"} if body else None)
    assert status == expected or (expected == 404 and status == 405), text
    error = json.loads(text)["error"]
    assert error["code"] == status
    assert error["status"] and error["message"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
        b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
    ],
    ids=["zeroes", "version", "long path", "headers", "length", "chunks", "http2", "tls"],
)
def test_garbage_to_the_port_does_not_kill_the_server(target, data):
    with socket.create_connection(("127.0.0.1", target.port), timeout=5) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            pass
    assert http_call(target, "GET", "/healthz")[0] == 200


def test_two_hundred_silent_connections_do_not_stop_the_others(target):
    silent = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(200)]
    try:
        assert http_call(target, "GET", "/healthz")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_message_of_a_quarter_gigabyte_or_more_is_refused(target):
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(target.address, options=options) as channel:
        code, details = call(channel, "/google.bigtable.v2.Bigtable/MutateRow", b"\x0a" + varint(257 << 20) + bytes(257 << 20))
        assert code in ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "INVALID_ARGUMENT"), details
    assert target.alive()


def test_a_client_that_goes_away_in_the_middle_costs_nothing(target):
    bigtable = Bigtable(target.address, "p")
    table = bigtable.create_table(bigtable.create_instance("instance-1"), "t")
    for part in range(8):
        bigtable.write_many(
            table,
            [(b"%d-%02d" % (part, n), [{"set_cell": {"family_name": "f", "value": bytes(65_536)}}]) for n in range(32)],
        )
    for _ in range(50):
        stream = bigtable.data.read_rows(request={"table_name": table}, retry=None)
        next(iter(stream))
        stream.cancel()
    assert len(bigtable.keys(table)) == 256
