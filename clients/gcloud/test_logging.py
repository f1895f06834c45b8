"""Google's `gcloud logging`, unmodified: the audit log of a key. K6."""

import json
import shutil

import pytest
from harness.kms import Keys
from harness.tools import Tool

GCLOUD = shutil.which("gcloud")
pytestmark = [
    pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


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
    environment |= {"CLOUDSDK_CONFIG": str(configuration), "CLOUDSDK_CORE_DISABLE_PROMPTS": "true"}
    tool = Tool(GCLOUD, environment=environment)
    tool.json = lambda *arguments: json.loads(tool(*arguments, "--format=json"))
    return tool


def test_k6_entries_are_read_by_filter_order_and_limit(gcloud, server, project):
    keys = Keys(server, project)
    key = keys.key("k", grant=False)
    for _ in range(3):
        keys.client.encrypt(name=key, plaintext=b"x")
    keys.disable(key)

    read = ("logging", "read")
    entries = gcloud.json(*read, f"--project={project}")
    methods = [entry["protoPayload"]["methodName"] for entry in entries]
    assert methods == ["UpdateCryptoKeyVersion", *["Encrypt"] * 3, "CreateCryptoKey", "CreateKeyRing"]
    assert entries[1]["resource"]["labels"]["crypto_key_id"] == "k"
    wanted = f'protoPayload.methodName="Encrypt" AND protoPayload.resourceName="{key}"'
    found = gcloud.json(*read, wanted, "--limit=2", "--order=asc", f"--project={project}")
    assert [entry["insertId"] for entry in found] == [entry["insertId"] for entry in entries[3:1:-1]]
    assert gcloud.json(*read, "severity>=ERROR", "--freshness=1h", f"--project={project}") == []
    assert gcloud("logging", "logs", "list", f"--project={project}", "--format=value(NAME)").count("cloudaudit") == 2
    gcloud.fails("line 1", *read, "severity>=LOUD", "--order=asc", f"--project={project}")
    gcloud.fails("not built", "logging", "write", "mine", "hello", f"--project={project}")
