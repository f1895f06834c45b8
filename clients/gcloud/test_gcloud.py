"""Google's `gcloud`, unmodified, pointed at the server by what `claviger env` prints: K1, K2, K3, E2, B1, B2, B16."""

import json
import os
import shutil
import sys
import time

import pytest
from harness.bigtable import Bigtable
from harness.kms import Keys, project_number
from harness.tools import Tool

GCLOUD = shutil.which("gcloud")
pytestmark = [
    pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

LOCATION = "--location=us-east1"
RING = ("--keyring=ring", LOCATION)
KEY = ("--key=k", *RING)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    """A directory of its own, so that a user's settings do not count."""
    return tmp_path_factory.mktemp("gcloud")


@pytest.fixture
def gcloud(server, project, configuration):
    environment = {}
    for line in server.run("env", "--project", project).splitlines():
        name, found, value = line.removeprefix("export ").partition("=")
        if found and name.isupper():
            environment[name] = value.strip("'\";")
    assert environment["CLOUDSDK_CORE_PROJECT"] == project
    environment |= {"CLOUDSDK_CONFIG": str(configuration), "CLOUDSDK_CORE_DISABLE_PROMPTS": "true"}
    tool = Tool(GCLOUD, environment=environment)
    tool.json = lambda *arguments: json.loads(tool(*arguments, "--format=json"))
    return tool


def test_k1_k2_a_keys_life(gcloud, project, tmp_path):
    """Create, encrypt, rotate, disable, enable, destroy, restore, schedules and labels, as the documents show."""
    gcloud("kms", "keyrings", "create", "ring", LOCATION)
    gcloud.fails("already exists", "kms", "keyrings", "create", "ring", LOCATION)
    [ring] = gcloud.json("kms", "keyrings", "list", LOCATION)
    assert ring["name"] == f"projects/{project}/locations/us-east1/keyRings/ring"
    assert gcloud.json("kms", "keyrings", "describe", "ring", LOCATION) == ring
    assert "us-east1" in gcloud("kms", "locations", "list", "--format=value(locationId)").split()

    gcloud("kms", "keys", "create", "k", *RING, "--purpose=encryption", "--labels=team=birds")
    gcloud("kms", "keys", "create", "rotating", *RING, "--purpose=encryption", "--rotation-period=30d",
           "--next-rotation-time=2100-01-01T00:00:00Z", "--destroy-scheduled-duration=2d")
    names = [key["name"].rpartition("/")[2] for key in gcloud.json("kms", "keys", "list", *RING)]
    assert names == ["k", "rotating"]
    key = gcloud.json("kms", "keys", "describe", "rotating", *RING)
    assert (key["purpose"], key["rotationPeriod"]) == ("ENCRYPT_DECRYPT", "2592000s")
    assert (key["nextRotationTime"], key["destroyScheduledDuration"]) == ("2100-01-01T00:00:00Z", "172800s")
    gcloud("kms", "keys", "update", "k", *RING, "--update-labels=team=fish", "--rotation-period=9d",
           "--next-rotation-time=2100-01-01T00:00:00Z")
    key = gcloud.json("kms", "keys", "describe", "k", *RING)
    assert (key["labels"], key["rotationPeriod"]) == ({"team": "fish"}, "777600s")
    gcloud("kms", "keys", "remove-rotation-schedule", "k", *RING)
    assert "rotationPeriod" not in gcloud.json("kms", "keys", "describe", "k", *RING)

    plain, aad, sealed, opened = (tmp_path / name for name in ("plain", "aad", "sealed", "opened"))
    plain.write_bytes(b"the plain text \x00\xff")
    aad.write_bytes(b"context")
    files = (f"--additional-authenticated-data-file={aad}", f"--ciphertext-file={sealed}")
    gcloud("kms", "encrypt", *KEY, f"--plaintext-file={plain}", *files)
    assert b"plain text" not in sealed.read_bytes()
    gcloud("kms", "decrypt", *KEY, f"--plaintext-file={opened}", *files)
    assert opened.read_bytes() == plain.read_bytes()
    gcloud.fails("Decryption failed", "kms", "decrypt", *KEY, f"--plaintext-file={opened}", files[1])

    gcloud("kms", "keys", "versions", "create", *KEY, "--primary")
    assert gcloud.json("kms", "keys", "describe", "k", *RING)["primary"]["name"].endswith("/2")
    gcloud("kms", "keys", "set-primary-version", "k", "--version=1", *RING)
    assert gcloud.json("kms", "keys", "describe", "k", *RING)["primary"]["name"].endswith("/1")
    gcloud("kms", "keys", "versions", "disable", "1", *KEY)
    gcloud.fails("is not enabled, current state is: DISABLED", "kms", "decrypt", *KEY, f"--plaintext-file={opened}", *files)
    gcloud("kms", "keys", "versions", "enable", "1", *KEY)
    gcloud("kms", "decrypt", *KEY, f"--plaintext-file={opened}", *files)
    gcloud("kms", "keys", "versions", "destroy", "1", *KEY)
    states = [version["state"] for version in gcloud.json("kms", "keys", "versions", "list", *KEY)]
    assert states == ["DESTROY_SCHEDULED", "ENABLED"]
    gcloud("kms", "keys", "versions", "restore", "1", *KEY)
    assert gcloud.json("kms", "keys", "versions", "describe", "1", *KEY)["state"] == "DISABLED"
    gcloud.fails("not found", "kms", "keys", "describe", "none", *RING)


@pytest.mark.timeout(600)
def test_k1_k2_a_key_of_ones_own_is_imported(gcloud, project, tmp_path):
    """As "Importing a key version" shows: gcloud wraps the key itself, with Python's `cryptography`."""
    gcloud.environment |= {"CLOUDSDK_PYTHON": sys.executable, "CLOUDSDK_PYTHON_SITEPACKAGES": "1"}
    gcloud("kms", "keyrings", "create", "ring", LOCATION)
    gcloud("kms", "keys", "create", "k", *RING, "--purpose=encryption", "--import-only",
           "--skip-initial-version-creation", "--destroy-scheduled-duration=1s")
    assert gcloud.json("kms", "keys", "describe", "k", *RING)["importOnly"] is True
    gcloud.fails("import-only", "kms", "keys", "versions", "create", *KEY)
    gcloud("kms", "import-jobs", "create", "j", *RING, "--import-method=rsa-oaep-3072-sha256-aes-256",
           "--protection-level=software")
    deadline = time.monotonic() + 60
    while (job := gcloud.json("kms", "import-jobs", "describe", "j", *RING))["state"] != "ACTIVE":
        assert time.monotonic() < deadline, "the import job got no key"
    assert job["publicKey"]["pem"].startswith("-----BEGIN PUBLIC KEY-----")
    assert [listed["name"] for listed in gcloud.json("kms", "import-jobs", "list", *RING)] == [job["name"]]

    material, sealed, plain, opened = (tmp_path / name for name in ("material", "sealed", "plain", "opened"))
    material.write_bytes(os.urandom(32))
    plain.write_bytes(b"the plain text")
    load = ("kms", "keys", "versions", "import", *KEY, "--import-job=j", "--algorithm=google-symmetric-encryption")
    gcloud(*load, f"--target-key-file={material}")
    version = gcloud.json("kms", "keys", "versions", "describe", "1", *KEY)
    assert (version["state"], version["importJob"]) == ("ENABLED", job["name"])
    gcloud("kms", "keys", "set-primary-version", "k", "--version=1", *RING)
    gcloud("kms", "encrypt", *KEY, f"--plaintext-file={plain}", f"--ciphertext-file={sealed}")

    gcloud("kms", "keys", "versions", "destroy", "1", *KEY)
    while gcloud.json("kms", "keys", "versions", "describe", "1", *KEY)["state"] != "DESTROYED":
        assert time.monotonic() < deadline + 60, "not destroyed in time"
    gcloud(*load, f"--target-key-file={material}", "--version=1")
    gcloud("kms", "decrypt", *KEY, f"--plaintext-file={opened}", f"--ciphertext-file={sealed}")
    assert opened.read_bytes() == b"the plain text"

    material.write_bytes(b"too short")
    gcloud(*load, f"--target-key-file={material}")
    version = gcloud.json("kms", "keys", "versions", "describe", "2", *KEY)
    assert (version["state"], version["reimportEligible"]) == ("IMPORT_FAILED", True)
    assert "wasn't formatted correctly" in version["importFailureReason"]
    states = [v["state"] for v in gcloud.json("kms", "keys", "versions", "list", *KEY, "--filter=state=ENABLED")]
    assert states == ["ENABLED"]

    member, role = "--member=user:ada@example.com", "--role=roles/cloudkms.importer"
    gcloud("kms", "import-jobs", "add-iam-policy-binding", "j", *RING, member, role)
    policy = gcloud.json("kms", "import-jobs", "get-iam-policy", "j", *RING)
    assert policy["bindings"] == [{"role": "roles/cloudkms.importer", "members": ["user:ada@example.com"]}]
    gcloud("kms", "import-jobs", "remove-iam-policy-binding", "j", *RING, member, role)


def test_k3_policies_of_rings_and_keys(gcloud, server, project):
    gcloud("kms", "keyrings", "create", "ring", LOCATION)
    gcloud("kms", "keys", "create", "k", *RING, "--purpose=encryption")
    agent = f"serviceAccount:service-{project_number(server, project)}@gcp-sa-bigtable.iam.gserviceaccount.com"
    role = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
    gcloud("kms", "keys", "add-iam-policy-binding", "k", *RING, f"--member={agent}", f"--role={role}")
    policy = gcloud.json("kms", "keys", "get-iam-policy", "k", *RING)
    assert policy["bindings"] == [{"role": role, "members": [agent]}]
    gcloud("kms", "keys", "remove-iam-policy-binding", "k", *RING, f"--member={agent}", f"--role={role}")
    assert "bindings" not in gcloud.json("kms", "keys", "get-iam-policy", "k", *RING)
    gcloud("kms", "keyrings", "add-iam-policy-binding", "ring", LOCATION, "--member=user:ada@example.com",
           "--role=roles/cloudkms.viewer")
    policy = gcloud.json("kms", "keyrings", "get-iam-policy", "ring", LOCATION)
    assert policy["bindings"][0]["members"] == ["user:ada@example.com"]


def test_b1_b2_e2_an_instance_under_a_key(gcloud, server, project, unique):
    key = Keys(server, project).key("k")
    instance = unique("i")
    gcloud("bigtable", "instances", "create", instance, "--display-name=Birds",
           f"--cluster-config=id={instance}-c1,zone=us-east1-b,nodes=1,kms-key={key}")
    [listed] = gcloud.json("bigtable", "instances", "list")
    assert (listed["displayName"], listed["state"]) == ("Birds", "READY")
    assert gcloud.json("bigtable", "instances", "describe", instance)["name"] == listed["name"]
    gcloud("bigtable", "instances", "update", instance, "--display-name=More birds")
    assert gcloud.json("bigtable", "instances", "describe", instance)["displayName"] == "More birds"

    cluster = gcloud.json("bigtable", "clusters", "describe", f"{instance}-c1", f"--instance={instance}")
    assert cluster["encryptionConfig"]["kmsKeyName"] == key
    assert [c["name"] for c in gcloud.json("bigtable", "clusters", "list")] == [cluster["name"]]
    gcloud("bigtable", "clusters", "update", f"{instance}-c1", f"--instance={instance}", "--num-nodes=3")
    cluster = gcloud.json("bigtable", "clusters", "describe", f"{instance}-c1", f"--instance={instance}")
    assert cluster["serveNodes"] == 3

    gcloud("bigtable", "tables", "create", "birds", f"--instance={instance}", "--column-families=f:maxversions=2,g")
    [table] = gcloud.json("bigtable", "tables", "list", f"--instances={instance}")
    assert table["name"].endswith("/tables/birds")
    shown = gcloud.json("bigtable", "tables", "describe", "birds", f"--instance={instance}")
    assert shown["columnFamilies"]["f"]["gcRule"] == {"maxNumVersions": 2}
    shown = gcloud.json("bigtable", "tables", "describe", "birds", f"--instance={instance}", "--view=encryption")
    [info] = shown["clusterStates"][f"{instance}-c1"]["encryptionInfo"]
    assert info["encryptionType"] == "CUSTOMER_MANAGED_ENCRYPTION"
    assert info["kmsKeyVersion"] == f"{key}/cryptoKeyVersions/1"
    Bigtable(server.address, project).put(shown["name"], b"wren")
    gcloud("bigtable", "tables", "update", "birds", f"--instance={instance}", "--deletion-protection")
    gcloud.fails("protect", "bigtable", "tables", "delete", "birds", f"--instance={instance}")
    gcloud("bigtable", "tables", "update", "birds", f"--instance={instance}", "--no-deletion-protection")
    gcloud("bigtable", "tables", "delete", "birds", f"--instance={instance}")

    gcloud("bigtable", "app-profiles", "create", "batch", f"--instance={instance}", f"--route-to={instance}-c1",
           "--description=nightly", "--transactional-writes")
    shown = gcloud.json("bigtable", "app-profiles", "describe", "batch", f"--instance={instance}")
    assert (shown["description"], shown["singleClusterRouting"]["clusterId"]) == ("nightly", f"{instance}-c1")
    gcloud("bigtable", "app-profiles", "update", "batch", f"--instance={instance}", f"--route-to={instance}-c1",
           "--description=weekly", "--force")
    names = [p["name"].rpartition("/")[2] for p in gcloud.json("bigtable", "app-profiles", "list", f"--instance={instance}")]
    assert sorted(names) == ["batch", "default"]
    gcloud("bigtable", "app-profiles", "delete", "batch", f"--instance={instance}", "--force")

    gcloud.fails("already exists", "bigtable", "instances", "create", instance, "--display-name=Birds",
                 f"--cluster-config=id={instance}-c1,zone=us-east1-b,nodes=1")
    gcloud("bigtable", "instances", "delete", instance)
    assert gcloud.json("bigtable", "instances", "list") == []


def test_b2_k3_mistakes_with_keys_are_told(gcloud, server, project, unique):
    keys = Keys(server, project)
    far = keys.key("far", location="europe-west1")
    ungranted = keys.key("ungranted", grant=False)
    for key, text in [
        (far, "cannot be used to protect a cluster in zone"),
        (ungranted, "gcp-sa-bigtable.iam.gserviceaccount.com"),
        (f"{ungranted}-none", "ungranted-none"),
    ]:
        instance = unique("i")
        gcloud.fails(text, "bigtable", "instances", "create", instance, "--display-name=Birds",
                     f"--cluster-config=id={instance}-c1,zone=us-east1-b,nodes=1,kms-key={key}")
    assert gcloud.json("bigtable", "instances", "list") == []
