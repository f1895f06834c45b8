"""The audit log by the official Logging client, over gRPC and REST: K6, B5, and by `claviger logging read`."""

import datetime
import json

import grpc
import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import logging_v2
from google.cloud.audit import audit_log_pb2
from google.cloud.logging_v2._gapic import _LoggingAPI
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import LoggingServiceV2GrpcTransport
from google.cloud.logging_v2.types import ListLogEntriesRequest, LogEntry
from harness.bigtable import Bigtable
from harness.errors import refused
from harness.kms import Keys, bigtable_agent

DATA = "cloudaudit.googleapis.com%2Fdata_access"
ACTIVITY = "cloudaudit.googleapis.com%2Factivity"
EPOCH = 'timestamp>="1970-01-01T00:00:00Z"'


def raw_client(server):
    """The generated client."""
    transport = LoggingServiceV2GrpcTransport(channel=grpc.insecure_channel(server.address))
    return LoggingServiceV2Client(transport=transport)


@pytest.fixture(params=["grpc", "rest"])
def logs(request, server, project):
    """The client that people use, over each of its transports."""
    client = logging_v2.Client(
        project=project,
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
        _use_grpc=request.param == "grpc",
    )
    if request.param == "grpc":
        # Its own channel wants TLS.
        client._logging_api = _LoggingAPI(raw_client(server), client)
    return client


@pytest.fixture
def used(server, project):
    """A key that was made, used twice and misused once."""
    keys = Keys(server, project)
    name = keys.key("k", grant=False)
    bound = {"name": name, "additional_authenticated_data": b"planted-aad"}
    sealed = keys.client.encrypt(request={**bound, "plaintext": b"planted-plaintext"})
    keys.client.decrypt(request={**bound, "ciphertext": sealed.ciphertext})
    with refused("INVALID_ARGUMENT"):
        keys.client.decrypt(name=name, ciphertext=sealed.ciphertext)
    return name


def methods(entries):
    return [entry.payload["methodName"] for entry in entries]


def test_k6_every_use_and_change_of_a_key_is_told(logs, project, used):
    entries = list(logs.list_entries(order_by=logging_v2.ASCENDING))
    assert methods(entries) == ["CreateKeyRing", "CreateCryptoKey", "Encrypt", "Decrypt", "Decrypt"]
    encrypted, refusal = entries[2], entries[4]
    assert encrypted.log_name == f"projects/{project}/logs/{DATA}"
    assert entries[1].log_name == f"projects/{project}/logs/{ACTIVITY}"
    assert encrypted.resource.type == "cloudkms_cryptokey"
    assert dict(encrypted.resource.labels) == {
        "project_id": project, "location": "us-east1", "key_ring_id": "ring", "crypto_key_id": "k",
        "crypto_key_version_id": "1",
    }
    assert encrypted.payload["serviceName"] == "cloudkms.googleapis.com"
    assert encrypted.payload["resourceName"] == used
    assert encrypted.payload["authenticationInfo"]["principalEmail"] == "admin@claviger.local"
    assert (encrypted.severity, entries[1].severity, refusal.severity) == ("INFO", "NOTICE", "ERROR")
    assert refusal.payload["status"]["code"] == 3 and "Decryption failed" in refusal.payload["status"]["message"]
    assert "code" not in encrypted.payload["status"]
    age = datetime.datetime.now(datetime.timezone.utc) - encrypted.timestamp
    assert datetime.timedelta(seconds=-1) < age < datetime.timedelta(minutes=5)
    ids = [entry.insert_id for entry in entries]
    assert ids == sorted(ids) and len(set(ids)) == 5


def test_k6_nothing_that_a_key_protects_is_in_the_log(server, project, used):
    request = ListLogEntriesRequest(resource_names=[f"projects/{project}"])
    told = b"".join(LogEntry.serialize(entry) for entry in raw_client(server).list_log_entries(request))
    assert used.encode() in told
    assert b"planted" not in told


@pytest.mark.parametrize(
    "wanted, expected",
    [
        ("protoPayload.methodName=Encrypt", ["Encrypt"]),
        ("protoPayload.methodName:crypt AND severity<ERROR", ["CreateCryptoKey", "Encrypt", "Decrypt"]),
        ('protoPayload.methodName=~"^(En|De)crypt$" -protoPayload.status.code=0', ["Decrypt"]),
        ('log_id("cloudaudit.googleapis.com/activity")', ["CreateKeyRing", "CreateCryptoKey"]),
        ('resource.type=("cloudkms_keyring" OR "nothing")', ["CreateKeyRing"]),
        ("NOT resource.labels.crypto_key_version_id:*", ["CreateKeyRing"]),
        ('protoPayload.authenticationInfo.principalEmail="nobody"', []),
        ('"decryption failed" -- only the refusal\n', ["Decrypt"]),
        ('timestamp>="2100-01-01"', []),
    ],
)
def test_k6_a_filter_selects(logs, used, wanted, expected):
    assert methods(logs.list_entries(filter_=wanted, order_by=logging_v2.ASCENDING)) == expected


def test_k6_pages_in_both_orders_hold_every_entry_once(logs, server, project, used):
    keys = Keys(server, project)
    for _ in range(20):
        keys.client.encrypt(name=used, plaintext=b"x")
    oldest = [entry.insert_id for entry in logs.list_entries(order_by=logging_v2.ASCENDING, page_size=4)]
    newest = [entry.insert_id for entry in logs.list_entries(order_by=logging_v2.DESCENDING, page_size=7)]
    assert len(oldest) == 25
    assert newest == oldest[::-1]
    assert [e.insert_id for e in logs.list_entries(order_by=logging_v2.DESCENDING, max_results=3)] == newest[:3]


def test_k6_another_projects_keys_are_not_told(logs, used, unique):
    assert list(logs.list_entries(resource_names=[f"projects/{unique('other')}"], filter_=EPOCH)) == []


def test_b5_bigtables_checks_are_told_with_agent_and_table(logs, server, project, unique):
    key = Keys(server, project).key("k")
    bigtable = Bigtable(server.address, project)
    instance = bigtable.create_instance(unique("i"), key=key)
    table = bigtable.create_table(instance, "birds", ("f",))
    wanted = 'protoPayload.methodName=Decrypt AND log_id("cloudaudit.googleapis.com/data_access")'
    entries = [e for e in logs.list_entries(filter_=wanted) if e.payload["metadata"].get("resource", "").endswith("/birds")]
    assert entries, table
    for entry in entries:
        assert f"serviceAccount:{entry.payload['authenticationInfo']['principalEmail']}" == bigtable_agent(server, project)
        assert entry.payload["resourceName"] == key
        assert entry.labels is None or "job_id" not in entry.labels


def test_the_payload_is_the_official_message(server, project, used):
    request = ListLogEntriesRequest(resource_names=[f"projects/{project}"], order_by="timestamp desc", page_size=1)
    entry = LogEntry.pb(raw_client(server).list_log_entries(request).entries[0])
    payload = audit_log_pb2.AuditLog()
    assert entry.proto_payload.Unpack(payload)
    assert (payload.method_name, payload.status.code) == ("Decrypt", 3)
    assert payload.authentication_info.principal_subject == "user:admin@claviger.local"


def test_logs_have_names(server, project, used):
    client = raw_client(server)
    names = [f"projects/{project}/logs/{log}" for log in (ACTIVITY, DATA)]
    assert list(client.list_logs(parent=f"projects/{project}")) == names
    assert server.run("logging", "logs", "list", project=project).split() == ["NAME", *names]


@pytest.mark.parametrize(
    "fields, code, part",
    [
        ({"filter": "severity>="}, "INVALID_ARGUMENT", "line 1, column 11"),
        ({"filter": "thud=1"}, "INVALID_ARGUMENT", "no field 'thud'"),
        ({"filter": "sample(insertId, 0.1)"}, "UNIMPLEMENTED", "sample"),
        ({"filter": "(" * 20_001}, "INVALID_ARGUMENT", "20000"),
        ({"order_by": "severity"}, "INVALID_ARGUMENT", "order_by"),
        ({"page_size": -1}, "INVALID_ARGUMENT", "page_size"),
        ({"page_token": "nonsense"}, "INVALID_ARGUMENT", "page_token"),
        ({"resource_names": []}, "INVALID_ARGUMENT", "resource_names"),
        ({"resource_names": ["folders/1"]}, "UNIMPLEMENTED", "folders"),
        ({"resource_names": ["projects/claviger-managed"]}, "PERMISSION_DENIED", "claviger-managed"),
    ],
)
def test_wrong_requests_are_refused(server, project, fields, code, part):
    request = ListLogEntriesRequest({"resource_names": [f"projects/{project}"], **fields})
    with refused(code, part):
        raw_client(server).list_log_entries(request)


def test_writing_and_deleting_are_not_built(logs, server, project):
    with refused("UNIMPLEMENTED", "Writing entries"):
        logs.logger("mine").log_text("hello")
    with refused("UNIMPLEMENTED", "never cut"):
        logs.logger("mine").delete()


def test_the_command_line_reads_the_log(server, project, used):
    def read(*arguments):
        return json.loads(server.run("logging", "read", *arguments, "--format", "json", project=project))

    assert [entry["protoPayload"]["methodName"] for entry in read()] == [
        "Decrypt", "Decrypt", "Encrypt", "CreateCryptoKey", "CreateKeyRing",
    ]
    [entry] = read("protoPayload.methodName=Encrypt OR nothing -- that")
    assert entry["protoPayload"]["@type"] == "type.googleapis.com/google.cloud.audit.AuditLog"
    assert entry["protoPayload"]["resourceName"] == used
    assert [e["protoPayload"]["methodName"] for e in read("--order", "asc", "--limit", "2")] == [
        "CreateKeyRing", "CreateCryptoKey",
    ]
    assert read("--freshness", "0s") == []
    table = server.run("logging", "read", "severity=ERROR", project=project)
    assert table.split()[:6] == ["TIME", "SEVERITY", "METHOD", "RESOURCE", "PRINCIPAL", "FOR"]
    assert used in table and "admin@claviger.local" in table
