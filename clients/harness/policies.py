"""Organization policies of a project, as plain REST: for tests whose clients are about something else."""

import requests

SERVICES = "gcp.restrictNonCmekServices"
PROJECTS = "gcp.restrictCmekCryptoKeyProjects"
LEVELS = "cloudkms.allowedProtectionLevels"
DURATION = "cloudkms.minimumDestroyScheduledDuration"
DISABLE = "cloudkms.disableBeforeDestroy"


def allow(*values):
    return {"rules": [{"values": {"allowedValues": list(values)}}]}


def deny(*values):
    return {"rules": [{"values": {"deniedValues": list(values)}}]}


ENFORCE = {"rules": [{"enforce": True}]}


class Policies:
    """The policies of one project on one server."""

    def __init__(self, server, project):
        self.endpoint = server.endpoint
        self.project = project

    def name(self, constraint):
        return f"projects/{self.project}/policies/{constraint}"

    def set(self, constraint, spec, part="spec"):
        """Sets a policy where none is."""
        reply = requests.post(
            f"{self.endpoint}/v2/projects/{self.project}/policies",
            json={"name": self.name(constraint), part: spec}, timeout=30,
        )
        assert reply.status_code == 200, reply.text
        return reply.json()

    def delete(self, constraint):
        reply = requests.delete(f"{self.endpoint}/v2/{self.name(constraint)}", timeout=30)
        assert reply.status_code == 200, reply.text


def violates(caught, constraint, project):
    """Asserts that an error is that violation, in Google's words."""
    [(kind, subject, description)] = caught.violations
    assert (kind, subject) == (f"constraints/{constraint}", f"orgpolicy:projects/{project}")
    start = f"Constraint '{kind}' violated for 'projects/{project}' attempting to perform the operation '"
    # Clients over REST put the request in front.
    assert description.startswith(start) and caught.message.endswith(description), caught.message
