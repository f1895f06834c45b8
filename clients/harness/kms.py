"""Keys for tests, through the official KMS client over gRPC or REST."""

import json
import os
import time
import urllib.request

import grpc
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.iam.v1 import policy_pb2
from google.protobuf import field_mask_pb2

USE = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
STATE = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
PURPOSE = kms_v1.CryptoKey.CryptoKeyPurpose
METHOD = kms_v1.ImportJob.ImportMethod
JOB = kms_v1.ImportJob.ImportJobState
SYMMETRIC = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.GOOGLE_SYMMETRIC_ENCRYPTION
# How long a key pair of 4096 bits may take on a busy machine.
GENERATION_SECONDS = 60


def grpc_client(server):
    channel = grpc.insecure_channel(server.address)
    return kms_v1.KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))


def rest_client(server):
    return kms_v1.KeyManagementServiceClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )


def project_number(server, project):
    """The number that the server gave the project."""
    with urllib.request.urlopen(f"{server.endpoint}/v3/projects/{project}", timeout=10) as reply:
        return json.load(reply)["name"].removeprefix("projects/")


def bigtable_agent(server, project):
    """Who the Bigtable service is, in the project."""
    number = project_number(server, project)
    return f"serviceAccount:service-{number}@gcp-sa-bigtable.iam.gserviceaccount.com"


def wrap(job, material):
    """Material wrapped to the public key of an import job, as the documents of its method say."""
    method = kms_v1.ImportJob.ImportMethod(job.import_method).name
    digest = hashes.SHA1() if "SHA1" in method else hashes.SHA256()
    public = serialization.load_pem_public_key(job.public_key.pem.encode())
    oaep = padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)
    if not method.endswith("AES_256"):
        return public.encrypt(material, oaep)
    ephemeral = os.urandom(32)
    return public.encrypt(ephemeral, oaep) + keywrap.aes_key_wrap_with_padding(ephemeral, material)


class Keys:
    """The keys of one project on one server."""

    def __init__(self, server, project, client=None):
        self.server = server
        self.project = project
        self.client = client or grpc_client(server)

    def location(self, location="us-east1"):
        return f"projects/{self.project}/locations/{location}"

    def ring(self, ring="ring", location="us-east1"):
        """Makes a key ring if it is not there; its name."""
        from google.api_core import exceptions

        try:
            self.client.create_key_ring(parent=self.location(location), key_ring_id=ring, key_ring={})
        except exceptions.Conflict:
            pass
        return f"{self.location(location)}/keyRings/{ring}"

    def key(self, key, location="us-east1", ring="ring", grant=True, **fields):
        """Makes a key, granted to Bigtable unless told otherwise; its name."""
        parent = self.ring(ring, location)
        made = self.client.create_crypto_key(
            parent=parent, crypto_key_id=key, crypto_key={"purpose": PURPOSE.ENCRYPT_DECRYPT, **fields}
        )
        if grant:
            self.grant(made.name)
        return made.name

    def grant(self, resource, member=None, role=USE):
        """Adds a binding, as `add-iam-policy-binding` does."""
        member = member or bigtable_agent(self.server, self.project)
        policy = self.client.get_iam_policy(request={"resource": resource})
        policy.bindings.append(policy_pb2.Binding(role=role, members=[member]))
        return self.client.set_iam_policy(request={"resource": resource, "policy": policy})

    def revoke(self, resource):
        """Takes all bindings away."""
        policy = self.client.get_iam_policy(request={"resource": resource})
        del policy.bindings[:]
        return self.client.set_iam_policy(request={"resource": resource, "policy": policy})

    def versions(self, key):
        return list(self.client.list_crypto_key_versions(parent=key))

    def set_state(self, version, state):
        changed = kms_v1.CryptoKeyVersion(name=version, state=state)
        mask = field_mask_pb2.FieldMask(paths=["state"])
        return self.client.update_crypto_key_version(crypto_key_version=changed, update_mask=mask)

    def disable(self, key):
        """Disables every enabled version."""
        for version in self.versions(key):
            if version.state == STATE.ENABLED:
                self.set_state(version.name, STATE.DISABLED)

    def enable(self, key):
        """Enables every disabled version."""
        for version in self.versions(key):
            if version.state == STATE.DISABLED:
                self.set_state(version.name, STATE.ENABLED)

    def rotate(self, key):
        """A new version, made the primary one; its name."""
        version = self.client.create_crypto_key_version(parent=key, crypto_key_version={})
        number = version.name.rpartition("/")[2]
        self.client.update_crypto_key_primary_version(name=key, crypto_key_version_id=number)
        return version.name

    def destroy(self, key):
        """Schedules every version for destruction."""
        for version in self.versions(key):
            if version.state in (STATE.ENABLED, STATE.DISABLED):
                self.client.destroy_crypto_key_version(name=version.name)

    def import_job(self, job, method=METHOD.RSA_OAEP_3072_SHA256_AES_256):
        """Makes an import job and waits for its key pair."""
        made = self.client.create_import_job(
            parent=self.ring(),
            import_job_id=job,
            import_job={"import_method": method, "protection_level": kms_v1.ProtectionLevel.SOFTWARE},
        )
        deadline = time.monotonic() + GENERATION_SECONDS
        while made.state == JOB.PENDING_GENERATION:
            assert time.monotonic() < deadline, "the import job got no key"
            time.sleep(0.05)
            made = self.client.get_import_job(name=made.name)
        return made

    def import_version(self, key, job, wrapped, **fields):
        """Imports wrapped material."""
        request = {"parent": key, "algorithm": SYMMETRIC, "import_job": job.name, "wrapped_key": wrapped, **fields}
        return self.client.import_crypto_key_version(request=request)
