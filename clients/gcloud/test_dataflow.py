"""Google's `gcloud dataflow`, unmodified: a job and its key in lists and descriptions. D6."""

import json
import shutil
import time
import urllib.request

import pytest
from harness.kms import Keys, project_number
from harness.tools import Tool

GCLOUD = shutil.which("gcloud")
pytestmark = [
    pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

REGION = "us-east1"


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


def call(server, path, body=None):
    """Calls the REST API."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.endpoint + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def test_d6_a_job_is_listed_and_described_with_its_key(gcloud, server, project, unique):
    keys = Keys(server, project)
    key = keys.key("k", grant=False)
    number = project_number(server, project)
    keys.grant(key, f"serviceAccount:service-{number}@dataflow-service-producer-prod.iam.gserviceaccount.com")
    jobs = f"/v1b3/projects/{project}/locations/{REGION}/jobs"
    # Its pipeline is not there, so that it ends at once.
    made = call(server, jobs, {
        "name": "shown",
        "environment": {
            "serviceKmsKeyName": key,
            "tempStoragePrefix": f"storage.googleapis.com/{unique('b')}/t",
            "sdkPipelineOptions": {"options": {"pipelineUrl": "gs://nowhere/pipeline.pb"}},
        },
    })
    until = time.monotonic() + 20
    while call(server, f"{jobs}/{made['id']}")["currentState"] != "JOB_STATE_FAILED":
        assert time.monotonic() < until
        time.sleep(0.1)
    [listed] = gcloud.json("dataflow", "jobs", "list", f"--region={REGION}")
    assert (listed["id"], listed["name"], listed["state"]) == (made["id"], "shown", "Failed")
    shown = gcloud.json("dataflow", "jobs", "describe", made["id"], f"--region={REGION}", "--full")
    assert shown["environment"]["serviceKmsKeyName"] == key
    assert gcloud.json("dataflow", "jobs", "show", made["id"], f"--region={REGION}")["state"] == "Failed"
    gcloud.fails("could not be found", "dataflow", "jobs", "describe", "2026-01-01_00_00_00-1", f"--region={REGION}")
