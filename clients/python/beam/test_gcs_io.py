"""Beam's GCS IO against our buckets: Beam's own integration tests, as they are in the wheel, and a few of ours."""

import gzip

import pytest

pytest.importorskip("apache_beam")

from apache_beam.internal.gcp import auth  # noqa: E402
from apache_beam.io.filesystems import FileSystems  # noqa: E402
from apache_beam.io.gcp import gcsio, gcsio_integration_test  # noqa: E402
from apache_beam.testing.test_pipeline import TestPipeline  # noqa: E402
from harness.beam import REGION, buckets  # noqa: E402
from harness.storage import storage_agent  # noqa: E402

PROJECT = "p-gcs-io"

# Beam's classes, one for each mix of its options, found here by pytest; not the template that they are made from.
globals().update({
    name: value
    for name, value in vars(gcsio_integration_test).items()
    if name.startswith("GcsIO") and name != "GcsIOIntegrationTest"
})


@pytest.fixture(scope="module", autouse=True)
def gcs(server):
    """Points Beam at the server, and puts the public files there that its tests read."""
    patch = pytest.MonkeyPatch()
    patch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
    # Else Beam looks for Google's credentials for half a minute before it does without.
    patch.setattr(auth._Credentials, "_credentials_init", True)
    # Buckets come and go at once here.
    patch.setattr(gcsio_integration_test, "WAIT_BUCKET_PROPAGATION_SECONDS", 0)
    patch.setattr(TestPipeline, "pytest_test_pipeline_options", " ".join([
        "--runner=TestDataflowRunner", f"--project={PROJECT}", f"--region={REGION}", "--no_auth",
        "--temp_location=gs://gcs-io-temp/tmp",
    ]))
    client = buckets(server, PROJECT)
    client.create_bucket("gcs-io-temp", location=REGION)
    lear = client.create_bucket("dataflow-samples", location=REGION).blob("shakespeare/kinglear.txt")
    lear.upload_from_string("Nothing will come of nothing: speak again.\n" * 4000)
    samples = client.create_bucket("apache-beam-samples", location=REGION)
    text = "".join(f"line {n}\n" for n in range(1000)).encode()
    for name in gcsio_integration_test.GcsIOReadGzipTest.gzip_test_files:
        blob = samples.blob(f"textio/{name}")
        kind = "application/gzip" if "content-type-gzip" in name else "text/plain" if "content-type-text" in name else None
        if "content-encoding-gzip" in name:
            blob.content_encoding = "gzip"
        blob.upload_from_string(gzip.compress(text) if name.endswith(".gz") else text, content_type=kind)
    yield client
    patch.undo()


@pytest.fixture
def place(gcs, unique):
    """A folder of the test's own."""
    return f"gs://gcs-io-temp/{unique('d')}"


def write(path, content):
    with FileSystems.create(path) as file:
        file.write(content)


def read(path, **options):
    with FileSystems.open(path, **options) as file:
        return file.read()


def test_files_are_written_matched_read_renamed_and_removed(place):
    content = bytes(range(256)) * 100_000
    write(f"{place}/a.bin", content)
    write(f"{place}/b/c.bin", b"c")
    write(f"{place}/empty", b"")
    [found] = FileSystems.match([f"{place}/**"])
    assert {m.path.removeprefix(place): m.size_in_bytes for m in found.metadata_list} == {
        "/a.bin": len(content), "/b/c.bin": 1, "/empty": 0,
    }
    assert read(f"{place}/a.bin") == content
    FileSystems.rename([f"{place}/a.bin", f"{place}/b/c.bin"], [f"{place}/x.bin", f"{place}/y.bin"])
    assert (read(f"{place}/x.bin"), read(f"{place}/y.bin")) == (content, b"c")
    assert not FileSystems.exists(f"{place}/a.bin")
    FileSystems.delete([f"{place}/x.bin", f"{place}/y.bin", f"{place}/empty"])
    assert FileSystems.match([f"{place}/**"])[0].metadata_list == []


def test_a_part_of_a_file_is_read_alone(place):
    content = b"".join(b"%08d" % n for n in range(500_000))
    write(f"{place}/numbers", content)
    with gcsio.GcsIO().open(f"{place}/numbers", "rb") as file:
        for at in (8 * 123_456, 0, len(content) - 8):
            file.seek(at)
            assert file.read(8) == content[at:at + 8]


def test_a_temp_buckets_default_key_protects_what_beam_writes_there(server, keys, gcs, unique):
    key = keys.key("temp", grant=False)
    client = buckets(server, keys.project)
    keys.grant(key, storage_agent(server, keys.project))
    bucket = client.bucket(unique("b"))
    bucket.default_kms_key_name = key
    bucket.create(location=REGION)
    write(f"gs://{bucket.name}/staged", b"planted")
    assert gcsio.GcsIO().kms_key(f"gs://{bucket.name}/staged").startswith(key)
    keys.disable(key)
    with pytest.raises(Exception, match="disabled"):
        read(f"gs://{bucket.name}/staged")
