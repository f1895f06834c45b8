"""Google's Python client for Cloud Storage, unmodified: D4, issue 3."""

import base64
import datetime
import hashlib
import io
import json
import random
import socket
import threading
import time

import google_crc32c
import pytest
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage import transfer_manager
from google.cloud.storage.retry import DEFAULT_RETRY
from harness.storage import Raw, client, refused

MIB = 1024 * 1024


@pytest.fixture
def gcs(server, project):
    return client(server, project)


@pytest.fixture
def bucket(gcs, unique):
    return gcs.create_bucket(unique("b"), location="us-east1")


@pytest.fixture
def raw(server):
    return Raw(server)


def names(bucket, **options):
    return [blob.name for blob in bucket.list_blobs(**options)]


def test_the_emulator_variable_is_enough(server, project, unique, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", project)
    gcs = storage.Client()
    blob = gcs.create_bucket(unique("b")).blob("a")
    blob.upload_from_string("text")
    assert blob.download_as_bytes() == b"text"


def test_a_buckets_life(gcs, project, unique):
    name = unique("b")
    assert not gcs.bucket(name).exists()
    made = gcs.bucket(name)
    made.storage_class = "NEARLINE"
    made.labels = {"team": "birds"}
    made.versioning_enabled = True
    made.create(location="europe-west1")
    got = gcs.get_bucket(name)
    assert (got.location, got.location_type, got.storage_class) == ("EUROPE-WEST1", "region", "NEARLINE")
    assert (got.labels, got.versioning_enabled, got.metageneration) == ({"team": "birds"}, True, 1)
    assert got.iam_configuration.uniform_bucket_level_access_enabled
    assert got.project_number and got.time_created and got.soft_delete_policy.retention_duration_seconds == 0
    with refused(409, reason="conflict"):
        gcs.create_bucket(name)
    got.labels = {**got.labels, "size": "small"}
    got.cors = [{"origin": ["*"], "method": ["GET"], "maxAgeSeconds": 60}]
    got.add_lifecycle_delete_rule(age=30, matches_prefix=["tmp/"])
    got.default_event_based_hold = True
    got.patch()
    got = gcs.get_bucket(name)
    assert got.labels == {"team": "birds", "size": "small"} and got.cors[0]["method"] == ["GET"]
    assert [rule["condition"]["age"] for rule in got.lifecycle_rules] == [30]
    got.clear_lifecycle_rules()
    got.default_event_based_hold = False
    got.patch()
    assert list(gcs.get_bucket(name).lifecycle_rules) == []
    with refused(412):
        got.patch(if_metageneration_match=1)
    got.delete()
    with refused(404, "The specified bucket does not exist.", reason="notFound"):
        gcs.get_bucket(name)


def test_buckets_are_listed_in_pages(gcs, unique):
    stem = unique("b")
    made = [gcs.create_bucket(f"{stem}-{n}").name for n in range(5)]
    assert [bucket.name for bucket in gcs.list_buckets(page_size=2)] == made
    assert [bucket.name for bucket in gcs.list_buckets(prefix=f"{stem}-3")] == [f"{stem}-3"]


@pytest.mark.parametrize("name", ["ab", "Upper", "goog-x", "a..b", "1.2.3.4", "é-bucket", "x" * 64])
def test_bad_names_of_buckets_are_refused(gcs, name):
    with refused(400, "Invalid bucket name"):
        gcs.create_bucket(name)


def test_policies(bucket):
    policy = bucket.get_iam_policy(requested_policy_version=3)
    policy.bindings.append({"role": "roles/storage.objectViewer", "members": {"user:a@example.com"}})
    bucket.set_iam_policy(policy)
    assert bucket.get_iam_policy().bindings[0]["role"] == "roles/storage.objectViewer"
    with refused(412):
        bucket.set_iam_policy(policy)
    assert bucket.test_iam_permissions(["storage.objects.get"]) == ["storage.objects.get"]


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 5 * MIB, 20 * MIB])
@pytest.mark.parametrize("how", ["whole", "resumable", "chunks"])
def test_contents_go_up_and_come_down(bucket, size, how):
    content = random.Random(size).randbytes(size)
    blob = bucket.blob("d/é ☃", chunk_size=MIB if how == "chunks" else None)
    blob.metadata = {"k": "v"}
    if how == "whole":
        blob.upload_from_string(content, content_type="text/x", checksum="md5")
    else:
        blob.upload_from_file(io.BytesIO(content), size=size, content_type="text/x")
    got = bucket.get_blob("d/é ☃")
    assert (got.size, got.content_type, got.metadata) == (size, "text/x", {"k": "v"})
    assert got.md5_hash == base64.b64encode(hashlib.md5(content).digest()).decode()
    checksum = google_crc32c.Checksum(content)
    assert got.crc32c == base64.b64encode(checksum.digest()).decode()
    for check in ("md5", "crc32c"):
        assert got.download_as_bytes(checksum=check, raw_download=True) == content
    if size > 100:
        assert got.download_as_bytes(start=7, end=98) == content[7:99]
        assert got.download_as_bytes(start=size - 5) == content[-5:]
        parts = bucket.blob("d/é ☃", chunk_size=MIB)
        file = io.BytesIO()
        parts.download_to_file(file)
        assert file.getvalue() == content


def test_an_upload_of_unknown_length(bucket):
    content = random.Random(1).randbytes(3 * MIB + 17)

    class Stream(io.RawIOBase):
        def __init__(self):
            self.inner = io.BytesIO(content)

        def readable(self):
            return True

        def read(self, n=-1):
            return self.inner.read(n)

        def tell(self):
            return self.inner.tell()

    blob = bucket.blob("a", chunk_size=MIB)
    blob.upload_from_file(Stream())
    assert blob.download_as_bytes() == content
    with bucket.blob("b").open("wb", chunk_size=256 * 1024) as file:
        for n in range(0, len(content), 100_000):
            file.write(content[n:n + 100_000])
    with bucket.blob("b").open("rb") as file:
        file.seek(MIB)
        assert file.read(10) == content[MIB:MIB + 10]
        file.seek(0)
        assert file.read() == content


def test_a_wrong_checksum_is_refused(bucket, raw):
    body = b"--B\r\ncontent-type: application/json\r\n\r\n" + json.dumps({"name": "a", "md5Hash": "AAAA"}).encode()
    body += b"\r\n--B\r\ncontent-type: text/x\r\n\r\ntext\r\n--B--"
    reply = raw(
        "POST", f"/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart", data=body,
        headers={"content-type": "multipart/related; boundary=B"},
    )
    assert reply.status_code == 400 and "MD5" in reply.json()["error"]["message"]
    assert names(bucket) == []


def test_gzip_comes_as_it_was_stored(bucket, raw):
    import gzip

    blob = bucket.blob("a")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"text" * 1000), content_type="text/plain")
    assert blob.download_as_bytes() == b"text" * 1000
    assert gzip.decompress(blob.download_as_bytes(raw_download=True)) == b"text" * 1000


def test_generations_and_conditions(bucket):
    blob = bucket.blob("a")
    blob.upload_from_string("1", if_generation_match=0)
    first = blob.generation
    with refused(412, reason="conditionNotMet"):
        bucket.blob("a").upload_from_string("x", if_generation_match=0)
    with refused(412):
        bucket.blob("a").upload_from_file(io.BytesIO(b"x" * 9 * MIB), if_generation_match=0)
    blob.upload_from_string("2", if_generation_match=first)
    assert blob.generation > first
    with refused(412):
        blob.delete(if_generation_match=first)
    with refused(404):
        bucket.blob("a", generation=first).reload()
    assert bucket.blob("a").exists() and not bucket.blob("a", generation=first).exists()
    with pytest.raises(exceptions.NotModified):
        bucket.blob("a").reload(if_generation_not_match=blob.generation)
    with refused(412):
        bucket.blob("a").download_as_bytes(if_generation_match=first)
    blob.metadata = {"a": "b"}
    blob.patch(if_metageneration_match=1)
    assert blob.metageneration == 2
    blob.delete(if_metageneration_match=2)
    with refused(404, f"No such object: {bucket.name}/a"):
        blob.delete()


def test_metadata(bucket):
    blob = bucket.blob("a")
    blob.upload_from_string("text")
    blob.cache_control, blob.content_disposition, blob.content_language = "no-store", "inline", "de"
    blob.metadata = {"a": "1", "b": "é"}
    blob.custom_time = datetime.datetime(2020, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.timezone.utc)
    blob.patch()
    got = bucket.get_blob("a")
    assert (got.cache_control, got.content_disposition, got.content_language) == ("no-store", "inline", "de")
    assert got.metadata == {"a": "1", "b": "é"} and got.custom_time == blob.custom_time
    got.metadata = {"a": None}
    got.patch()
    assert bucket.get_blob("a").metadata == {"b": "é"}
    got.update_storage_class("COLDLINE")
    assert bucket.get_blob("a").storage_class == "COLDLINE"
    got.content_type = "text/y"
    got.update()
    assert bucket.get_blob("a").content_type == "text/y"


def test_holds_and_retention(bucket):
    blob = bucket.blob("a")
    blob.upload_from_string("text")
    blob.temporary_hold = True
    blob.patch()
    with refused(403, "hold", reason="objectUnderActiveHold"):
        blob.delete()
    with refused(403):
        bucket.blob("a").upload_from_string("other")
    blob.temporary_hold = False
    blob.patch()
    bucket.retention_period = 2
    bucket.patch()
    assert bucket.get_blob("a").retention_expiration_time
    with refused(403, reason="retentionPolicyNotMet"):
        bucket.blob("a").delete()
    bucket.lock_retention_policy()
    bucket.reload()
    assert bucket.retention_policy_locked
    time.sleep(2)
    blob.delete()


def test_versions(bucket):
    bucket.versioning_enabled = True
    bucket.patch()
    blob = bucket.blob("a")
    generations = []
    for text in ("1", "2"):
        blob.upload_from_string(text)
        generations.append(blob.generation)
    bucket.blob("a").delete()
    assert names(bucket) == []
    found = list(bucket.list_blobs(versions=True))
    assert [found.generation for found in found] == generations and all(found.time_deleted for found in found)
    assert bucket.blob("a", generation=generations[0]).download_as_bytes() == b"1"
    bucket.copy_blob(found[0], bucket, "a", source_generation=generations[0])
    assert bucket.blob("a").download_as_bytes() == b"1"
    with refused(409):
        bucket.delete()
    bucket.delete_blobs(list(bucket.list_blobs(versions=True)), preserve_generation=True)
    bucket.delete()


def test_listings(bucket):
    made = sorted(["a", "a/1", "a/2", "a/b/1", "b", "c/1", "é", "z z", "%2F"], key=lambda name: name.encode())
    for name in made:
        bucket.blob(name).upload_from_string(name)
    assert names(bucket) == names(bucket, page_size=2) == made
    assert names(bucket, prefix="a/") == ["a/1", "a/2", "a/b/1"]
    listing = bucket.list_blobs(delimiter="/", page_size=2)
    assert [blob.name for blob in listing] == ["%2F", "a", "b", "z z", "é"] and listing.prefixes == {"a/", "c/"}
    assert names(bucket, start_offset="b", end_offset="d") == ["b", "c/1"]
    assert names(bucket, match_glob="a/**1") == ["a/1", "a/b/1"]
    assert names(bucket, max_results=3) == made[:3]
    for name in made:
        assert bucket.blob(name).download_as_bytes().decode() == name


def test_copies_rewrites_and_compositions(gcs, bucket, unique):
    other = gcs.create_bucket(unique("b"))
    blob = bucket.blob("a/1")
    blob.metadata = {"k": "v"}
    blob.upload_from_string(b"x" * 200_000, content_type="text/x")
    copy = bucket.copy_blob(blob, other, "b/2")
    assert (copy.content_type, copy.metadata, copy.md5_hash) == ("text/x", {"k": "v"}, blob.md5_hash)
    assert bucket.copy_blob(blob, other).name == "a/1"
    target = other.blob("c")
    token, rewritten, total = target.rewrite(copy)
    assert (token, rewritten, total) == (None, 200_000, 200_000)
    with refused(412):
        target.rewrite(copy, if_generation_match=0)
    renamed = bucket.rename_blob(blob, "renamed")
    assert names(bucket) == ["renamed"] and renamed.size == 200_000
    parts = [other.blob(f"part-{n}") for n in range(3)]
    for n, part in enumerate(parts):
        part.upload_from_string(str(n) * 100_000)
    whole = other.blob("whole")
    whole.content_type = "text/z"
    whole.compose(parts)
    assert whole.component_count == 3 and whole.md5_hash is None and whole.content_type == "text/z"
    assert whole.download_as_bytes() == b"".join(str(n).encode() * 100_000 for n in range(3))
    with refused(404):
        other.blob("none").compose([other.blob("missing")])
    with refused(400, "maximum (32)"):
        other.blob("none").compose(parts * 11)


def test_a_batch(gcs, bucket):
    blobs = [bucket.blob(f"{n}") for n in range(25)]
    for blob in blobs:
        blob.upload_from_string("x")
    with gcs.batch():
        for blob in blobs[:20]:
            blob.delete()
    assert len(names(bucket)) == 5
    with gcs.batch():
        for blob in blobs[20:]:
            blob.metadata = {"k": "v"}
            blob.patch()
    assert all(blob.metadata == {"k": "v"} for blob in bucket.list_blobs())
    with refused(404):
        with gcs.batch():
            blobs[0].delete()


def test_many_at_once(bucket, tmp_path):
    files = []
    for n in range(40):
        (tmp_path / f"{n}").write_bytes(random.Random(n).randbytes(n * 10_000))
        files.append(f"{n}")
    results = transfer_manager.upload_many_from_filenames(
        bucket, files, source_directory=str(tmp_path), worker_type=transfer_manager.THREAD, raise_exception=True
    )
    assert results == [None] * 40
    for n, name in enumerate(files):
        assert bucket.blob(name).download_as_bytes() == random.Random(n).randbytes(n * 10_000)
    big = random.Random(7).randbytes(9 * MIB)
    bucket.blob("big").upload_from_string(big)
    transfer_manager.download_chunks_concurrently(
        bucket.get_blob("big"), str(tmp_path / "big"), chunk_size=2 * MIB, worker_type=transfer_manager.THREAD
    )
    assert (tmp_path / "big").read_bytes() == big


def test_the_service_account(gcs):
    assert gcs.get_service_account_email().endswith("@gs-project-accounts.iam.gserviceaccount.com")


def test_paths_of_the_xml_api_can_be_read(bucket, raw):
    blob = bucket.blob("d/é")
    blob.metadata = {"k": "v"}
    blob.upload_from_string("text")
    reply = raw("GET", f"/{bucket.name}/d/%C3%A9", headers={"range": "bytes=1-2"})
    assert (reply.status_code, reply.content, reply.headers["x-goog-meta-k"]) == (206, b"ex", "v")
    head = raw("HEAD", f"/{bucket.name}/d/%C3%A9")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "4", b"")
    assert raw("GET", f"/{bucket.name}/none").status_code == 404


def test_what_is_not_built_says_so(gcs, bucket, raw):
    with refused(501, "Customer-supplied encryption keys"):
        bucket.blob("a", encryption_key=b"k" * 32).upload_from_string("x")
    bucket.requester_pays = True
    with refused(501, "Requester pays"):
        bucket.patch()
    with refused(501, "HMAC"):
        list(gcs.list_hmac_keys())
    with refused(400, "uniform"):
        bucket.acl.reload()
    for path in ("/storage/v1/b/%ff", "/storage/v1/nonsense", "/upload/storage/v1/b/x"):
        reply = raw("GET", path)
        assert reply.status_code == 404 and reply.json()["error"]["errors"]


def test_a_resumable_upload_goes_on_after_a_break(server, bucket, raw):
    """The client's connection breaks in the middle; it asks how far it is, and goes on."""
    content = random.Random(3).randbytes(6 * MIB)
    path = raw.start(bucket.name, "a")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[: 4 * MIB])
        time.sleep(0.3)
    deadline = time.monotonic() + 10
    while True:
        reply = raw("PUT", path, headers={"content-range": f"bytes */{len(content)}"}, allow_redirects=False)
        assert reply.status_code == 308
        if "range" in reply.headers or time.monotonic() > deadline:
            break
    kept = int(reply.headers["range"].rpartition("-")[2]) + 1
    assert 0 < kept <= 4 * MIB
    assert names(bucket) == []
    reply = raw(
        "PUT", path, data=content[kept:],
        headers={"content-range": f"bytes {kept}-{len(content) - 1}/{len(content)}"},
    )
    assert reply.status_code == 200 and reply.json()["size"] == str(len(content))
    assert bucket.blob("a").download_as_bytes() == content
    again = raw("PUT", path, headers={"content-range": "bytes */*"})
    assert again.json()["generation"] == reply.json()["generation"], "the reply was lost: the client may ask again"


def test_a_cancelled_upload_is_gone(bucket, raw):
    path = raw.start(bucket.name, "a")
    assert raw("DELETE", path).status_code == 499
    assert raw("PUT", path, data=b"x").status_code == 410
    assert names(bucket) == []


def test_one_of_many_writers_is_the_first(server, project, bucket):
    results = []

    def write(n):
        try:
            client(server, project).bucket(bucket.name).blob("a").upload_from_string(
                str(n), if_generation_match=0, retry=DEFAULT_RETRY
            )
            results.append(n)
        except exceptions.PreconditionFailed:
            pass

    threads = [threading.Thread(target=write, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1 and bucket.blob("a").download_as_bytes() == str(results[0]).encode()
