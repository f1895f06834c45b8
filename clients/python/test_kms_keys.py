"""Key rings, keys and versions by the official KMS client, over gRPC and REST: K1, K2."""

import datetime
import time

import pytest
from google.cloud import kms_v1
from google.cloud.location import locations_pb2
from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2
from harness.errors import refused
from harness.kms import PURPOSE, STATE

ALGORITHM = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
LEVEL = kms_v1.ProtectionLevel
DAY = 86_400


def mask(*paths):
    return field_mask_pb2.FieldMask(paths=paths)


def soon(seconds=3600):
    return timestamp_pb2.Timestamp(seconds=int(time.time()) + seconds)


def near_now(when):
    return abs((datetime.datetime.now(datetime.timezone.utc) - when).total_seconds()) < 60


def test_k1_locations_are_listed_and_found(kms):
    listed = kms.client.list_locations(locations_pb2.ListLocationsRequest(name=f"projects/{kms.project}"))
    ids = {location.location_id for location in listed.locations}
    assert {"us-east1", "europe-west1", "global"} <= ids
    name = kms.location("us-east1")
    found = kms.client.get_location(locations_pb2.GetLocationRequest(name=name))
    assert (found.name, found.location_id) == (name, "us-east1")


def test_k1_key_rings_are_created_found_and_listed(kms):
    parent = kms.location()
    made = kms.client.create_key_ring(parent=parent, key_ring_id="Ring_1-a", key_ring={})
    assert made.name == f"{parent}/keyRings/Ring_1-a"
    assert near_now(made.create_time)
    assert kms.client.get_key_ring(name=made.name) == made
    kms.ring("b")
    assert [ring.name for ring in kms.client.list_key_rings(parent=parent)] == [made.name, f"{parent}/keyRings/b"]
    assert list(kms.client.list_key_rings(parent=kms.location("europe-west1"))) == []
    with refused("ALREADY_EXISTS", f"KeyRing {made.name} already exists."):
        kms.client.create_key_ring(parent=parent, key_ring_id="Ring_1-a", key_ring={})
    with refused("NOT_FOUND", f"KeyRing {parent}/keyRings/none not found."):
        kms.client.get_key_ring(name=f"{parent}/keyRings/none")


@pytest.mark.parametrize("bad", ["", "a.b", "a b", "a" * 64, "ü", "a/b"])
def test_k1_a_bad_id_is_refused_and_the_field_named(kms, bad):
    with refused("INVALID_ARGUMENT") as caught:
        kms.client.create_key_ring(parent=kms.location(), key_ring_id=bad, key_ring={})
    assert "key_ring_id" in caught.message
    ring = kms.ring()
    with refused("INVALID_ARGUMENT", "crypto_key_id"):
        kms.client.create_crypto_key(parent=ring, crypto_key_id=bad, crypto_key={"purpose": PURPOSE.ENCRYPT_DECRYPT})


@pytest.mark.parametrize("parent", ["", "projects", "projects/p", "projects/p/locations/", "projects/p/locations/x/y"])
def test_k1_a_name_of_the_wrong_shape_is_refused(server, project, parent):
    from harness.kms import Keys

    with refused("INVALID_ARGUMENT"):
        Keys(server, project).client.create_key_ring(parent=parent, key_ring_id="r", key_ring={})


def test_k1_a_key_has_an_enabled_primary_version(kms):
    name = kms.key("k", grant=False, labels={"team": "birds", "é": "ü"})
    key = kms.client.get_crypto_key(name=name)
    assert key.purpose == PURPOSE.ENCRYPT_DECRYPT
    assert dict(key.labels) == {"team": "birds", "é": "ü"}
    assert key.primary.name == f"{name}/cryptoKeyVersions/1"
    assert key.primary.state == STATE.ENABLED
    assert key.primary.protection_level == LEVEL.SOFTWARE
    assert key.primary.algorithm == ALGORITHM.GOOGLE_SYMMETRIC_ENCRYPTION
    assert key.version_template.protection_level == LEVEL.SOFTWARE
    assert key.version_template.algorithm == ALGORITHM.GOOGLE_SYMMETRIC_ENCRYPTION
    assert key.destroy_scheduled_duration.total_seconds() == 30 * DAY
    assert near_now(key.create_time) and near_now(key.primary.create_time) and near_now(key.primary.generate_time)
    assert kms.client.get_crypto_key_version(name=key.primary.name).state == STATE.ENABLED
    with refused("ALREADY_EXISTS", f"CryptoKey {name} already exists."):
        kms.key("k", grant=False)
    with refused("NOT_FOUND", f"CryptoKey {name}2 not found."):
        kms.client.get_crypto_key(name=f"{name}2")
    with refused("NOT_FOUND", "cryptoKeyVersions/9 not found."):
        kms.client.get_crypto_key_version(name=f"{name}/cryptoKeyVersions/9")
    with refused("NOT_FOUND", "keyRings/none not found."):
        kms.client.create_crypto_key(
            parent=f"{kms.location()}/keyRings/none", crypto_key_id="k", crypto_key={"purpose": PURPOSE.ENCRYPT_DECRYPT}
        )


def test_k1_a_key_without_a_version_has_no_primary(kms):
    request = {
        "parent": kms.ring(),
        "crypto_key_id": "bare",
        "crypto_key": {"purpose": PURPOSE.ENCRYPT_DECRYPT},
        "skip_initial_version_creation": True,
    }
    made = kms.client.create_crypto_key(request=request)
    assert made.primary.name == ""
    assert kms.versions(made.name) == []
    with refused("FAILED_PRECONDITION"):
        kms.client.encrypt(name=made.name, plaintext=b"x")
    version = kms.client.create_crypto_key_version(parent=made.name, crypto_key_version={})
    kms.client.update_crypto_key_primary_version(name=made.name, crypto_key_version_id="1")
    assert kms.client.encrypt(name=made.name, plaintext=b"x").name == version.name


@pytest.mark.parametrize(
    "fields, code",
    [
        ({"purpose": PURPOSE.CRYPTO_KEY_PURPOSE_UNSPECIFIED}, "INVALID_ARGUMENT"),
        ({"purpose": PURPOSE.ASYMMETRIC_SIGN}, "UNIMPLEMENTED"),
        ({"purpose": PURPOSE.MAC}, "UNIMPLEMENTED"),
        ({"purpose": PURPOSE.RAW_ENCRYPT_DECRYPT}, "UNIMPLEMENTED"),
        ({"version_template": {"protection_level": LEVEL.HSM}}, "FAILED_PRECONDITION"),
        ({"version_template": {"protection_level": LEVEL.EXTERNAL}}, "INVALID_ARGUMENT"),
        ({"version_template": {"algorithm": ALGORITHM.RSA_SIGN_PSS_2048_SHA256}}, "INVALID_ARGUMENT"),
        ({"labels": {"Upper": "x"}}, "INVALID_ARGUMENT"),
        ({"labels": {f"k{i}": "v" for i in range(65)}}, "INVALID_ARGUMENT"),
        ({"rotation_period": duration_pb2.Duration(seconds=DAY)}, "INVALID_ARGUMENT"),
        ({"destroy_scheduled_duration": duration_pb2.Duration(seconds=121 * DAY)}, "INVALID_ARGUMENT"),
    ],
    ids=str,
)
def test_k1_a_key_that_cannot_be_made_is_refused_with_a_sentence(kms, fields, code):
    with refused(code) as caught:
        kms.key("k", grant=False, **fields)
    assert len(caught.message.split()) > 3
    with refused("NOT_FOUND"):
        kms.client.get_crypto_key(name=f"{kms.ring()}/cryptoKeys/k")


@pytest.mark.parametrize("seconds", [DAY - 1, 876_000 * 3600 + 1])
def test_k2_a_rotation_period_out_of_bounds_is_refused(kms, seconds):
    with refused("INVALID_ARGUMENT", "rotation_period"):
        kms.key(
            "k", grant=False, rotation_period=duration_pb2.Duration(seconds=seconds), next_rotation_time=soon()
        )


def test_k2_a_rotation_schedule_is_kept_and_changed(kms):
    name = kms.key(
        "k", grant=False, rotation_period=duration_pb2.Duration(seconds=30 * DAY), next_rotation_time=soon()
    )
    key = kms.client.get_crypto_key(name=name)
    assert key.rotation_period.total_seconds() == 30 * DAY
    assert key.next_rotation_time > datetime.datetime.now(datetime.timezone.utc)
    key.rotation_period = datetime.timedelta(days=2)
    changed = kms.client.update_crypto_key(crypto_key=key, update_mask=mask("rotation_period"))
    assert changed.rotation_period == datetime.timedelta(days=2)
    changed = kms.client.update_crypto_key(
        crypto_key={"name": name}, update_mask=mask("rotation_period", "next_rotation_time")
    )
    assert not changed.rotation_period
    assert not changed.next_rotation_time


def test_k2_a_due_rotation_makes_a_new_primary_version(kms):
    """The schedule runs by itself: a first rotation a second from now."""
    when = timestamp_pb2.Timestamp(seconds=int(time.time()) + 2)
    name = kms.key(
        "k", grant=False, rotation_period=duration_pb2.Duration(seconds=DAY), next_rotation_time=when
    )
    deadline = time.monotonic() + 8
    while not kms.client.get_crypto_key(name=name).primary.name.endswith("/2"):
        assert time.monotonic() < deadline, "not rotated in time"
        time.sleep(0.1)
    key = kms.client.get_crypto_key(name=name)
    assert key.next_rotation_time.timestamp() == pytest.approx(when.seconds + DAY, abs=5)
    assert [v.state for v in kms.versions(name)] == [STATE.ENABLED, STATE.ENABLED]


def test_k2_only_the_fields_of_the_mask_change(kms):
    name = kms.key("k", grant=False, labels={"a": "1"})
    changed = kms_v1.CryptoKey(name=name, labels={"b": "2"}, rotation_period={"seconds": 9 * DAY})
    got = kms.client.update_crypto_key(crypto_key=changed, update_mask=mask("labels"))
    assert dict(got.labels) == {"b": "2"}
    assert not got.rotation_period
    assert dict(kms.client.get_crypto_key(name=name).labels) == {"b": "2"}
    for path in ["purpose", "name", "destroy_scheduled_duration", "nonsense", "primary.state"]:
        with refused("INVALID_ARGUMENT"):
            kms.client.update_crypto_key(crypto_key=changed, update_mask=mask(path))
    with refused("INVALID_ARGUMENT"):
        kms.client.update_crypto_key(request={"crypto_key": changed})


def test_k2_pages_show_every_key_once(kms):
    ring = kms.ring()
    names = sorted(kms.key(f"k{i:02}", grant=False) for i in range(7))
    pages = list(kms.client.list_crypto_keys(request={"parent": ring, "page_size": 3}).pages)
    assert [len(page.crypto_keys) for page in pages] == [3, 3, 1]
    assert [key.name for page in pages for key in page.crypto_keys] == names
    assert all(page.total_size == 7 for page in pages)
    with refused("INVALID_ARGUMENT"):
        list(kms.client.list_crypto_keys(request={"parent": ring, "page_token": "nonsense"}))
    with refused("INVALID_ARGUMENT"):
        list(kms.client.list_crypto_keys(request={"parent": ring, "page_size": -1}))
    with refused("NOT_FOUND"):
        list(kms.client.list_crypto_keys(parent=f"{ring}x"))


def test_k2_versions_are_listed_in_order_past_nine(kms):
    name = kms.key("k", grant=False)
    for _ in range(10):
        kms.client.create_crypto_key_version(parent=name, crypto_key_version={})
    numbers = [int(version.name.rpartition("/")[2]) for version in kms.versions(name)]
    assert numbers == list(range(1, 12))
    paged = kms.client.list_crypto_key_versions(request={"parent": name, "page_size": 4})
    assert [int(version.name.rpartition("/")[2]) for version in paged] == numbers


def ids(items):
    return [item.name.rpartition("/")[2] for item in items]


def test_k2_lists_are_filtered_and_ordered_as_documented(kms):
    ring = kms.ring()
    kms.key("alpha", grant=False, labels={"team": "owls"})
    kms.key("beta", grant=False, labels={"team": "wrens"}, rotation_period=duration_pb2.Duration(seconds=30 * DAY),
            next_rotation_time=soon())
    gamma = kms.key("gamma", grant=False)
    kms.set_state(f"{gamma}/cryptoKeyVersions/1", STATE.DISABLED)

    def keys(filter="", order_by="", page_size=2):
        request = {"parent": ring, "filter": filter, "order_by": order_by, "page_size": page_size}
        return ids(kms.client.list_crypto_keys(request=request))

    for size in (1, 2, 0):
        assert keys("labels.team=owls OR labels.team=wrens", page_size=size) == ["alpha", "beta"]
        assert keys("labels.team:* AND NOT name:alp", page_size=size) == ["beta"]
        assert keys("primary.state=DISABLED", page_size=size) == ["gamma"]
        assert keys("primary.state!=DISABLED", "name desc", page_size=size) == ["beta", "alpha"]
        assert keys("rotation_period>=2592000s", page_size=size) == ["beta"]
        assert keys("", "create_time desc", page_size=size) == ["gamma", "beta", "alpha"]
        assert keys('create_time>"2100-01-01T00:00:00Z"', page_size=size) == []
    for _ in range(3):
        kms.rotate(gamma)
    request = {"parent": gamma, "filter": "state=ENABLED", "order_by": "name desc"}
    assert ids(kms.client.list_crypto_key_versions(request=request)) == ["4", "3", "2"]
    page = next(kms.client.list_crypto_keys(request={"parent": ring, "page_size": 1}).pages)
    assert page.total_size == 3
    for request in [
        {"filter": "thud=1"},
        {"filter": "labels.team="},
        {"filter": "(name=alpha"},
        {"order_by": "thud"},
        {"page_token": page.next_page_token, "filter": "name:a"},
    ]:
        with refused("INVALID_ARGUMENT") as caught:
            list(kms.client.list_crypto_keys(request={"parent": ring, **request}))
        assert caught.fields


def test_k2_a_version_can_be_created_disabled(kms):
    name = kms.key("k", grant=False)
    made = kms.client.create_crypto_key_version(parent=name, crypto_key_version={"state": STATE.DISABLED})
    assert (made.state, made.name) == (STATE.DISABLED, f"{name}/cryptoKeyVersions/2")
    with refused("FAILED_PRECONDITION", "is not enabled"):
        kms.client.update_crypto_key_primary_version(name=name, crypto_key_version_id="2")
    with refused("INVALID_ARGUMENT", "crypto_key_version.state"):
        kms.client.create_crypto_key_version(parent=name, crypto_key_version={"state": STATE.DESTROYED})


def test_k2_rotation_makes_a_new_primary_and_old_ciphertexts_open(kms):
    name = kms.key("k", grant=False)
    old = kms.client.encrypt(name=name, plaintext=b"old")
    version = kms.rotate(name)
    assert version.endswith("/2")
    assert kms.client.get_crypto_key(name=name).primary.name == version
    new = kms.client.encrypt(name=name, plaintext=b"new")
    assert (old.name, new.name) == (f"{name}/cryptoKeyVersions/1", version)
    first, second = (kms.client.decrypt(name=name, ciphertext=sealed.ciphertext) for sealed in (old, new))
    assert (first.plaintext, first.used_primary) == (b"old", False)
    assert (second.plaintext, second.used_primary) == (b"new", True)
    for missing in ["9", "x", ""]:
        with refused(("NOT_FOUND", "INVALID_ARGUMENT")):
            kms.client.update_crypto_key_primary_version(name=name, crypto_key_version_id=missing)


def test_k2_a_disabled_version_neither_encrypts_nor_decrypts_until_it_is_enabled(kms):
    name = kms.key("k", grant=False)
    version = f"{name}/cryptoKeyVersions/1"
    sealed = kms.client.encrypt(name=name, plaintext=b"secret").ciphertext
    assert kms.set_state(version, STATE.DISABLED).state == STATE.DISABLED
    for use in [
        lambda: kms.client.encrypt(name=name, plaintext=b"x"),
        lambda: kms.client.encrypt(name=version, plaintext=b"x"),
        lambda: kms.client.decrypt(name=name, ciphertext=sealed),
    ]:
        with refused("FAILED_PRECONDITION", f"{version} is not enabled, current state is: DISABLED.") as caught:
            use()
        assert [(kind, subject) for kind, subject, _ in caught.violations] == [("KEY_DISABLED", version)]
    assert kms.client.get_crypto_key(name=name).primary.state == STATE.DISABLED
    assert kms.set_state(version, STATE.ENABLED).state == STATE.ENABLED
    assert kms.client.decrypt(name=name, ciphertext=sealed).plaintext == b"secret"


def test_k2_with_one_of_two_versions_disabled_the_other_works(kms):
    name = kms.key("k", grant=False)
    old = kms.client.encrypt(name=name, plaintext=b"old").ciphertext
    kms.rotate(name)
    kms.set_state(f"{name}/cryptoKeyVersions/1", STATE.DISABLED)
    new = kms.client.encrypt(name=name, plaintext=b"new").ciphertext
    assert kms.client.decrypt(name=name, ciphertext=new).plaintext == b"new"
    with refused("FAILED_PRECONDITION", "cryptoKeyVersions/1 is not enabled"):
        kms.client.decrypt(name=name, ciphertext=old)


def test_k2_a_state_can_only_be_set_to_enabled_or_disabled(kms):
    version = f"{kms.key('k', grant=False)}/cryptoKeyVersions/1"
    for state in [STATE.DESTROYED, STATE.DESTROY_SCHEDULED, STATE.PENDING_GENERATION, STATE.IMPORT_FAILED]:
        with refused("INVALID_ARGUMENT"):
            kms.set_state(version, state)
    with refused("INVALID_ARGUMENT"):
        kms.client.update_crypto_key_version(
            crypto_key_version={"name": version, "state": STATE.DISABLED}, update_mask=mask("algorithm")
        )
    assert kms.client.get_crypto_key_version(name=version).state == STATE.ENABLED


def test_k2_destruction_is_scheduled_and_restore_gives_a_disabled_version(kms):
    name = kms.key("k", grant=False)
    version = f"{name}/cryptoKeyVersions/1"
    sealed = kms.client.encrypt(name=name, plaintext=b"secret").ciphertext
    scheduled = kms.client.destroy_crypto_key_version(name=version)
    assert scheduled.state == STATE.DESTROY_SCHEDULED
    in_days = (scheduled.destroy_time - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / DAY
    assert in_days == pytest.approx(30, abs=0.01)
    with refused("FAILED_PRECONDITION", "current state is: DESTROY_SCHEDULED.") as caught:
        kms.client.decrypt(name=name, ciphertext=sealed)
    assert caught.violations[0][0] == "KEY_DESTROY_SCHEDULED"
    for state in [STATE.ENABLED, STATE.DISABLED]:
        with refused("FAILED_PRECONDITION"):
            kms.set_state(version, state)
    with refused("FAILED_PRECONDITION"):
        kms.client.destroy_crypto_key_version(name=version)
    restored = kms.client.restore_crypto_key_version(name=version)
    assert restored.state == STATE.DISABLED
    assert not restored.destroy_time
    with refused("FAILED_PRECONDITION"):
        kms.client.restore_crypto_key_version(name=version)
    kms.set_state(version, STATE.ENABLED)
    assert kms.client.decrypt(name=name, ciphertext=sealed).plaintext == b"secret"


def test_k2_a_due_destruction_is_final(kms):
    name = kms.key("k", grant=False, destroy_scheduled_duration=duration_pb2.Duration(seconds=1))
    version = f"{name}/cryptoKeyVersions/1"
    sealed = kms.client.encrypt(name=name, plaintext=b"secret").ciphertext
    kms.client.destroy_crypto_key_version(name=version)
    deadline = time.monotonic() + 8
    while (got := kms.client.get_crypto_key_version(name=version)).state != STATE.DESTROYED:
        assert got.state == STATE.DESTROY_SCHEDULED
        assert time.monotonic() < deadline, "not destroyed in time"
        time.sleep(0.1)
    assert near_now(got.destroy_event_time)
    with refused("FAILED_PRECONDITION", "current state is: DESTROYED.") as caught:
        kms.client.decrypt(name=name, ciphertext=sealed)
    assert caught.violations[0][0] == "KEY_DESTROYED"
    for change in [
        lambda: kms.client.restore_crypto_key_version(name=version),
        lambda: kms.set_state(version, STATE.ENABLED),
        lambda: kms.client.destroy_crypto_key_version(name=version),
    ]:
        with refused("FAILED_PRECONDITION"):
            change()


def test_k1_what_is_not_built_says_so(kms):
    """Over REST there is no path for it."""
    unbuilt = ("UNIMPLEMENTED", "NOT_FOUND") if kms.client.transport.kind == "rest" else "UNIMPLEMENTED"
    with refused(unbuilt) as caught:
        kms.client.generate_random_bytes(location=kms.location(), length_bytes=16, protection_level=LEVEL.HSM)
    assert caught.message
    with refused(unbuilt):
        kms.client.get_public_key(name=f"{kms.key('k', grant=False)}/cryptoKeyVersions/1")
