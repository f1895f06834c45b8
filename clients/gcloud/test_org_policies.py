"""Google's `gcloud org-policies`, unmodified: policies are set, shown, listed, reset and removed. K9."""

import json
import shutil

import pytest
from harness.policies import DISABLE, SERVICES
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


def test_k9_a_policy_is_set_shown_listed_reset_and_removed(gcloud, project, tmp_path):
    name = f"projects/{project}/policies/{SERVICES}"
    group, own = ("org-policies",), f"--project={project}"

    def file(text):
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return path

    gcloud.fails("NOT_FOUND", *group, "describe", SERVICES, own)
    denied = f"name: {name}\nspec:\n  rules:\n  - values:\n      deniedValues:\n      - is:storage.googleapis.com\n"
    made = gcloud.json(*group, "set-policy", file(denied))
    assert (made["name"], made["spec"]["rules"][0]["values"]["deniedValues"]) == (name, ["is:storage.googleapis.com"])
    gcloud.fails(f"constraints/{SERVICES}", "storage", "buckets", "create", f"gs://{project}-b", "--location=us-east1")

    # What was shown is a file to change and set again; an old one is not.
    shown = gcloud(*group, "describe", f"constraints/{SERVICES}", own)
    assert made["etag"] in shown
    again = gcloud.json(*group, "set-policy", file(shown.replace("storage.", "dataflow.")))
    assert again["etag"] != made["etag"]
    gcloud.fails("etag", *group, "set-policy", file(shown))
    effective = gcloud.json(*group, "describe", SERVICES, "--effective", own)
    assert effective["spec"]["rules"] == [{"values": {"deniedValues": ["dataflow.googleapis.com"]}}]

    gcloud.fails("update_mask", *group, "set-policy", file(f"name: {name}\ndryRunSpec:\n  rules:\n  - denyAll: true\n"))
    tried = gcloud.json(
        *group, "set-policy", file(f"name: {name}\ndryRunSpec:\n  rules:\n  - denyAll: true\n"), "--update-mask=dryRunSpec"
    )
    assert tried["dryRunSpec"]["rules"] == [{"denyAll": True}] and tried["spec"] == again["spec"]
    gcloud(*group, "reset", DISABLE, own)
    listed = {row["constraint"]: row for row in gcloud.json(*group, "list", own)}
    assert sorted(listed) == sorted([SERVICES, DISABLE])
    assert listed[SERVICES]["listPolicy"] == "LIVE_AND_DRY_RUN_SET" and listed[SERVICES]["etag"] == tried["etag"]
    assert len(gcloud.json(*group, "list", "--show-unset", own)) == 5

    reset = gcloud.json(*group, "reset", SERVICES, own, "--update-mask=*")
    assert reset["spec"]["reset"] is True and reset["dryRunSpec"]["reset"] is True
    gcloud("storage", "buckets", "create", f"gs://{project}-b", "--location=us-east1")
    gcloud.fails("etag", *group, "delete", SERVICES, own, f"--etag={made['etag']}")
    gcloud(*group, "delete", SERVICES, own, f"--etag={reset['etag']}")
    assert [row["constraint"] for row in gcloud.json(*group, "list", own)] == [DISABLE]


def test_what_is_not_built_is_said(gcloud, project, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(f"name: projects/{project}/policies/{SERVICES}\nspec:\n  rules:\n  - denyAll: true\n    condition:\n      expression: 'true'\n")
    gcloud.fails("Conditions in policies are not built", "org-policies", "set-policy", path)
    gcloud.fails("projects only", "org-policies", "list", "--organization=123")
    gcloud.fails("projects only", "org-policies", "describe", SERVICES, "--folder=123")
    gcloud.fails("was not found", "org-policies", "reset", "compute.vmExternalIpAccess", f"--project={project}")
