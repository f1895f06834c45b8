"""External keys by the official KMS and EKM clients, over gRPC and REST, and a Bigtable instance under one: K5, B10, B11.

The external key manager is `claviger ekm serve`, a process of its own behind TLS.
"""

import time

import pytest
from google.cloud import kms_v1
from google.protobuf import field_mask_pb2
from harness import ekm as external
from harness.bigtable import Bigtable
from harness.errors import refused
from harness.kms import PURPOSE, STATE, Keys

LEVEL = kms_v1.ProtectionLevel
REASON = kms_v1.AccessReason
EXTERNAL = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EXTERNAL_SYMMETRIC_ENCRYPTION
LOCK_WITHIN = 15.0


@pytest.fixture
def manager(tmp_path, server):
    """An external key manager with one key, `k1`."""
    made = external.Manager(tmp_path, server)
    made.run("keys", "create", "k1")
    yield made
    made.stop()


@pytest.fixture
def ekm(kms, server):
    """The official client of connections, over the same transport as `kms`."""
    is_grpc = "Grpc" in type(kms.client.transport).__name__
    return (external.grpc_client if is_grpc else external.rest_client)(server)


def connect(ekm, keys, manager, name="c"):
    connection = {"service_resolvers": [manager.resolver()]}
    parent = keys.location()
    return ekm.create_ekm_connection(parent=parent, ekm_connection_id=name, ekm_connection=connection)


def key_behind(keys, connection, path="v0/keys/k1", key="k", **fields):
    """A key whose material is at the manager of a connection; its name."""
    made = keys.client.create_crypto_key(
        request={
            "parent": keys.ring(),
            "crypto_key_id": key,
            "crypto_key": {
                "purpose": PURPOSE.ENCRYPT_DECRYPT,
                "version_template": {"protection_level": LEVEL.EXTERNAL_VPC, "algorithm": EXTERNAL},
                "crypto_key_backend": connection,
                **fields,
            },
            "skip_initial_version_creation": True,
        }
    )
    options = {"ekm_connection_key_path": path}
    version = keys.client.create_crypto_key_version(
        parent=made.name, crypto_key_version={"external_protection_level_options": options}
    )
    keys.client.update_crypto_key_primary_version(name=made.name, crypto_key_version_id="1")
    assert (version.state, version.protection_level) == (STATE.ENABLED, LEVEL.EXTERNAL_VPC)
    return made.name


def kinds(caught):
    return [kind for kind, _, _ in caught.violations]


def test_k5_connections_are_made_shown_changed_and_verified(kms, ekm, manager):
    made = connect(ekm, kms, manager)
    assert made.name == f"{kms.location()}/ekmConnections/c"
    [resolver] = made.service_resolvers
    [shown] = resolver.server_certificates
    assert (resolver.hostname, shown.raw_der, shown.parsed) == (manager.hostname, manager.der, True)
    assert shown.subject == "CN=localhost" and list(shown.subject_alternative_dns_names) == ["localhost"]
    assert len(shown.sha256_fingerprint) == 64 and shown.not_before_time < shown.not_after_time
    assert made.key_management_mode == kms_v1.EkmConnection.KeyManagementMode.MANUAL
    assert ekm.get_ekm_connection(name=made.name) == made
    assert [one.name for one in ekm.list_ekm_connections(parent=kms.location())] == [made.name]
    ekm.verify_connectivity(name=made.name)
    other = manager.folder / "other"
    other.mkdir()
    changed = kms_v1.EkmConnection(name=made.name, service_resolvers=[manager.resolver(external.certificate(other))])
    mask = field_mask_pb2.FieldMask(paths=["service_resolvers"])
    assert ekm.update_ekm_connection(ekm_connection=changed, update_mask=mask).etag != made.etag
    with refused("FAILED_PRECONDITION", "UnknownIssuer") as caught:
        ekm.verify_connectivity(name=made.name)
    assert kinds(caught) == ["EXTERNAL_KEY_MANAGER_UNREACHABLE"]
    with refused("ALREADY_EXISTS"):
        connect(ekm, kms, manager)
    with refused("NOT_FOUND"):
        ekm.get_ekm_connection(name=f"{kms.location()}/ekmConnections/none")
    config = f"{kms.location()}/ekmConfig"
    assert ekm.get_ekm_config(name=config).default_ekm_connection == ""
    mask = field_mask_pb2.FieldMask(paths=["default_ekm_connection"])
    ekm.update_ekm_config(ekm_config={"name": config, "default_ekm_connection": made.name}, update_mask=mask)
    assert ekm.get_ekm_config(name=config).default_ekm_connection == made.name


def test_k5_a_key_behind_a_connection_encrypts_until_its_manager_says_no(kms, ekm, manager):
    key = key_behind(kms, connect(ekm, kms, manager).name)
    shown = kms.client.get_crypto_key(name=key)
    assert shown.crypto_key_backend.endswith("/ekmConnections/c")
    assert shown.primary.external_protection_level_options.ekm_connection_key_path == "v0/keys/k1"
    reply = kms.client.encrypt(request={"name": key, "plaintext": b"secret", "additional_authenticated_data": b"aad"})
    assert reply.protection_level == LEVEL.EXTERNAL_VPC
    wanted = {"name": key, "ciphertext": reply.ciphertext, "additional_authenticated_data": b"aad"}
    opened = kms.client.decrypt(request=wanted)
    assert (opened.plaintext, opened.used_primary, opened.protection_level) == (b"secret", True, LEVEL.EXTERNAL_VPC)
    manager.run("keys", "disable", "k1")
    with refused("FAILED_PRECONDITION", key, "CUSTOMER_INITIATED_ACCESS", "the key k1 is not enabled") as caught:
        kms.client.decrypt(request=wanted)
    assert kinds(caught) == ["KEY_ENABLED", "EXTERNAL_FAILED_PRECONDITION"]
    manager.run("keys", "enable", "k1")
    assert kms.client.decrypt(request=wanted).plaintext == b"secret"
    for fault, code, kind in [
        ("refuse", "FAILED_PRECONDITION", "EXTERNAL_PERMISSION_DENIED"),
        ("error", "UNAVAILABLE", "EXTERNAL_KEY_MANAGER_UNAVAILABLE"),
        ("garbage", "UNAVAILABLE", "EXTERNAL_KEY_MANAGER_UNAVAILABLE"),
    ]:
        manager.run("fault", fault)
        with refused(code) as caught:
            kms.client.decrypt(request=wanted, retry=None, timeout=20)
        assert kinds(caught) == ["KEY_ENABLED", kind], fault
    manager.run("fault", "none")
    manager.stop()
    with refused("UNAVAILABLE") as caught:
        kms.client.decrypt(request=wanted, retry=None, timeout=20)
    assert kinds(caught) == ["KEY_ENABLED", "EXTERNAL_KEY_MANAGER_UNREACHABLE"]
    manager.start()
    assert kms.client.decrypt(request=wanted).plaintext == b"secret"


def test_k5_reasons_are_allowed_or_not_by_the_keys_policy(kms, ekm, manager):
    policy = {"allowed_access_reasons": [REASON.GOOGLE_INITIATED_SYSTEM_OPERATION]}
    key = key_behind(kms, connect(ekm, kms, manager).name, key_access_justifications_policy=policy)
    with refused("FAILED_PRECONDITION", key, "CUSTOMER_INITIATED_ACCESS") as caught:
        kms.client.encrypt(name=key, plaintext=b"x")
    assert kinds(caught) == ["KEY_ACCESS_JUSTIFICATION_DENIED"]
    changed = kms_v1.CryptoKey(
        name=key, key_access_justifications_policy={"allowed_access_reasons": [REASON.CUSTOMER_INITIATED_ACCESS]}
    )
    mask = field_mask_pb2.FieldMask(paths=["key_access_justifications_policy"])
    shown = kms.client.update_crypto_key(crypto_key=changed, update_mask=mask)
    assert list(shown.key_access_justifications_policy.allowed_access_reasons) == [REASON.CUSTOMER_INITIATED_ACCESS]
    kms.client.encrypt(name=key, plaintext=b"x")


def test_k5_what_is_not_built_or_does_not_fit_is_refused(kms, ekm, manager):
    connection = connect(ekm, kms, manager).name
    ring = kms.ring()
    template = {"protection_level": LEVEL.EXTERNAL_VPC, "algorithm": EXTERNAL}
    usual = {"purpose": PURPOSE.ENCRYPT_DECRYPT, "version_template": template, "crypto_key_backend": connection}
    for fields, skip, code in [
        ({"purpose": PURPOSE.ASYMMETRIC_SIGN}, True, "UNIMPLEMENTED"),
        ({}, False, "INVALID_ARGUMENT"),
        ({"crypto_key_backend": f"{kms.location()}/ekmConnections/none"}, True, "NOT_FOUND"),
        ({"version_template": {**template, "algorithm": 1}}, True, "INVALID_ARGUMENT"),
    ]:
        with refused(code):
            kms.client.create_crypto_key(
                request={
                    "parent": ring,
                    "crypto_key_id": "bad",
                    "crypto_key": {**usual, **fields},
                    "skip_initial_version_creation": skip,
                }
            )
    key = key_behind(kms, connection)
    with refused("INVALID_ARGUMENT", "ekm_connection_key_path"):
        kms.client.create_crypto_key_version(parent=key, crypto_key_version={})


@pytest.fixture
def protected(start_server, tmp_path):
    """A table under an external key on a server of its own: clients, table, manager, keys."""
    flags = ("--kms-grace", "4s", "--key-check-interval", "1s")
    server = start_server(*flags, usual_flags=False)
    manager = external.Manager(tmp_path, server)
    manager.run("keys", "create", "k1")
    keys = Keys(server, "p-ekm")
    key = key_behind(keys, connect(external.grpc_client(server), keys, manager).name)
    keys.grant(key)
    bigtable = Bigtable(server.address, "p-ekm")
    table = bigtable.create_table(bigtable.create_instance("behind-ekm", key=key), "t")
    bigtable.put(table, b"r")
    assert bigtable.keys(table) == [b"r"]
    yield bigtable, table, manager, keys, key
    manager.run("fault", "none")
    manager.stop()


def locked_within(bigtable, table, text, within=LOCK_WITHIN):
    """Waits for the lock; how long it took, and the error."""
    started = time.monotonic()
    while True:
        try:
            bigtable.keys(table, rows_limit=1)
        except Exception as error:
            assert text in str(error), error
            return time.monotonic() - started
        assert time.monotonic() - started < within, "not locked"
        time.sleep(0.05)


def readable_within(bigtable, table, within=LOCK_WITHIN):
    started = time.monotonic()
    while True:
        try:
            assert bigtable.keys(table) == [b"r"]
            return
        except Exception:
            if time.monotonic() - started > within:
                raise
            time.sleep(0.1)


def test_b10_a_refusal_at_the_manager_locks_at_the_next_check(protected):
    bigtable, table, manager, _, _ = protected
    manager.run("keys", "disable", "k1")
    assert locked_within(bigtable, table, "the key k1 is not enabled") < 4
    manager.run("keys", "enable", "k1")
    readable_within(bigtable, table)
    manager.run("fault", "refuse")
    assert locked_within(bigtable, table, "a refusal that was asked for") < 4
    manager.run("fault", "none")
    readable_within(bigtable, table)


@pytest.mark.parametrize("fault", ["error", "hang", "gone"])
def test_b10_a_silent_manager_locks_when_the_grace_is_over_and_not_before(protected, fault):
    bigtable, table, manager, _, _ = protected
    if fault == "gone":
        manager.stop()
    else:
        manager.run("fault", fault)
    took = locked_within(bigtable, table, "has not been reachable since")
    assert took > 2, "the grace was cut short"
    if fault == "gone":
        manager.start()
    else:
        manager.run("fault", "none")
    readable_within(bigtable, table, 30)


def test_k5_a_key_that_forbids_the_services_own_work_is_offline(protected):
    bigtable, table, _, keys, key = protected
    policy = {"allowed_access_reasons": [REASON.CUSTOMER_INITIATED_ACCESS]}
    changed = kms_v1.CryptoKey(name=key, key_access_justifications_policy=policy)
    mask = field_mask_pb2.FieldMask(paths=["key_access_justifications_policy"])
    keys.client.update_crypto_key(crypto_key=changed, update_mask=mask)
    locked_within(bigtable, table, "GOOGLE_INITIATED_SYSTEM_OPERATION")
    changed = kms_v1.CryptoKey(name=key)
    keys.client.update_crypto_key(crypto_key=changed, update_mask=mask)
    readable_within(bigtable, table)


def test_b11_external_and_other_keys_do_not_mix_in_one_instance(protected):
    bigtable, _, _, keys, _ = protected
    software = keys.key("software")
    cluster = {
        "location": "projects/p-ekm/locations/us-east1-c",
        "serve_nodes": 1,
        "encryption_config": {"kms_key_name": software},
    }
    with refused("FAILED_PRECONDITION", "external and non-external CMEK keys cannot be used in one instance"):
        bigtable.instances.create_cluster(
            parent="projects/p-ekm/instances/behind-ekm", cluster_id="behind-ekm-c2", cluster=cluster
        ).result(timeout=20)
