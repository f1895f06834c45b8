"""Organization policies and jobs, by Beam's portable runner and by the Dataflow API over gRPC and REST. K9."""

import pytest

pytest.importorskip("apache_beam")

import apache_beam as beam  # noqa: E402
from harness.beam import Dataflow, agent, buckets, environment, start  # noqa: E402
from harness.errors import refused  # noqa: E402
from harness.kms import Keys  # noqa: E402
from harness.policies import PROJECTS, SERVICES, Policies, allow, deny, violates  # noqa: E402


@pytest.fixture(params=["rest", "grpc"])
def api(request, server, project):
    return Dataflow(server, project, request.param)


@pytest.fixture
def policies(server, project):
    return Policies(server, project)


@pytest.fixture
def key(keys, server, project):
    name = keys.key("k", grant=False)
    keys.grant(name, agent(server, project))
    return name


@pytest.fixture
def foreign(keys, server, project, unique):
    """A key of another project that this project's jobs may use."""
    name = Keys(server, unique("other")).key("k", grant=False)
    keys.grant(name, agent(server, project))
    return name


@pytest.fixture
def bucket(server, project, unique):
    return buckets(server, project).create_bucket(unique("b"), location="us-east1")


def short(pipeline):
    return pipeline | beam.Create([1, 2]) | beam.Map(lambda n: n)


def test_k9_no_job_is_made_without_a_key(api, server, project, policies, key, bucket):
    bucket.blob("p.pb").upload_from_string(b"")
    url = f"gs://{bucket.name}/p.pb"
    policies.set(SERVICES, deny("dataflow.googleapis.com"))
    with refused("FAILED_PRECONDITION") as caught:
        api.create(name="bare", environment=environment(bucket.name, url))
    violates(caught, SERVICES, project)
    assert "'CreateJob'" in caught.message and "'dataflow.googleapis.com'" in caught.message
    assert api.list() == []
    made = api.create(name="protected", environment=environment(bucket.name, url, key))
    assert made.environment.service_kms_key_name == key
    with refused("FAILED_PRECONDITION") as caught:
        start(server, project, short)
    violates(caught, SERVICES, project)
    assert start(server, project, short, f"--dataflow_kms_key={key}").wait_until_finish() == "DONE"


def test_k9_jobs_take_keys_of_allowed_projects_alone(api, server, project, policies, key, foreign, bucket):
    url = f"gs://{bucket.name}/p.pb"
    policies.set(PROJECTS, allow(f"under:projects/{project}"))
    with refused("FAILED_PRECONDITION") as caught:
        api.create(name="elsewhere", environment=environment(bucket.name, url, foreign))
    violates(caught, PROJECTS, project)
    with refused("FAILED_PRECONDITION") as caught:
        start(server, project, short, f"--dataflow_kms_key={foreign}")
    violates(caught, PROJECTS, project)
    policies.delete(PROJECTS)
    assert start(server, project, short, f"--dataflow_kms_key={foreign}").wait_until_finish() == "DONE"
