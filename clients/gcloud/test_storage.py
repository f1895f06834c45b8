"""`gcloud storage` and `gsutil`, unmodified: D4, issue 3."""

import json
import random
import shutil

import pytest
from harness.kms import Keys
from harness.storage import storage_agent
from harness.tools import Tool

GCLOUD = shutil.which("gcloud")
GSUTIL = shutil.which("gsutil")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    """A directory of its own, so that a user's settings do not count."""
    return tmp_path_factory.mktemp("gcloud")


@pytest.fixture
def gcloud(server, project, configuration):
    if GCLOUD is None:
        pytest.skip("gcloud is not installed")
    environment = {}
    for line in server.run("env", "--project", project).splitlines():
        name, found, value = line.removeprefix("export ").partition("=")
        if found and name.isupper():
            environment[name] = value.strip("'\";")
    environment |= {"CLOUDSDK_CONFIG": str(configuration), "CLOUDSDK_CORE_DISABLE_PROMPTS": "true"}
    tool = Tool(GCLOUD, "storage", environment=environment)
    tool.json = lambda *arguments: json.loads(tool(*arguments, "--format=json"))
    return tool


@pytest.fixture
def key(server, project):
    keys = Keys(server, project)
    key = keys.key("k", grant=False)
    keys.grant(key, storage_agent(server, project))
    return key


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    (folder / "d").mkdir(parents=True)
    for name, size in (("small", 10), ("d/ä b", 1000), ("d/big", 9 * MIB), ("empty", 0)):
        (folder / name).write_bytes(random.Random(size).randbytes(size))
    return folder


def test_gcloud_a_buckets_life(gcloud, key, unique):
    name = f"gs://{unique('b')}"
    gcloud("buckets", "create", name, "--location=us-east1", f"--default-encryption-key={key}")
    shown = gcloud.json("buckets", "describe", name)
    assert (shown["location"], shown["default_kms_key"]) == ("US-EAST1", key)
    assert name.removeprefix("gs://") in gcloud("buckets", "list", "--format=value(name)").split()
    gcloud("buckets", "update", name, "--update-labels=team=birds", "--versioning")
    shown = gcloud.json("buckets", "describe", name)
    assert (shown["labels"], shown["versioning_enabled"]) == ({"team": "birds"}, True)
    gcloud("buckets", "update", name, "--clear-default-encryption-key")
    assert "default_kms_key" not in gcloud.json("buckets", "describe", name)
    gcloud("buckets", "add-iam-policy-binding", name, "--member=user:a@example.com", "--role=roles/storage.objectViewer")
    policy = gcloud.json("buckets", "get-iam-policy", name)
    assert policy["bindings"][0]["members"] == ["user:a@example.com"]
    gcloud.fails("already own it", "buckets", "create", name)
    gcloud("buckets", "delete", name)
    gcloud.fails("404", "buckets", "describe", name)


def test_gcloud_objects(gcloud, key, files, tmp_path, unique):
    name = f"gs://{unique('b')}"
    gcloud("buckets", "create", name, "--location=us-east1", f"--default-encryption-key={key}")
    gcloud("cp", "-r", str(files), name)
    listed = gcloud("ls", "-r", f"{name}/**").split("\n")
    assert f"{name}/files/d/ä b" in listed and f"{name}/files/small" in listed
    assert gcloud("ls", f"{name}/files/").split() == [f"{name}/files/empty", f"{name}/files/small", f"{name}/files/d/"]
    shown = gcloud.json("objects", "describe", f"{name}/files/d/big")
    assert shown["kms_key"] == f"{key}/cryptoKeyVersions/1" and shown["size"] == 9 * MIB
    back = tmp_path / "back"
    back.mkdir()
    gcloud("cp", "-r", f"{name}/files", str(back))
    for path in files.rglob("*"):
        if path.is_file():
            assert (back / "files" / path.relative_to(files)).read_bytes() == path.read_bytes()
    gcloud("cp", f"{name}/files/d/big", f"{name}/copy")
    gcloud("mv", f"{name}/copy", f"{name}/moved")
    gcloud("objects", "update", f"{name}/moved", "--custom-metadata=k=v", "--content-type=text/x")
    shown = gcloud.json("objects", "describe", f"{name}/moved")
    assert (shown["custom_fields"], shown["content_type"]) == ({"k": "v"}, "text/x")
    gcloud("objects", "compose", f"{name}/files/small", f"{name}/files/small", f"{name}/composed")
    assert gcloud.json("objects", "describe", f"{name}/composed")["size"] == 20
    gcloud("rsync", "-r", str(files), f"{name}/synced")
    assert gcloud("du", "-s", f"{name}/synced").split()[0] == str(sum(p.stat().st_size for p in files.rglob("*") if p.is_file()))
    gcloud("rm", "-r", f"{name}/files")
    gcloud("rm", "-r", name)
    gcloud.fails("404", "buckets", "describe", name)


def test_gcloud_composite_uploads(gcloud, tmp_path, unique):
    name = f"gs://{unique('b')}"
    gcloud("buckets", "create", name)
    file = tmp_path / "big"
    file.write_bytes(random.Random(1).randbytes(24 * MIB))
    tool = gcloud
    tool.environment |= {
        "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_ENABLED": "True",
        "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_THRESHOLD": "8M",
        "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_COMPONENT_SIZE": "8M",
        # gcloud forgets to remove parts that it did not upload resumably.
        "CLOUDSDK_STORAGE_RESUMABLE_THRESHOLD": "1M",
    }
    tool("cp", str(file), f"{name}/big")
    assert tool.json("objects", "describe", f"{name}/big")["component_count"] > 1
    tool("cp", f"{name}/big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    assert tool("ls", name).split() == [f"{name}/big"], "the parts are removed"


def test_gcloud_the_service_agent(gcloud, server, project):
    agent = storage_agent(server, project).removeprefix("serviceAccount:")
    assert gcloud("service-agent").strip() == agent


def test_gsutil(gcloud, files, tmp_path, unique):
    """By its own switch to gcloud's code: over its own, gsutil speaks TLS only."""
    if GSUTIL is None:
        pytest.skip("gsutil is not installed")
    boto = tmp_path / "boto"
    boto.write_text("[GSUtil]\nuse_gcloud_storage = True\nstate_dir = " + str(tmp_path / "state") + "\n")
    gsutil = Tool(GSUTIL, environment={**gcloud.environment, "BOTO_CONFIG": str(boto)})
    name = f"gs://{unique('b')}"
    gsutil("mb", "-l", "us-east1", name)
    gsutil("cp", str(files / "d" / "big"), f"{name}/big")
    gsutil("-m", "cp", "-r", str(files), name)
    assert f"{name}/files/small" in gsutil("ls", "-r", f"{name}/**").split()
    assert "Hash (crc32c)" in gsutil("stat", f"{name}/big")
    gsutil("cp", f"{name}/big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (files / "d" / "big").read_bytes()
    gsutil("mv", f"{name}/big", f"{name}/moved")
    gsutil("rm", "-r", name)
