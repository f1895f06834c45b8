"""Buckets under the customer's keys: D4, E1, E2, E4, K3, and what a crash leaves."""

import io
import os
import random
import socket
import subprocess
import time

import pytest
from google.protobuf import duration_pb2
from harness.kms import Keys
from harness.storage import Raw, client, refused, storage_agent
from harness.wait import eventually

PROJECT = "p-storage"
MIB = 1024 * 1024


class Setting:
    """A server with a bucket under a key."""

    def __init__(self, server, **fields):
        self.server = server
        self.keys = Keys(server, PROJECT)
        self.key = self.new_key("k", **fields)
        made = client(server, PROJECT).bucket("bucket")
        made.default_kms_key_name = self.key
        made.create(location="us-east1")
        self.connect()

    def new_key(self, name, location="us-east1", **fields):
        key = self.keys.key(name, location=location, grant=False, **fields)
        self.keys.grant(key, storage_agent(self.server, PROJECT))
        return key

    def connect(self):
        self.keys = Keys(self.server, PROJECT)
        self.gcs = client(self.server, PROJECT)
        self.bucket = self.gcs.bucket("bucket")
        self.raw = Raw(self.server)

    def restart(self, kill=False):
        self.server.restart(kill=kill)
        self.connect()

    def names(self):
        return [blob.name for blob in self.bucket.list_blobs()]


@pytest.fixture
def setting(own_server):
    return Setting(own_server)


def search(folder, needles):
    """Files whose bytes or names hold one of the needles."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if any(needle in content or needle in str(path).encode() for needle in needles):
            found.append(path)
    return found


def object_files(server):
    return [path for path in (server.data_dir / "buckets").rglob("*") if path.is_file() and "/o/" in str(path)]


def test_d4_the_default_key_protects_new_objects_and_is_shown(setting):
    blob = setting.bucket.blob("a")
    blob.upload_from_string("text")
    assert blob.kms_key_name == f"{setting.key}/cryptoKeyVersions/1"
    assert setting.gcs.get_bucket("bucket").default_kms_key_name == setting.key
    assert next(iter(setting.bucket.list_blobs())).kms_key_name == blob.kms_key_name
    version = setting.keys.rotate(setting.key)

    def rotated():
        assert setting.bucket.get_blob("a").kms_key_name == version

    eventually(rotated)
    assert blob.download_as_bytes() == b"text"


def test_d4_the_key_of_a_request_wins_over_the_default_one(setting):
    other = setting.new_key("other")
    blob = setting.bucket.blob("small", kms_key_name=other)
    blob.upload_from_string("text")
    assert blob.kms_key_name == f"{other}/cryptoKeyVersions/1"
    big = setting.bucket.blob("big", kms_key_name=other)
    big.upload_from_file(io.BytesIO(b"x" * 9 * MIB))
    assert big.kms_key_name == f"{other}/cryptoKeyVersions/1"
    setting.bucket.blob("default").upload_from_string("text")
    setting.keys.disable(other)

    def locked():
        for name in ("small", "big"):
            with refused(400, other, "disabled", reason="cloudKmsDisabledKey"):
                setting.bucket.blob(name).download_as_bytes()

    eventually(locked, 1)
    assert setting.bucket.blob("default").download_as_bytes() == b"text"
    assert setting.names() == ["big", "default", "small"]
    setting.keys.enable(other)
    assert eventually(setting.bucket.blob("small").download_as_bytes) == b"text"
    rewritten = setting.bucket.blob("small")
    rewritten.rewrite(setting.bucket.blob("small"))
    assert rewritten.kms_key_name == f"{setting.key}/cryptoKeyVersions/1"


def test_k3_a_key_needs_its_grant_and_its_place(setting):
    ungranted = setting.keys.key("ungranted", grant=False)
    bucket = setting.gcs.bucket("other")
    bucket.default_kms_key_name = ungranted
    with refused(403, "Permission denied on Cloud KMS key.", "cloudkms.cryptoKeyVersions.useToEncrypt",
                 "gs-project-accounts", reason="forbidden"):
        bucket.create(location="us-east1")
    elsewhere = setting.new_key("k", location="us-west1")
    bucket.default_kms_key_name = elsewhere
    with refused(400, "location not allowed", "us-west1", reason="cloudKmsKeyLocationNotAllowed"):
        bucket.create(location="us-east1")
    with refused(403):
        setting.bucket.blob("a", kms_key_name=ungranted).upload_from_string("x")
    with refused(400):
        setting.bucket.blob("a", kms_key_name=elsewhere).upload_from_string("x")
    with refused(400, "Bad Cloud KMS key"):
        setting.bucket.blob("a", kms_key_name="nonsense").upload_from_string("x")
    setting.bucket.default_kms_key_name = ungranted
    with refused(403):
        setting.bucket.patch()
    assert not setting.gcs.bucket("other").exists()
    setting.keys.disable(setting.key)
    bucket.default_kms_key_name = setting.key
    with refused(400, "disabled", reason="cloudKmsDisabledKey"):
        bucket.create(location="us-east1")


@pytest.mark.parametrize("how", ["disabled", "revoked"])
def test_e2_without_its_key_a_bucket_is_locked_within_a_second(setting, how):
    setting.bucket.blob("small").upload_from_string("text")
    content = random.Random(1).randbytes(9 * MIB)
    setting.bucket.blob("big").upload_from_file(io.BytesIO(content))
    status = 400 if how == "disabled" else 403
    if how == "disabled":
        setting.keys.disable(setting.key)
    else:
        setting.keys.revoke(setting.key)

    def locked():
        for request in (
            setting.bucket.blob("small").download_as_bytes,
            setting.bucket.blob("big").download_as_bytes,
            setting.bucket.blob("small").reload,
            setting.names,
            lambda: setting.bucket.blob("new").upload_from_string("x"),
            setting.bucket.blob("small").delete,
        ):
            with refused(status, "projects/_/buckets/bucket"):
                request()

    eventually(locked, 1)
    setting.restart(kill=True)
    locked()
    if how == "disabled":
        setting.keys.enable(setting.key)
    else:
        setting.keys.grant(setting.key, storage_agent(setting.server, PROJECT))
    assert eventually(setting.names) == ["big", "small"]
    assert setting.bucket.blob("big").download_as_bytes() == content
    assert setting.bucket.blob("small").download_as_bytes() == b"text"


def test_d4_a_new_default_key_protects_what_comes_and_the_names(setting):
    for n in range(30):
        setting.bucket.blob(f"old-{n:02}").upload_from_string("old")
    other = setting.new_key("other")
    setting.bucket.default_kms_key_name = other
    setting.bucket.patch()
    setting.bucket.blob("new").upload_from_string("new")
    assert setting.bucket.get_blob("new").kms_key_name.startswith(other)
    assert setting.bucket.get_blob("old-07").kms_key_name.startswith(f"{setting.key}/")
    setting.keys.disable(setting.key)

    def old_ones_locked():
        with refused(400, setting.key):
            setting.bucket.blob("old-07").download_as_bytes()

    eventually(old_ones_locked, 1)
    setting.restart(kill=True)
    assert len(setting.names()) == 31
    assert setting.bucket.blob("new").download_as_bytes() == b"new"
    setting.keys.enable(setting.key)
    eventually(lambda: setting.bucket.blob("old-07").download_as_bytes())
    setting.bucket.default_kms_key_name = None
    setting.bucket.patch()
    assert setting.gcs.get_bucket("bucket").default_kms_key_name is None
    setting.bucket.blob("managed").upload_from_string("x")
    assert setting.bucket.get_blob("managed").kms_key_name is None


def test_a_bucket_under_a_destroyed_key_can_be_deleted(start_server):
    setting = Setting(start_server(), destroy_scheduled_duration=duration_pb2.Duration(seconds=1))
    setting.bucket.blob("a").upload_from_string("x" * 200_000)
    setting.keys.destroy(setting.key)

    def destroyed():
        with refused(400, "destroyed"):
            setting.names()
        setting.bucket.delete()

    eventually(destroyed)
    assert object_files(setting.server) == []


@pytest.mark.slow
@pytest.mark.parametrize("cmek", [True, False], ids=["customer's key", "default key"])
def test_e4_no_planted_text_is_found_on_disk(start_server, cmek):
    server = start_server()
    keys, gcs = Keys(server, PROJECT), client(server, PROJECT)
    planted = {name: f"PLANTED{name}{random.randrange(10**12)}".encode()
               for name in ("object", "content", "metadata", "type", "label", "upload")}
    bucket = gcs.bucket(f"planted-{random.randrange(10**12)}")
    if cmek:
        key = keys.key("k", grant=False)
        keys.grant(key, storage_agent(server, PROJECT))
        bucket.default_kms_key_name = key
    bucket.labels = {"l": planted["label"].decode().lower()}
    bucket.create(location="us-east1")
    for n, size in enumerate([10, 50_000, 3_000_000, 9_000_000]):
        blob = bucket.blob(f"{planted['object'].decode()}/{n}")
        blob.metadata = {"k": planted["metadata"].decode()}
        blob.upload_from_string(planted["content"] * (size // 20 + 1), content_type=planted["type"].decode())
    path = Raw(server).start(bucket.name, planted["upload"].decode())
    Raw(server)("PUT", path, data=planted["content"] * 50_000, headers={"content-range": "bytes 0-1000000/*"},
                allow_redirects=False)
    assert len(list(bucket.list_blobs())) == 4
    needles = [*planted.values(), planted["label"].lower(), bucket.name.encode()]
    assert len(object_files(server)) >= 3
    assert search(server.data_dir, needles) == []
    assert search(server.kms_dir, needles) == []
    server.stop()
    assert search(server.data_dir, needles) == []
    assert not any(needle in server.log().encode() for needle in needles), "nor is it in the log"


def test_b1_finished_objects_survive_a_kill_and_half_uploads_leave_nothing(setting):
    contents = {f"{n}": random.Random(n).randbytes(n * 70_000) for n in range(20)}
    for name, content in contents.items():
        setting.bucket.blob(name).upload_from_string(content)
    kept = len(object_files(setting.server))
    path = f"/upload/storage/v1/b/bucket/o?uploadType=media&name=half"
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {40 * MIB}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", setting.server.port))
    connection.sendall(head.encode() + random.randbytes(30 * MIB))
    time.sleep(0.5)
    setting.restart(kill=True)
    connection.close()
    assert setting.names() == sorted(contents)
    for name, content in contents.items():
        assert setting.bucket.blob(name).download_as_bytes() == content

    def swept():
        assert len(object_files(setting.server)) == kept
        left = sum(path.stat().st_size for path in (setting.server.data_dir / ".tmp").rglob("*") if path.is_file())
        assert left == 0

    eventually(swept)
    for name in contents:
        setting.bucket.blob(name).delete()

    def gone():
        assert object_files(setting.server) == []

    eventually(gone)


def test_b1_a_resumable_upload_goes_on_after_a_kill(setting):
    content = random.Random(5).randbytes(6 * MIB)
    path = setting.raw.start("bucket", "a")
    part = 2 * MIB
    for n in range(2):
        reply = setting.raw("PUT", path, data=content[n * part:(n + 1) * part], allow_redirects=False,
                            headers={"content-range": f"bytes {n * part}-{(n + 1) * part - 1}/*"})
        assert (reply.status_code, reply.headers["range"]) == (308, f"bytes=0-{(n + 1) * part - 1}")
    setting.restart(kill=True)
    reply = setting.raw("PUT", path, headers={"content-range": "bytes */*"}, allow_redirects=False)
    assert (reply.status_code, reply.headers["range"]) == (308, f"bytes=0-{2 * part - 1}"), "nothing acknowledged is lost"
    reply = setting.raw("PUT", path, data=content[2 * part:],
                        headers={"content-range": f"bytes {2 * part}-{len(content) - 1}/{len(content)}"})
    assert reply.status_code == 200
    assert setting.bucket.blob("a").download_as_bytes() == content


def test_an_upload_under_way_fails_when_its_key_goes(setting):
    head = f"POST /upload/storage/v1/b/bucket/o?uploadType=media&name=half HTTP/1.1\r\nHost: h\r\nContent-Length: {60 * MIB}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", setting.server.port)) as connection:
        connection.sendall(head.encode() + random.randbytes(10 * MIB))
        setting.keys.disable(setting.key)

        def locked():
            with refused(400):
                setting.names()

        eventually(locked, 1)
        try:
            connection.sendall(random.randbytes(50 * MIB))
        except OSError:
            pass
        else:
            connection.settimeout(20)
            assert b" 400 " in connection.recv(4096).split(b"\r\n")[0]
    setting.keys.enable(setting.key)
    assert eventually(setting.names) == []


def rss(server):
    for line in open(f"/proc/{server.pid}/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_does_not_grow_with_an_object(setting, tmp_path):
    """300 MB up in one request, in two parts and resumable, and down again; with the peak of memory."""
    block = random.randbytes(MIB)
    file = tmp_path / "big"
    with open(file, "wb") as out:
        for n in range(300):
            out.write(block[n:] + block[:n])
    setting.bucket.blob("warm").upload_from_string(b"x" * 20 * MIB)
    before = rss(setting.server)

    def pieces():
        with open(file, "rb") as content:
            while piece := content.read(MIB):
                yield piece

    path = "/upload/storage/v1/b/bucket/o?uploadType=media&name=media"
    reply = setting.raw("POST", path, data=pieces())
    assert reply.json()["size"] == str(300 * MIB)
    blob = setting.bucket.blob("resumable")
    blob.upload_from_filename(str(file))
    assert blob.crc32c == reply.json()["crc32c"]
    copy = setting.bucket.copy_blob(blob, setting.bucket, "copy", timeout=300)
    assert copy.crc32c == blob.crc32c
    down = tmp_path / "down"
    setting.bucket.blob("media").download_to_filename(str(down))
    assert subprocess.run(["cmp", file, down]).returncode == 0
    grown = rss(setting.server) - before
    assert grown < 100 * MIB, f"{grown / MIB:.0f} MiB more"
    os.unlink(down)
