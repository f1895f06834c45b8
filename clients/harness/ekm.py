"""A `claviger ekm serve` process for tests: an external key manager on loopback, and its switches."""

import datetime
import ipaddress
import json
import subprocess
import urllib.request

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.ekm_service.transports import EkmServiceGrpcTransport

from harness.server import binary, environment

READY = "claviger ekm ready "


def grpc_client(server):
    channel = grpc.insecure_channel(server.address)
    return kms_v1.EkmServiceClient(transport=EkmServiceGrpcTransport(channel=channel))


def rest_client(server):
    return kms_v1.EkmServiceClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )


def certificate(folder):
    """A key and a certificate of its own for localhost, in two files; the certificate's DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    (folder / "ekm.pem").write_bytes(made.public_bytes(form))
    (folder / "ekm.key").write_bytes(
        key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made.public_bytes(serialization.Encoding.DER)


class Manager:
    """An external key manager that trusts one server."""

    def __init__(self, folder, server, policy=""):
        self.folder = folder
        self.der = certificate(folder)
        with urllib.request.urlopen(f"{server.endpoint}/ekm/v1/certs", timeout=30) as reply:
            (folder / "certs.json").write_bytes(reply.read())
        (folder / "policy.toml").write_text(policy)
        self.process = None
        self.port = 0
        self.start()

    def start(self):
        command = [str(binary()), "ekm", "serve", "--dir", str(self.folder / "keys"), "--host", "localhost"]
        command += ["--listen", f"127.0.0.1:{self.port}", "--admin", "127.0.0.1:0"]
        for flag, name in [("tls-cert", "ekm.pem"), ("tls-key", "ekm.key"), ("jwks", "certs.json"), ("policy", "policy.toml")]:
            command += [f"--{flag}", str(self.folder / name)]
        with open(self.folder / "ekm.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment()
            )
        line = self.process.stdout.readline()
        assert line.startswith(READY), (self.folder / "ekm.log").read_text()
        uri, _, self.admin = line.removeprefix(READY).split()
        self.hostname = uri.removeprefix("https://").split("/")[0]
        self.port = int(self.hostname.rpartition(":")[2])
        self.uri = uri

    def stop(self):
        if self.process is not None:
            process, self.process = self.process, None
            process.terminate()
            assert process.wait(30) == 0, (self.folder / "ekm.log").read_text()
            process.stdout.close()

    def run(self, *arguments):
        """Runs `claviger ekm ...` against the switches; its standard output as JSON."""
        done = subprocess.run(
            [str(binary()), "ekm", *arguments, "--admin", self.admin, "--format", "json"],
            env=environment(), capture_output=True, text=True, timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def resolver(self, der=None):
        """How a connection finds and trusts this manager."""
        return {"hostname": self.hostname, "server_certificates": [{"raw_der": der or self.der}]}
