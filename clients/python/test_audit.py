"""The audit log as evidence, by a reader written from C2SP's specifications alone: K6. It shares no code with the server."""

import base64
import hashlib
import json
import struct
import time
import urllib.request

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness.kms import Keys

LOG, WITNESS = 1, 4


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def root(leaves):
    """RFC 6962, section 2.1."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01", root(leaves[:split]), root(leaves[split:]))


def key_id(name, kind, public):
    return sha256(name.encode(), b"\n", bytes([kind]), public)[:4]


def opened(note, vkey):
    """Checks a checkpoint's signature, and gives its size and root."""
    text, lines = note.rsplit("\n\n", 1)
    text += "\n"
    name, shown_id, key = vkey.strip().split("+", 2)
    kind, public = base64.b64decode(key)[0], base64.b64decode(key)[1:]
    assert (kind, shown_id) == (LOG, key_id(name, kind, public).hex())
    own = [line.split(" ")[2] for line in lines.splitlines() if line.split(" ")[1] == name]
    signature = base64.b64decode(own[0])
    assert signature[:4] == key_id(name, kind, public)
    Ed25519PublicKey.from_public_bytes(public).verify(signature[4:], text.encode())
    origin, size, shown_root = text.splitlines()
    assert origin == name
    return int(size), base64.b64decode(shown_root)


def tiles(count):
    """The paths' ends of the tiles that hold so many things, and how many each holds."""
    for index in range(-(-count // 256)):
        assert index < 1000
        width = min(256, count - index * 256)
        yield f"{index:03}" + ("" if width == 256 else f".p/{width}"), width


def entries_of(bundle):
    entries = []
    while bundle:
        (length,) = struct.unpack(">H", bundle[:2])
        entries.append(bundle[2 : 2 + length])
        bundle = bundle[2 + length :]
    return entries


@pytest.fixture
def files(server):
    def read(path):
        with urllib.request.urlopen(f"{server.endpoint}/audit/v1/{path}", timeout=30) as answer:
            return answer.read()

    return read


@pytest.fixture
def used(server, project):
    """A key that was used often enough for a full tile."""
    keys = Keys(server, project)
    name = keys.key("k", grant=False)
    for _ in range(300):
        keys.client.encrypt(name=name, plaintext=b"p")
    return name


def test_k6_checkpoints_tiles_and_entries_are_what_the_specifications_say(files, used):
    note = files("checkpoint").decode()
    size, shown_root = opened(note, files("key").decode())
    assert size > 300
    leaves = []
    for path, width in tiles(size):
        entries = entries_of(files(f"tile/entries/{path}"))
        hashes = [sha256(b"\x00", entry) for entry in entries]
        assert len(entries) == width
        assert files(f"tile/0/{path}") == b"".join(hashes)
        leaves += hashes
        last = json.loads(entries[-1])
    assert root(leaves) == shown_root
    assert last["method"] and last["principal"]
    full = [root(leaves[start : start + 256]) for start in range(0, size - 255, 256)]
    for path, width in tiles(len(full)):
        start = int(path[:3]) * 256
        assert files(f"tile/1/{path}") == b"".join(full[start : start + width])
    with pytest.raises(InvalidSignature):
        opened(note.replace(f"\n{size}\n", f"\n{size + 1}\n"), files("key").decode())


def test_k6_a_proof_of_one_entry_leads_to_the_root(server, files, used):
    number = json.loads(
        server.run("logging", "read", f"resource.labels.crypto_key_id=k AND protoPayload.resourceName={used}",
                   "--order", "asc", "--limit", "1", "--format", "json", project=used.split("/")[1])
    )[0]["insertId"].lstrip("0")
    proof = server.run("audit", "prove", number)
    head, note = proof.split("\n\n", 1)
    header, extra, index, *hashes = head.splitlines()
    assert (header, index) == ("c2sp.org/tlog-proof@v1", f"index {int(number) - 1}")
    entry = base64.b64decode(extra.removeprefix("extra "))
    assert json.loads(entry)["resource"] == used
    size, shown_root = opened(note, files("key").decode())
    # RFC 9162, section 2.1.3.2.
    place, last, hash_ = int(number) - 1, size - 1, sha256(b"\x00", entry)
    for sibling in map(base64.b64decode, hashes):
        if place & 1 or place == last:
            hash_ = sha256(b"\x01", sibling, hash_)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            hash_ = sha256(b"\x01", hash_, sibling)
        place, last = place >> 1, last >> 1
    assert (last, hash_) == (0, shown_root)


def test_k6_a_witness_cosigns_what_it_saw(server, files, used, tmp_path):
    secret = Ed25519PrivateKey.generate()
    public = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    name = "witness.example/python"
    identity = key_id(name, WITNESS, public)
    vkey = f"{name}+{identity.hex()}+{base64.b64encode(bytes([WITNESS]) + public).decode()}"
    note, now = files("checkpoint").decode(), int(time.time())
    text = note.rsplit("\n\n", 1)[0] + "\n"
    signature = secret.sign(f"cosignature/v1\ntime {now}\n{text}".encode())
    line = base64.b64encode(identity + struct.pack(">Q", now) + signature).decode()
    cosigned = tmp_path / "cosigned.txt"
    cosigned.write_text(f"{note}— {name} {line}\n", encoding="utf-8")
    server.run("audit", "cosign", "--checkpoint", cosigned, "--witness", vkey)
    kept = files("cosigned-checkpoint").decode()
    assert f"— {name} {line}" in kept.splitlines()
    assert opened(kept, files("key").decode()) == opened(note, files("key").decode())
    held = tmp_path / "held.txt"
    held.write_text(kept, encoding="utf-8")
    server.run("audit", "verify", "--checkpoint", held, "--key", files("key").decode().strip(), "--witness", vkey)
