"""Buckets for tests, through the official client."""

import contextlib

import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from harness.kms import project_number


def storage_agent(server, project):
    """Who Cloud Storage is, in the project."""
    return f"serviceAccount:service-{project_number(server, project)}@gs-project-accounts.iam.gserviceaccount.com"


def client(server, project):
    return storage.Client(
        project=project,
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )


@contextlib.contextmanager
def refused(status, *texts, reason=None):
    """Expects an error of that HTTP status that says the texts."""
    # An AssertionError, and not what `pytest.raises` gives: callers try again after one.
    try:
        yield
    except GoogleAPICallError as error:
        assert error.code == status, error
        for text in texts:
            assert text in str(error), error
        if reason is not None:
            assert error.response.json()["error"]["errors"][0]["reason"] == reason, error
    else:
        raise AssertionError(f"not refused with {status}")


class Raw:
    """Requests that no client library would send."""

    def __init__(self, server):
        self.server = server
        self.session = requests.Session()

    def __call__(self, method, path, **options):
        return self.session.request(method, self.server.endpoint + path, timeout=60, **options)

    def start(self, bucket, name, **options):
        """Begins a resumable upload; its address."""
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name={name}"
        reply = self("POST", path, json={}, **options)
        assert reply.status_code == 200, reply.text
        return reply.headers["location"].removeprefix(self.server.endpoint)
