"""Encrypt and Decrypt by the official KMS client, over gRPC and REST: K1, and the limits and checksums of the API."""

import os

import google_crc32c
import pytest
from google.cloud import kms_v1
from google.protobuf import wrappers_pb2
from harness.errors import refused

KIB_64 = 64 * 1024


def crc(data):
    return google_crc32c.value(data)


def int64(value):
    return wrappers_pb2.Int64Value(value=value)


@pytest.fixture
def key(kms):
    return kms.key("k", grant=False)


@pytest.mark.parametrize("size", [1, 15, 4096, KIB_64])
def test_k1_what_is_encrypted_decrypts_at_every_size(kms, key, size):
    plaintext, aad = os.urandom(size), os.urandom(size)
    sealed = kms.client.encrypt(request={"name": key, "plaintext": plaintext, "additional_authenticated_data": aad})
    assert sealed.name == f"{key}/cryptoKeyVersions/1"
    assert sealed.protection_level == kms_v1.ProtectionLevel.SOFTWARE
    assert plaintext[:64] not in sealed.ciphertext or size < 16
    opened = kms.client.decrypt(
        request={"name": key, "ciphertext": sealed.ciphertext, "additional_authenticated_data": aad}
    )
    assert (opened.plaintext, opened.used_primary) == (plaintext, True)
    assert opened.protection_level == kms_v1.ProtectionLevel.SOFTWARE


def test_k1_an_empty_plaintext_encrypts(kms, key):
    sealed = kms.client.encrypt(name=key, plaintext=b"").ciphertext
    assert kms.client.decrypt(name=key, ciphertext=sealed).plaintext == b""


def test_k1_two_ciphertexts_of_one_plaintext_differ(kms, key):
    one, two = (kms.client.encrypt(name=key, plaintext=b"same").ciphertext for _ in range(2))
    assert one != two


def test_k1_encrypt_takes_a_version_and_decrypt_does_not(kms, key):
    kms.rotate(key)
    version = f"{key}/cryptoKeyVersions/1"
    sealed = kms.client.encrypt(name=version, plaintext=b"x")
    assert sealed.name == version
    assert kms.client.decrypt(name=key, ciphertext=sealed.ciphertext).plaintext == b"x"
    if kms.client.transport.kind == "grpc":  # The REST client itself refuses it.
        with refused(("INVALID_ARGUMENT", "NOT_FOUND")):
            kms.client.decrypt(name=version, ciphertext=sealed.ciphertext)


def test_k1_other_additional_data_another_key_or_a_changed_ciphertext_do_not_open(kms, key):
    other = kms.key("other", grant=False)
    sealed = kms.client.encrypt(
        request={"name": key, "plaintext": b"secret", "additional_authenticated_data": b"mine"}
    ).ciphertext
    flipped = bytearray(sealed)
    flipped[-1] ^= 1
    wrong = [
        {"name": key, "ciphertext": sealed},
        {"name": key, "ciphertext": sealed, "additional_authenticated_data": b"yours"},
        {"name": other, "ciphertext": sealed, "additional_authenticated_data": b"mine"},
        {"name": key, "ciphertext": bytes(flipped), "additional_authenticated_data": b"mine"},
        {"name": key, "ciphertext": sealed[:-1], "additional_authenticated_data": b"mine"},
        {"name": key, "ciphertext": sealed + b"x", "additional_authenticated_data": b"mine"},
        {"name": key, "ciphertext": b"x"},
        {"name": key, "ciphertext": os.urandom(100)},
    ]
    for request in wrong:
        with refused("INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid."):
            kms.client.decrypt(request=request)
    with refused("INVALID_ARGUMENT"):
        kms.client.decrypt(name=key, ciphertext=b"")


def test_k1_every_bit_of_a_ciphertext_counts(keys, project):
    key = keys.key("k", grant=False)
    sealed = keys.client.encrypt(name=key, plaintext=b"s").ciphertext
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1 << (at % 8)
        with refused("INVALID_ARGUMENT", "ciphertext is invalid"):
            keys.client.decrypt(name=key, ciphertext=bytes(changed))


@pytest.mark.parametrize("field", ["plaintext", "additional_authenticated_data"])
def test_k1_more_than_64_kib_are_refused_and_the_field_named(kms, key, field):
    request = {"name": key, "plaintext": b"x", field: b"x" * (KIB_64 + 1)}
    with refused("INVALID_ARGUMENT", field):
        kms.client.encrypt(request=request)


def test_k1_checksums_are_verified_and_returned(kms, key):
    plaintext, aad = b"secret", b"context"
    sealed = kms.client.encrypt(
        request={
            "name": key,
            "plaintext": plaintext,
            "plaintext_crc32c": int64(crc(plaintext)),
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": int64(crc(aad)),
        }
    )
    assert sealed.verified_plaintext_crc32c and sealed.verified_additional_authenticated_data_crc32c
    assert sealed.ciphertext_crc32c == crc(sealed.ciphertext)
    opened = kms.client.decrypt(
        request={
            "name": key,
            "ciphertext": sealed.ciphertext,
            "ciphertext_crc32c": int64(crc(sealed.ciphertext)),
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": int64(crc(aad)),
        }
    )
    assert opened.plaintext_crc32c == crc(plaintext)


def test_k1_a_checksum_that_was_not_sent_is_not_verified(kms, key):
    sealed = kms.client.encrypt(name=key, plaintext=b"x")
    assert not sealed.verified_plaintext_crc32c
    assert not sealed.verified_additional_authenticated_data_crc32c


def test_k1_a_checksum_of_zero_is_a_checksum(kms, key):
    """The field is a wrapper: present with 0 is not the same as absent. 0 is right for no bytes, wrong for others."""
    sealed = kms.client.encrypt(request={"name": key, "plaintext": b"", "plaintext_crc32c": int64(0)})
    assert sealed.verified_plaintext_crc32c
    with refused("INVALID_ARGUMENT", "plaintext_crc32c"):
        kms.client.encrypt(request={"name": key, "plaintext": b"x", "plaintext_crc32c": int64(0)})


@pytest.mark.parametrize("wrong", [1, -1, 1 << 40])
def test_k1_a_wrong_checksum_is_refused_and_the_field_named(kms, key, wrong):
    sealed = kms.client.encrypt(name=key, plaintext=b"x").ciphertext
    with refused("INVALID_ARGUMENT", "plaintext_crc32c"):
        kms.client.encrypt(request={"name": key, "plaintext": b"x", "plaintext_crc32c": int64(wrong)})
    with refused("INVALID_ARGUMENT", "additional_authenticated_data_crc32c"):
        kms.client.encrypt(
            request={"name": key, "plaintext": b"x", "additional_authenticated_data_crc32c": int64(wrong)}
        )
    with refused("INVALID_ARGUMENT", "ciphertext_crc32c"):
        kms.client.decrypt(request={"name": key, "ciphertext": sealed, "ciphertext_crc32c": int64(wrong)})


def test_k1_a_key_that_is_not_there_is_not_found(kms):
    ring = kms.ring()
    for name in [f"{ring}/cryptoKeys/none", f"{kms.location()}/keyRings/none/cryptoKeys/k"]:
        with refused("NOT_FOUND"):
            kms.client.encrypt(name=name, plaintext=b"x")
        with refused("NOT_FOUND"):
            kms.client.decrypt(name=name, ciphertext=b"x")
