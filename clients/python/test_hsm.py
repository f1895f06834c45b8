"""HSM keys by the official KMS client, with a token of SoftHSM: their half in the token, its loss, and a table under one."""

import subprocess
import time

import pytest
from google.cloud import kms_v1
from google.protobuf import duration_pb2, field_mask_pb2
from harness.bigtable import Bigtable
from harness.errors import refused
from harness.kms import METHOD, PURPOSE, STATE, Keys
from harness.server import NotReady, binary, environment
from harness.token import PIN, Token

LEVEL = kms_v1.ProtectionLevel
HSM = {"version_template": {"protection_level": LEVEL.HSM, "algorithm": 1}}
UNREACHABLE = ["KEY_ENABLED", "HSM_UNREACHABLE"]
# A module begins anew at most every five seconds.
BACK_WITHIN = 15.0
WITHIN = 15.0


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A software token of the test's own."""
    return Token(tmp_path, monkeypatch, "keys")


def flags(token, label="keys"):
    return ["--hsm-module", token.module, "--hsm-token", label, "--hsm-pin-file", token.pin_file]


@pytest.fixture
def server_with(start_server):
    """Starts servers of keys with a token."""

    def start(token, *more, **options):
        return start_server(*flags(token), "--services", "kms", *more, **options)

    return start


def hsm_key(keys, key="k", **fields):
    return keys.key(key, grant=False, **HSM, **fields)


def kinds(caught):
    return [kind for kind, _, _ in caught.violations]


def encrypt(keys, name, plaintext=b"secret", aad=b"aad"):
    request = {"name": name, "plaintext": plaintext, "additional_authenticated_data": aad}
    return keys.client.encrypt(request=request, retry=None, timeout=30)


def decrypt(keys, name, ciphertext, aad=b"aad"):
    request = {"name": name, "ciphertext": ciphertext, "additional_authenticated_data": aad}
    return keys.client.decrypt(request=request, retry=None, timeout=30)


def within(done, seconds=WITHIN):
    """Waits until `done` does not fail; its answer."""
    started = time.monotonic()
    while True:
        try:
            return done()
        except Exception:
            if time.monotonic() - started > seconds:
                raise
            time.sleep(0.2)


def test_k1_an_hsm_key_is_made_in_the_token_rotates_and_leaves_it_when_destroyed(server_with, token):
    server = server_with(token)
    keys = Keys(server, "p1")
    name = hsm_key(keys, destroy_scheduled_duration=duration_pb2.Duration(seconds=1))
    home_and_first = token.objects()
    assert len(home_and_first) == 2
    shown = keys.client.get_crypto_key(name=name)
    assert shown.version_template.protection_level == shown.primary.protection_level == LEVEL.HSM
    reply = encrypt(keys, name)
    assert (reply.protection_level, reply.name) == (LEVEL.HSM, f"{name}/cryptoKeyVersions/1")
    opened = decrypt(keys, name, reply.ciphertext)
    assert (opened.plaintext, opened.protection_level, opened.used_primary) == (b"secret", LEVEL.HSM, True)
    for wrong in [
        lambda: decrypt(keys, name, reply.ciphertext, b"other"),
        lambda: decrypt(keys, name, reply.ciphertext[:-1] + bytes([reply.ciphertext[-1] ^ 1])),
        lambda: decrypt(keys, name, reply.ciphertext[:40]),
    ]:
        with refused("INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid."):
            wrong()
    longest = b"x" * (8 * 1024 - 3)
    assert decrypt(keys, name, encrypt(keys, name, longest).ciphertext).plaintext == longest
    with refused("INVALID_ARGUMENT", "8192"):
        encrypt(keys, name, longest + b"x")

    second = keys.rotate(name)
    assert len(token.objects() - home_and_first) == 1
    rotated = encrypt(keys, name)
    assert rotated.name == second and decrypt(keys, name, reply.ciphertext).used_primary is False
    [listed] = keys.client.list_crypto_keys(
        request={"parent": keys.ring(), "filter": "versionTemplate.protectionLevel=HSM"}
    )
    assert listed.name == name
    server.restart()
    keys = Keys(server, "p1")
    assert decrypt(keys, name, rotated.ciphertext).plaintext == b"secret"

    keys.client.destroy_crypto_key_version(name=second)
    shown = within(lambda: destroyed(keys, second))
    assert shown.protection_level == LEVEL.HSM
    assert token.objects() == home_and_first
    with refused("FAILED_PRECONDITION", "DESTROYED"):
        decrypt(keys, name, rotated.ciphertext)
    assert decrypt(keys, name, reply.ciphertext).plaintext == b"secret"


def destroyed(keys, version):
    shown = keys.client.get_crypto_key_version(name=version)
    assert shown.state == STATE.DESTROYED
    return shown


def test_k1_a_token_that_is_away_is_unreachable_and_works_when_it_is_back(server_with, token):
    server = server_with(token)
    keys = Keys(server, "p1")
    name, software = hsm_key(keys), keys.key("s", grant=False)
    reply = encrypt(keys, name)
    plain = encrypt(keys, software)
    token.take_away()
    for use in (lambda: decrypt(keys, name, reply.ciphertext), lambda: encrypt(keys, name)):
        with refused("UNAVAILABLE", f"{name}/cryptoKeyVersions/1", "cannot be used") as caught:
            use()
        assert kinds(caught) == UNREACHABLE
    with refused("UNAVAILABLE"):
        keys.client.create_crypto_key_version(parent=name, crypto_key_version={}, retry=None)
    assert decrypt(keys, software, plain.ciphertext).plaintext == b"secret"
    token.bring_back()
    opened = within(lambda: decrypt(keys, name, reply.ciphertext), BACK_WITHIN)
    assert opened.plaintext == b"secret"
    assert "cannot be used" in server.log() and "is back" in server.log()
    # Away at the start, too, the server starts.
    server.stop()
    token.take_away()
    server.start()
    keys = Keys(server, "p1")
    with refused("UNAVAILABLE") as caught:
        decrypt(keys, name, reply.ciphertext)
    assert kinds(caught) == UNREACHABLE
    token.bring_back()
    assert within(lambda: decrypt(keys, name, reply.ciphertext), BACK_WITHIN).plaintext == b"secret"
    assert len(keys.versions(name)) == 1


def test_k1_a_key_that_was_removed_from_the_token_is_named(server_with, token):
    server = server_with(token)
    keys = Keys(server, "p1")
    first, before = hsm_key(keys), token.objects()
    second = hsm_key(keys, "k2")
    [file] = token.objects() - before
    replies = {name: encrypt(keys, name) for name in (first, second)}
    server.stop()
    file.unlink()
    server.start()
    keys = Keys(server, "p1")
    with refused("FAILED_PRECONDITION", f"{second}/cryptoKeyVersions/1") as caught:
        decrypt(keys, second, replies[second].ciphertext)
    assert kinds(caught) == ["KEY_ENABLED", "HSM_KEY_MISSING"]
    assert decrypt(keys, first, replies[first].ciphertext).plaintext == b"secret"


def test_k1_a_wrong_pin_keeps_nothing_from_starting_and_does_not_lock_the_token(server_with, token):
    server = server_with(token)
    keys = Keys(server, "p1")
    name, software = hsm_key(keys), keys.key("s", grant=False)
    reply, plain = encrypt(keys, name), encrypt(keys, software)
    server.stop()
    token.set_pin("00000000")
    server.start()
    keys = Keys(server, "p1")
    for _ in range(5):
        with refused("UNAVAILABLE", "PIN") as caught:
            decrypt(keys, name, reply.ciphertext)
        assert kinds(caught) == UNREACHABLE and "00000000" not in caught.message
    assert decrypt(keys, software, plain.ciphertext).plaintext == b"secret"
    server.stop()
    assert "00000000" not in server.log() and PIN not in server.log()
    token.set_pin(PIN)
    server.start()
    assert decrypt(Keys(server, "p1"), name, reply.ciphertext).plaintext == b"secret"


def test_k1_without_its_token_no_hsm_key_is_made_and_none_is_refused(server_with, token, start_server):
    bare = start_server("--services", "kms")
    with refused("FAILED_PRECONDITION", "--hsm-module"):
        hsm_key(Keys(bare, "p1"))
    with pytest.raises(NotReady) as caught:
        start_server("--services", "kms", "--hsm-module", token.module)
    assert "--hsm-module needs --hsm-pin-file" in caught.value.log
    server = server_with(token)
    keys = Keys(server, "p1")
    name = hsm_key(keys)
    reply = encrypt(keys, name)
    # Another token of the same module does not have this KMS's keys, and is not taken for one that lost them.
    token.add("others")
    server.stop()
    server.flags = [str(flag) for flag in [*flags(token, "others"), "--services", "kms"]]
    server.start()
    keys = Keys(server, "p1")
    with refused("UNAVAILABLE", "does not hold the keys of this KMS") as caught:
        decrypt(keys, name, reply.ciphertext)
    assert kinds(caught) == UNREACHABLE
    server.stop()
    server.flags = ["--services", "kms"]
    server.start()
    with refused("UNAVAILABLE", "--hsm-module"):
        decrypt(Keys(server, "p1"), name, reply.ciphertext)


def test_k1_one_module_serves_the_root_seal_and_hsm_keys_of_two_kms(server_with, token, start_server):
    token.add("roots")
    root = ["--root-pkcs11-module", token.module, "--root-pkcs11-token", "roots", "--root-pkcs11-pin-file", token.pin_file]
    servers = [server_with(token, *root), server_with(token)]
    sealed = []
    for server in servers:
        keys = Keys(server, "p1")
        name = hsm_key(keys)
        sealed.append((server, name, encrypt(keys, name).ciphertext))
    assert len(token.objects()) == 5, "a root, and a home and a key for each"
    for server, name, ciphertext in sealed:
        server.restart()
        assert decrypt(Keys(server, "p1"), name, ciphertext).plaintext == b"secret"
    assert len(token.objects()) == 5
    # The same name elsewhere, another key.
    with refused("INVALID_ARGUMENT"):
        decrypt(Keys(servers[0], "p1"), sealed[0][1], sealed[1][2])


def test_k1_what_is_not_built_for_hsm_keys_says_so(server_with, token):
    server = server_with(token)
    keys = Keys(server, "p1")
    name = hsm_key(keys)
    job = keys.import_job("j", METHOD.RSA_OAEP_3072_SHA256)
    with refused("UNIMPLEMENTED", "HSM"):
        keys.import_version(name, job, b"x" * 384)
    with refused("UNIMPLEMENTED", "HSM"):
        keys.client.create_import_job(
            parent=keys.ring(),
            import_job_id="h",
            import_job={"import_method": METHOD.RSA_OAEP_3072_SHA256, "protection_level": LEVEL.HSM},
        )
    with refused("UNIMPLEMENTED", "HSM_SINGLE_TENANT"):
        keys.key("t", grant=False, version_template={"protection_level": LEVEL.HSM_SINGLE_TENANT})
    changed = kms_v1.CryptoKey(name=name, version_template={"protection_level": LEVEL.SOFTWARE, "algorithm": 1})
    with refused("INVALID_ARGUMENT", "never changes"):
        keys.client.update_crypto_key(
            crypto_key=changed, update_mask=field_mask_pb2.FieldMask(paths=["version_template"])
        )
    # The command line makes one too.
    command = ["kms", "keys", "create", "cli", "--keyring", "ring", "--location", "us-east1", "--purpose", "encryption"]
    server.run(*command, "--protection-level", "hsm")
    made = keys.client.get_crypto_key(name=f"{keys.ring()}/cryptoKeys/cli")
    assert (made.purpose, made.primary.protection_level) == (PURPOSE.ENCRYPT_DECRYPT, LEVEL.HSM)


def test_b10_a_table_under_an_hsm_key_outlives_its_token_for_the_grace_and_no_longer(start_server, token):
    server = start_server(*flags(token), "--kms-grace", "6s", "--key-check-interval", "1s", usual_flags=False)
    keys = Keys(server, "p-hsm")
    key = keys.key("k", **HSM)
    bigtable = Bigtable(server.address, "p-hsm")
    table = bigtable.create_table(bigtable.create_instance("under-hsm", key=key), "t")
    bigtable.put(table, b"r")
    token.take_away()
    time.sleep(2)
    assert bigtable.keys(table) == [b"r"], "a token that is away refuses nothing"
    started = time.monotonic()
    while True:
        try:
            bigtable.keys(table)
        except Exception:
            break
        assert time.monotonic() - started < WITHIN, "not locked"
        time.sleep(0.1)
    token.bring_back()
    assert within(lambda: bigtable.keys(table)) == [b"r"]
    server.restart()
    bigtable = Bigtable(server.address, "p-hsm")
    assert within(lambda: bigtable.keys(table)) == [b"r"]


def test_k1_the_flags_are_told(start_server):
    told = subprocess.run([str(binary()), "serve", "--help"], capture_output=True, text=True, env=environment())
    for flag in ("--hsm-module", "--hsm-token", "--hsm-pin-file", "CLAVIGER_HSM_MODULE"):
        assert flag in told.stdout
