"""Import jobs and imported versions by the official KMS client, over gRPC and REST: K1, K2."""

import datetime
import os
import time

import pytest
from cryptography.hazmat.primitives import serialization
from google.api_core import exceptions
from google.cloud import kms_v1
from google.iam.v1 import policy_pb2
from google.protobuf import duration_pb2, field_mask_pb2
from harness.errors import refused
from harness.kms import JOB, METHOD, PURPOSE, STATE, SYMMETRIC, Keys, wrap

LEVEL = kms_v1.ProtectionLevel
FORMAT = kms_v1.PublicKey.PublicKeyFormat
METHODS = [METHOD(number) for number in range(1, 7)]


def import_only(kms, key, **fields):
    """An import-only key, whose versions are destroyed at once unless told otherwise."""
    fields = {"destroy_scheduled_duration": duration_pb2.Duration(seconds=0), **fields}
    request = {
        "parent": kms.ring(),
        "crypto_key_id": key,
        "crypto_key": {"purpose": PURPOSE.ENCRYPT_DECRYPT, "import_only": True, **fields},
        "skip_initial_version_creation": True,
    }
    return kms.client.create_crypto_key(request=request).name


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_k1_a_key_of_ones_own_is_imported_and_used(kms, method):
    key = import_only(kms, "k")
    job = kms.import_job("j", method)
    assert (job.state, job.import_method, job.protection_level) == (JOB.ACTIVE, method, LEVEL.SOFTWARE)
    assert job.expire_time - job.create_time == datetime.timedelta(days=3)
    assert job.create_time <= job.generate_time
    public = serialization.load_pem_public_key(job.public_key.pem.encode())
    assert str(public.key_size) in method.name
    material = os.urandom(32)
    version = kms.import_version(key, job, wrap(job, material))
    assert (version.name, version.state) == (f"{key}/cryptoKeyVersions/1", STATE.ENABLED)
    assert (version.import_job, version.algorithm, version.protection_level) == (job.name, SYMMETRIC, LEVEL.SOFTWARE)
    assert version.import_time and not version.generate_time and not version.reimport_eligible
    with refused("FAILED_PRECONDITION", "has no primary version"):
        kms.client.encrypt(name=key, plaintext=b"x")
    kms.client.update_crypto_key_primary_version(name=key, crypto_key_version_id="1")
    sealed = kms.client.encrypt(name=key, plaintext=b"secret").ciphertext
    assert kms.client.decrypt(name=key, ciphertext=sealed).plaintext == b"secret"


def test_k1_import_jobs_are_shown_listed_and_filtered(kms):
    ring = kms.ring()
    first = kms.import_job("first")
    kms.import_job("second", METHOD.RSA_OAEP_3072_SHA256)
    assert kms.client.get_import_job(name=first.name) == first
    names = [job.name.rpartition("/")[2] for job in kms.client.list_import_jobs(parent=ring)]
    assert names == ["first", "second"]
    listed = kms.client.list_import_jobs(request={"parent": ring, "filter": "importMethod:AES", "page_size": 1})
    assert [job.name for job in listed] == [first.name]
    der = kms.client.get_import_job(request={"name": first.name, "public_key_format": FORMAT.DER})
    assert not der.public_key.pem
    from_der = serialization.load_der_public_key(der.public_key.data)
    from_pem = serialization.load_pem_public_key(first.public_key.pem.encode())
    assert from_der.public_numbers() == from_pem.public_numbers()
    with refused("INVALID_ARGUMENT", "public_key_format"):
        kms.client.get_import_job(request={"name": first.name, "public_key_format": FORMAT.NIST_PQC})
    with refused("ALREADY_EXISTS", f"ImportJob {first.name} already exists."):
        kms.import_job("first")
    with refused("NOT_FOUND", "importJobs/none not found."):
        kms.client.get_import_job(name=f"{ring}/importJobs/none")
    for job, code in [
        ({}, "INVALID_ARGUMENT"),
        ({"import_method": METHOD.RSA_OAEP_3072_SHA256}, "INVALID_ARGUMENT"),
        ({"import_method": METHOD.RSA_OAEP_3072_SHA256, "protection_level": LEVEL.HSM}, "UNIMPLEMENTED"),
        (
            {
                "import_method": METHOD.HPKE_KEM_XWING_HKDF_SHA256_AES_256_GCM,
                "protection_level": LEVEL.SOFTWARE,
            },
            "UNIMPLEMENTED",
        ),
    ]:
        with refused(code):
            kms.client.create_import_job(parent=ring, import_job_id="bad", import_job=job)


def test_k2_a_destroyed_version_comes_back_with_the_same_material_only(kms):
    key, job, material = import_only(kms, "k"), kms.import_job("j"), os.urandom(32)
    version = kms.import_version(key, job, wrap(job, material)).name
    kms.client.update_crypto_key_primary_version(name=key, crypto_key_version_id="1")
    sealed = kms.client.encrypt(name=key, plaintext=b"secret").ciphertext
    with refused("FAILED_PRECONDITION", "not eligible for reimport") as caught:
        kms.import_version(key, job, wrap(job, material), crypto_key_version=version)
    assert caught.violations[0][0] == "NOT_REIMPORT_ELIGIBLE"
    kms.client.destroy_crypto_key_version(name=version)
    deadline = time.monotonic() + 8
    while (got := kms.client.get_crypto_key_version(name=version)).state != STATE.DESTROYED:
        assert time.monotonic() < deadline, "not destroyed in time"
        time.sleep(0.05)
    assert got.reimport_eligible and got.destroy_event_time and not got.destroy_time
    with refused("FAILED_PRECONDITION", "current state is: DESTROYED."):
        kms.client.decrypt(name=key, ciphertext=sealed)

    other = kms.import_version(key, job, wrap(job, os.urandom(32)), crypto_key_version=version)
    assert (other.name, other.state) == (version, STATE.IMPORT_FAILED)
    assert "not the one that this version held before" in other.import_failure_reason
    again = kms.import_version(key, job, wrap(job, material), crypto_key_version=version)
    assert (again.name, again.state, again.import_failure_reason) == (version, STATE.ENABLED, "")
    assert kms.client.decrypt(name=key, ciphertext=sealed).plaintext == b"secret"
    assert len(kms.versions(key)) == 1


def test_k2_a_failed_import_says_why_and_nothing_of_it_is_used(kms):
    key, job = import_only(kms, "k"), kms.import_job("j")
    good = wrap(job, os.urandom(32))
    malformed = "couldn't be unwrapped or wasn't formatted correctly"
    for number, (wrapped, reason) in enumerate(
        [
            (b"x", "Wrapped key is too short"),
            (good[:-1], "Wrapped key does not consist of 64-bit blocks"),
            (good[:-1] + bytes([good[-1] ^ 1]), malformed),
            (wrap(job, b"sixteen bytes..."), malformed),
        ],
        start=1,
    ):
        version = kms.import_version(key, job, wrapped)
        assert (version.name, version.state) == (f"{key}/cryptoKeyVersions/{number}", STATE.IMPORT_FAILED)
        assert reason in version.import_failure_reason
        assert version.reimport_eligible and not version.import_time
    for change in [
        lambda: kms.set_state(version.name, STATE.ENABLED),
        lambda: kms.client.destroy_crypto_key_version(name=version.name),
        lambda: kms.client.update_crypto_key_primary_version(name=key, crypto_key_version_id="1"),
        lambda: kms.client.encrypt(name=version.name, plaintext=b"x"),
    ]:
        with refused("FAILED_PRECONDITION", "IMPORT_FAILED") as caught:
            change()
        assert caught.violations[0][0] == "KEY_IMPORT_FAILED"
    listed = kms.client.list_crypto_key_versions(request={"parent": key, "filter": "import_failure_reason:blocks"})
    assert [v.name for v in listed] == [f"{key}/cryptoKeyVersions/2"]
    assert kms.import_version(key, job, good, crypto_key_version=version.name).state == STATE.ENABLED


def test_k2_an_import_only_key_generates_nothing(kms):
    key = import_only(kms, "k")
    assert kms.client.get_crypto_key(name=key).import_only
    with refused("FAILED_PRECONDITION", "import-only") as caught:
        kms.client.create_crypto_key_version(parent=key, crypto_key_version={})
    assert caught.violations[0][0] == "KEY_IMPORT_ONLY"
    with refused("INVALID_ARGUMENT"):
        rotating = {"rotation_period": {"seconds": 86_400}, "next_rotation_time": "2100-01-01T00:00:00Z"}
        kms.client.update_crypto_key(
            crypto_key={"name": key, **rotating},
            update_mask=field_mask_pb2.FieldMask(paths=["rotation_period", "next_rotation_time"]),
        )
    with refused("INVALID_ARGUMENT", "skip_initial_version_creation"):
        kms.key("k2", grant=False, import_only=True)


def test_k2_a_request_that_cannot_be_served_makes_no_version(kms):
    key, job = import_only(kms, "k"), kms.import_job("j")
    good = wrap(job, os.urandom(32))
    for change in [
        {"algorithm": 0},
        {"algorithm": kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.HMAC_SHA256},
        {"wrapped_key": b""},
        {"wrapped_key": bytes(65_537)},
        {"rsa_aes_wrapped_key": good},
        {"import_job": f"{key}"},
        {"crypto_key_version": f"{key}"},
        {"crypto_key_version": f"{key}2/cryptoKeyVersions/1"},
    ]:
        with refused("INVALID_ARGUMENT"):
            kms.import_version(key, job, change.pop("wrapped_key", good), **change)
    for change in [
        {"import_job": f"{job.name}x"},
        {"parent": f"{key}x"},
        {"crypto_key_version": f"{key}/cryptoKeyVersions/9"},
    ]:
        with refused("NOT_FOUND"):
            kms.import_version(key, job, good, **change)
    assert kms.versions(key) == []
    older = kms.client.import_crypto_key_version(
        request={"parent": key, "algorithm": SYMMETRIC, "import_job": job.name, "rsa_aes_wrapped_key": good}
    )
    assert older.state == STATE.ENABLED


def test_k3_import_jobs_have_policies(kms):
    job = kms.import_job("j").name
    binding = policy_pb2.Binding(role="roles/cloudkms.importer", members=["user:ada@example.com"])
    policy = kms.client.set_iam_policy(request={"resource": job, "policy": policy_pb2.Policy(bindings=[binding])})
    assert kms.client.get_iam_policy(request={"resource": job}) == policy
    asked = ["cloudkms.importJobs.useToImport", "cloudkms.importJobs.get"]
    got = kms.client.test_iam_permissions(request={"resource": job, "permissions": asked})
    assert list(got.permissions) == asked
    with refused("NOT_FOUND"):
        kms.client.get_iam_policy(request={"resource": f"{job}x"})


def test_k1_a_job_and_what_came_through_it_survive_a_restart(start_server, project):
    server = start_server()
    keys = Keys(server, project)
    key, job, material = import_only(keys, "k"), keys.import_job("j"), os.urandom(32)
    keys.import_version(key, job, wrap(job, material))
    keys.client.update_crypto_key_primary_version(name=key, crypto_key_version_id="1")
    sealed = keys.client.encrypt(name=key, plaintext=b"secret").ciphertext
    # A second job is still without its key when the server goes.
    pending = keys.client.create_import_job(
        parent=keys.ring(),
        import_job_id="pending",
        import_job={"import_method": METHOD.RSA_OAEP_4096_SHA256, "protection_level": LEVEL.SOFTWARE},
    )
    server.restart(kill=True)
    keys = Keys(server, project)
    assert keys.client.get_import_job(name=job.name) == job
    assert keys.client.decrypt(name=key, ciphertext=sealed).plaintext == b"secret"
    assert keys.import_version(key, job, wrap(job, os.urandom(32))).state == STATE.ENABLED
    deadline = time.monotonic() + 60
    while keys.client.get_import_job(name=pending.name).state != JOB.ACTIVE:
        assert time.monotonic() < deadline, "the import job got no key"
        time.sleep(0.1)
    with pytest.raises(exceptions.AlreadyExists):
        keys.import_job("pending")
