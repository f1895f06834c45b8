"""Customer-managed keys seen from outside: creation, immutability, the lock and its end, rotation, revocation.

E1, E2, B2, B3, B4, B7, B8, B16, K3, K4.
"""

import threading
import time

import pytest
from google.cloud.bigtable_admin_v2.types import EncryptionInfo, Table
from harness.bigtable import ZONE, delete_row, set_cell
from harness.chunks import decode
from harness.errors import refused
from harness.kms import STATE
from harness.wait import eventually

LOCK_WITHIN = 1.0
UNLOCK_WITHIN = 5.0
CMEK = EncryptionInfo.EncryptionType.CUSTOMER_MANAGED_ENCRYPTION
DEFAULT = EncryptionInfo.EncryptionType.GOOGLE_DEFAULT_ENCRYPTION


@pytest.fixture
def protected(keys, bigtable, unique):
    """A table with one row under a key of its own: clients, table, key."""
    key = keys.key("k")
    instance = bigtable.create_instance(unique("i"), key=key)
    table = bigtable.create_table(instance, "t")
    bigtable.put(table, b"r")
    return bigtable, table, key


def locked(code="FAILED_PRECONDITION", *texts):
    return refused(code, *texts)


def disable(keys, key, bigtable, *tables):
    """Disables a key and waits, a second at most, until the tables are locked."""
    keys.disable(key)

    def all_locked():
        for table in tables:
            with locked():
                bigtable.keys(table, rows_limit=1)

    eventually(all_locked, LOCK_WITHIN)


def encryption(bigtable, table):
    """The one EncryptionInfo of a table."""
    shown = bigtable.tables.get_table(request={"name": table, "view": Table.View.ENCRYPTION_VIEW})
    [state] = shown.cluster_states.values()
    [info] = state.encryption_info
    return info


def test_e1_without_a_key_the_data_is_under_one_that_claviger_manages(bigtable, keys, unique):
    instance = bigtable.create_instance(unique("i"))
    table = bigtable.create_table(instance, "t")
    bigtable.put(table, b"r")
    assert bigtable.keys(table) == [b"r"]
    assert encryption(bigtable, table).encryption_type == DEFAULT
    [cluster] = bigtable.instances.list_clusters(parent=instance).clusters
    assert cluster.encryption_config.kms_key_name == ""
    assert list(keys.client.list_key_rings(parent=keys.location())) == [], "no key of the user's was made"


def test_e2_a_cluster_and_its_tables_show_their_key(protected):
    bigtable, table, key = protected
    instance = table.partition("/tables/")[0]
    [cluster] = bigtable.instances.list_clusters(parent=instance).clusters
    assert cluster.encryption_config.kms_key_name == key
    assert bigtable.instances.get_cluster(name=cluster.name).encryption_config.kms_key_name == key
    assert bigtable.instances.get_instance(name=instance).name == instance


def test_b16_the_version_and_status_in_use_are_shown_for_each_table(protected):
    bigtable, table, key = protected
    info = encryption(bigtable, table)
    assert info.encryption_type == CMEK
    assert info.encryption_status.code == 0
    assert info.kms_key_version == f"{key}/cryptoKeyVersions/1"
    plain = bigtable.tables.get_table(request={"name": table, "view": Table.View.SCHEMA_VIEW})
    assert not plain.cluster_states


def test_b16_a_disabled_key_shows_in_the_status(protected, keys):
    bigtable, table, key = protected
    keys.disable(key)

    def shown():
        info = encryption(bigtable, table)
        assert info.encryption_status.code == 9, info
        return info

    eventually(shown)
    info = shown()
    assert info.kms_key_version == f"{key}/cryptoKeyVersions/1"
    assert "disabled" in info.encryption_status.message


@pytest.mark.parametrize("location", ["europe-west1", "us-east4", "global"])
def test_b2_a_key_in_another_region_is_refused(keys, bigtable, unique, location):
    key = keys.key("k", location=location)
    with refused("FAILED_PRECONDITION", key, ZONE, "cannot be used to protect a cluster in zone"):
        bigtable.create_instance(unique("i"), key=key)
    assert list(bigtable.instances.list_instances(parent=bigtable.project_name).instances) == []


def test_k3_a_key_without_a_grant_is_refused_and_the_agent_and_role_named(keys, bigtable, unique):
    key = keys.key("k", grant=False)
    with refused(("FAILED_PRECONDITION", "PERMISSION_DENIED"), key, "gcp-sa-bigtable.iam.gserviceaccount.com"):
        bigtable.create_instance(unique("i"), key=key)
    keys.grant(key)
    bigtable.create_instance(unique("i"), key=key)


def test_k3_half_a_grant_is_none(keys, bigtable, unique):
    roles = ["cryptoKeyEncrypter", "cryptoKeyDecrypter", "admin", "viewer"]
    for role in [f"roles/cloudkms.{role}" for role in roles]:
        key = keys.key(f"k-{role[15:]}", grant=False)
        keys.grant(key, role=role)
        with refused(("FAILED_PRECONDITION", "PERMISSION_DENIED")):
            bigtable.create_instance(unique("i"), key=key)


def test_k3_a_grant_on_the_key_ring_is_enough(keys, bigtable, unique):
    key = keys.key("k", grant=False)
    keys.grant(key.partition("/cryptoKeys/")[0])
    table = bigtable.create_table(bigtable.create_instance(unique("i"), key=key), "t")
    bigtable.put(table, b"r")
    assert bigtable.keys(table) == [b"r"]


def test_k3_a_grant_to_the_agent_of_another_project_is_none(server, keys, bigtable, unique):
    from harness.kms import bigtable_agent

    key = keys.key("k", grant=False)
    keys.grant(key, member=bigtable_agent(server, unique("other")))
    with refused(("FAILED_PRECONDITION", "PERMISSION_DENIED")):
        bigtable.create_instance(unique("i"), key=key)


@pytest.mark.parametrize("state", ["unknown", "unknown ring", "disabled", "scheduled"])
def test_b2_a_key_that_is_not_usable_is_refused_at_creation(keys, bigtable, unique, state):
    key = keys.key("k")
    if state == "unknown":
        key += "x"
    elif state == "unknown ring":
        key = key.replace("/keyRings/", "/keyRings/x")
    elif state == "disabled":
        keys.disable(key)
    else:
        keys.destroy(key)
    codes = ("FAILED_PRECONDITION", "NOT_FOUND") if state.startswith("unknown") else ("FAILED_PRECONDITION",)
    with refused(codes, key):
        bigtable.create_instance(unique("i"), key=key)
    assert list(bigtable.instances.list_instances(parent=bigtable.project_name).instances) == []


@pytest.mark.parametrize("bad", ["k", "projects/p/keys/k", "projects/p/locations/us-east1/keyRings/r/cryptoKeys/"])
def test_b2_a_key_name_of_the_wrong_shape_is_refused(bigtable, unique, bad):
    with refused("INVALID_ARGUMENT"):
        bigtable.create_instance(unique("i"), key=bad)


def test_b2_a_key_version_is_no_key(keys, bigtable, unique):
    version = f"{keys.key('k')}/cryptoKeyVersions/1"
    with refused("INVALID_ARGUMENT"):
        bigtable.create_instance(unique("i"), key=version)


@pytest.mark.parametrize("change", ["another", "none"])
def test_b3_the_key_of_a_cluster_cannot_be_changed(protected, keys, change):
    bigtable, table, key = protected
    other = keys.key("other") if change == "another" else ""
    instance = table.partition("/tables/")[0]
    [cluster] = bigtable.instances.list_clusters(parent=instance).clusters
    cluster.encryption_config.kms_key_name = other
    if other:
        with refused("INVALID_ARGUMENT", "encryption"):
            bigtable.instances.update_cluster(request=cluster).result(timeout=20)
    with refused("INVALID_ARGUMENT", "encryption_config"):
        bigtable.instances.partial_update_cluster(
            request={"cluster": cluster, "update_mask": {"paths": ["encryption_config"]}}
        ).result(timeout=20)
    assert bigtable.instances.get_cluster(name=cluster.name).encryption_config.kms_key_name == key


def create_cluster(bigtable, instance, cluster, key=None):
    spec = {"location": f"{bigtable.project_name}/locations/us-east1-c", "serve_nodes": 1}
    if key is not None:
        spec["encryption_config"] = {"kms_key_name": key}
    return bigtable.instances.create_cluster(parent=instance, cluster_id=cluster, cluster=spec).result(timeout=20)


def test_b3_clusters_with_and_without_a_key_do_not_mix(protected, keys, unique):
    bigtable, table, key = protected
    with refused("FAILED_PRECONDITION", "default keys and CMEKs are not allowed"):
        create_cluster(bigtable, table.partition("/tables/")[0], "second-cluster")
    with refused("FAILED_PRECONDITION", "default keys and CMEKs are not allowed"):
        create_cluster(bigtable, bigtable.create_instance(unique("i")), "second-cluster", key)
    far = keys.key("far", location="europe-west1")
    with refused("FAILED_PRECONDITION", far, "cannot be used to protect a cluster in zone"):
        create_cluster(bigtable, table.partition("/tables/")[0], "second-cluster", far)


def test_b3_an_instance_without_a_key_cannot_get_one(keys, bigtable, unique):
    instance = bigtable.create_instance(unique("i"))
    [cluster] = bigtable.instances.list_clusters(parent=instance).clusters
    cluster.encryption_config.kms_key_name = keys.key("k")
    with refused("INVALID_ARGUMENT", "encryption"):
        bigtable.instances.update_cluster(request=cluster).result(timeout=20)


def test_b8_a_disabled_key_fails_every_request_and_enable_brings_the_data_back(protected, keys):
    bigtable, table, key = protected
    bigtable.put(table, b"other")
    disable(keys, key, bigtable, table)
    version = f"{key}/cryptoKeyVersions/1"
    rule = {"family_name": "f", "column_qualifier": b"q", "append_value": b"x"}
    uses = {
        "read": lambda: bigtable.keys(table),
        "read one": lambda: bigtable.read_row(table, b"r"),
        "sample": lambda: list(bigtable.data.sample_row_keys(table_name=table, retry=None)),
        "write": lambda: bigtable.put(table, b"new"),
        "check": lambda: bigtable.data.check_and_mutate_row(
            request={"table_name": table, "row_key": b"r", "true_mutations": [delete_row()]}, retry=None
        ),
        "append": lambda: bigtable.data.read_modify_write_row(
            request={"table_name": table, "row_key": b"r", "rules": [rule]}, retry=None
        ),
        "drop": lambda: bigtable.tables.drop_row_range(request={"name": table, "row_key_prefix": b"r"}),
    }
    for name, use in uses.items():
        with locked("FAILED_PRECONDITION", version, "is disabled") as caught:
            use()
        assert ("KEY_DISABLED", version) in [violation[:2] for violation in caught.violations], name
    try:
        codes = bigtable.write_many(table, [(b"new", [set_cell("f", b"q", 0, b"")])] * 2)
        assert codes == [9, 9]
    except Exception:
        with locked("FAILED_PRECONDITION", version):
            bigtable.write_many(table, [(b"new", [set_cell("f", b"q", 0, b"")])])
    keys.enable(key)
    eventually(lambda: bigtable.keys(table))
    assert bigtable.keys(table) == [b"other", b"r"], "nothing was lost and nothing done while locked"


def test_b7_while_a_key_is_disabled_admin_work_is_refused_but_deletion_is_not(protected, keys):
    bigtable, table, key = protected
    instance = table.partition("/tables/")[0]
    disable(keys, key, bigtable, table)
    with locked("FAILED_PRECONDITION", key):
        bigtable.create_table(instance, "t2")
    with locked("FAILED_PRECONDITION", key):
        create_cluster(bigtable, instance, "second-cluster", key)
    [cluster] = bigtable.instances.list_clusters(parent=instance).clusters
    with locked("FAILED_PRECONDITION", key):
        bigtable.instances.delete_cluster(name=cluster.name)
    with locked("FAILED_PRECONDITION", key):
        bigtable.tables.modify_column_families(name=table, modifications=[{"id": "g", "create": {}}])
    assert set(bigtable.tables.get_table(name=table).column_families) == {"f"}
    assert [t.name for t in bigtable.tables.list_tables(parent=instance)] == [table]
    bigtable.tables.delete_table(name=table)
    bigtable.instances.delete_instance(name=instance)
    with refused("NOT_FOUND"):
        bigtable.instances.get_instance(name=instance)


def test_b8_from_disable_to_the_last_successful_request_is_at_most_a_second(protected, keys):
    """Four readers and four writers at full speed; measured from the moment that the KMS acknowledged."""
    bigtable, table, key = protected
    last = [0.0] * 8
    stop = threading.Event()

    def work(number):
        while not stop.is_set():
            try:
                if number % 2:
                    bigtable.read_row(table, b"r")
                else:
                    bigtable.put(table, b"w%d" % number)
                last[number] = time.monotonic()
            except Exception:
                time.sleep(0.001)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    try:
        time.sleep(0.3)
        assert all(last), "all got through before"
        keys.disable(key)
        disabled = time.monotonic()
        time.sleep(LOCK_WITHIN + 1)
        assert max(last) - disabled <= LOCK_WITHIN
        keys.enable(key)
        enabled = time.monotonic()
        eventually(lambda: bigtable.keys(table))
        assert time.monotonic() - enabled < UNLOCK_WITHIN
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_b8_a_scan_under_way_stops_when_its_key_goes(protected, keys):
    """48 MiB, of which the client takes nothing for a second: far more than all buffers on the way hold."""
    bigtable, table, key = protected
    for part in range(12):
        entries = [(b"%02d-%02d" % (part, n), [set_cell("f", b"q", 0, bytes(65_536))]) for n in range(64)]
        assert set(bigtable.write_many(table, entries)) == {0}
    stream = decode(bigtable.data.read_rows(request={"table_name": table}, retry=None))
    for _ in range(3):
        next(stream)
    keys.disable(key)
    time.sleep(LOCK_WITHIN)
    count = 0
    with locked("FAILED_PRECONDITION", "is disabled"):
        for _ in stream:
            count += 1
    assert count < 12 * 64 - 100
    keys.enable(key)
    assert len(eventually(lambda: bigtable.keys(table))) == 12 * 64 + 1


def test_b8_what_was_acknowledged_while_the_key_went_is_all_there(protected, keys):
    """Eight writers at full speed, one row at a time and twenty, through three locks."""
    bigtable, table, key = protected
    acknowledged = [[] for _ in range(8)]
    stop = threading.Event()

    def work(number):
        count = 0
        while not stop.is_set():
            names = [b"%d-%06d" % (number, count + n) for n in range(20 if number % 2 else 1)]
            count += len(names)
            try:
                if number % 2:
                    codes = bigtable.write_many(table, [(name, [set_cell("f", b"q", 0, name)]) for name in names])
                    acknowledged[number] += [name for name, code in zip(names, codes) if code == 0]
                else:
                    bigtable.put(table, names[0], names[0])
                    acknowledged[number] += names
            except Exception:
                time.sleep(0.002)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for _ in range(3):
        time.sleep(0.4)
        keys.disable(key)
        time.sleep(0.2)
        keys.enable(key)
        eventually(lambda: bigtable.keys(table, rows_limit=1))
    time.sleep(0.2)
    stop.set()
    for worker in workers:
        worker.join()
    rows = dict(bigtable.read(table))
    assert all(len(names) > 10 for names in acknowledged)
    for names in acknowledged:
        for name in names:
            assert rows[name][0][3] == name


def test_k3_a_revoked_grant_acts_as_a_disabled_key_and_a_new_grant_brings_the_data_back(protected, keys):
    bigtable, table, key = protected
    keys.revoke(key)

    def is_locked():
        with locked("FAILED_PRECONDITION", key, "gcp-sa-bigtable", "roles/cloudkms.cryptoKeyEncrypterDecrypter"):
            bigtable.keys(table)

    eventually(is_locked, LOCK_WITHIN)
    keys.grant(key)
    eventually(lambda: bigtable.keys(table))
    assert bigtable.keys(table) == [b"r"]


def test_k3_a_grant_revoked_from_the_key_ring_counts_as_well(keys, bigtable, unique):
    key = keys.key("k", grant=False)
    ring = key.partition("/cryptoKeys/")[0]
    keys.grant(ring)
    table = bigtable.create_table(bigtable.create_instance(unique("i"), key=key), "t")
    bigtable.put(table, b"r")
    keys.revoke(ring)

    def is_locked():
        with locked():
            bigtable.keys(table)

    eventually(is_locked, LOCK_WITHIN)
    keys.grant(ring)
    eventually(lambda: bigtable.keys(table))


def test_k4_one_key_protects_many_instances_and_projects(server, keys, bigtable, unique):
    from harness.bigtable import Bigtable
    from harness.kms import bigtable_agent

    key = keys.key("k")
    other = Bigtable(server.address, unique("p2"))
    keys.grant(key, member=bigtable_agent(server, other.project))
    tables = []
    for clients in (bigtable, bigtable, other):
        table = clients.create_table(clients.create_instance(unique("i"), key=key), "t")
        clients.put(table, b"r")
        tables.append((clients, table))
    disable(keys, key, bigtable, *[table for _, table in tables])
    keys.enable(key)
    for clients, table in tables:
        eventually(lambda c=clients, t=table: c.keys(t))
        assert clients.keys(table) == [b"r"]


def test_k4_each_key_locks_only_what_it_protects(keys, bigtable, unique):
    tables = {}
    for name in ("one", "two"):
        key = keys.key(name)
        tables[key] = bigtable.create_table(bigtable.create_instance(unique("i"), key=key), "t")
        bigtable.put(tables[key], b"r")
    first, second = tables
    disable(keys, first, bigtable, tables[first])
    for _ in range(50):
        assert bigtable.keys(tables[second]) == [b"r"]


def test_e3_rotation_shows_the_new_version_and_the_data_stays_readable(protected, keys):
    bigtable, table, key = protected
    version = keys.rotate(key)

    def rotated():
        assert encryption(bigtable, table).kms_key_version == version

    eventually(rotated)
    assert bigtable.keys(table) == [b"r"]
    keys.set_state(f"{key}/cryptoKeyVersions/1", STATE.DISABLED)
    time.sleep(0.3)
    bigtable.put(table, b"s")
    assert bigtable.keys(table) == [b"r", b"s"], "nothing needs the old version any more"
    disable(keys, key, bigtable, table)
    with locked("FAILED_PRECONDITION", version, "is disabled"):
        bigtable.keys(table)


def test_e6_with_one_version_disabled_what_lies_under_the_others_stays_readable(protected, keys, unique):
    bigtable, old, key = protected
    first = f"{key}/cryptoKeyVersions/1"
    second = keys.client.create_crypto_key_version(parent=key, crypto_key_version={}).name
    keys.set_state(second, STATE.DISABLED)
    for _ in range(20):
        assert bigtable.keys(old) == [b"r"], "nothing lies under the second version"
    keys.set_state(second, STATE.ENABLED)

    def locked_by(version, *tables):
        for table in tables:
            with locked("FAILED_PRECONDITION", version, "is disabled"):
                bigtable.keys(table)

    keys.set_state(first, STATE.DISABLED)
    eventually(lambda: locked_by(first, old), LOCK_WITHIN)
    keys.client.update_crypto_key_primary_version(name=key, crypto_key_version_id="2")
    new = bigtable.create_table(bigtable.create_instance(unique("i"), key=key), "t")
    bigtable.put(new, b"n")
    assert encryption(bigtable, new).kms_key_version == second
    for _ in range(20):
        assert bigtable.keys(new) == [b"n"]
        locked_by(first, old)
        with locked("FAILED_PRECONDITION", first):
            bigtable.put(old, b"never")

    keys.set_state(first, STATE.ENABLED)
    eventually(lambda: bigtable.keys(old))

    def rewrapped():
        assert encryption(bigtable, old).kms_key_version == second

    eventually(rewrapped)
    keys.set_state(first, STATE.DISABLED)
    time.sleep(0.3)
    assert (bigtable.keys(old), bigtable.keys(new)) == ([b"r"], [b"n"]), "the first version is needed no more"
    keys.set_state(second, STATE.DISABLED)
    eventually(lambda: locked_by(second, old, new), LOCK_WITHIN)
    keys.set_state(second, STATE.ENABLED)
    eventually(lambda: (bigtable.keys(old), bigtable.keys(new)))


def test_b8_a_lock_and_unlock_many_times_over_loses_nothing(protected, keys):
    bigtable, table, key = protected
    for n in range(5):
        bigtable.put(table, b"n%d" % n)
        disable(keys, key, bigtable, table)
        with locked():
            bigtable.put(table, b"never%d" % n)
        keys.enable(key)
        eventually(lambda: bigtable.keys(table))
    assert bigtable.keys(table) == [b"n%d" % n for n in range(5)] + [b"r"]


def test_b4_requests_name_no_key_and_need_none(protected):
    """What the data API sends has no field for a key; this is the plain path of an application."""
    bigtable, table, _ = protected
    bigtable.put(table, b"s")
    bigtable.write(table, b"r", delete_row())
    assert bigtable.keys(table) == [b"s"]
