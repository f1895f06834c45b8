"""Certificates for tests, made when they are needed and good for a day: authorities, servers, clients."""

import datetime
import ipaddress

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PEM = serialization.Encoding.PEM


class Identity:
    """A certificate and its key, in two files."""

    def __init__(self, cert, key):
        self.cert = cert
        self.key = key


class Authority:
    """Vouches for others; its own certificate is in the file `ca`."""

    def __init__(self, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        self.private = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, subject, self.private.public_key())
        made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.subject = subject
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(made.sign(self.private, hashes.SHA256()).public_bytes(PEM))

    @staticmethod
    def _builder(subject, issuer, public):
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def issue(self, name, *names):
        """A certificate with that common name, for `names`: of `x509.DNSName` and the like."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, self.subject, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = Identity(self.folder / f"{self.name}-{name}.pem", self.folder / f"{self.name}-{name}.key")
        made.cert.write_bytes(builder.sign(self.private, hashes.SHA256()).public_bytes(PEM))
        made.key.write_bytes(
            key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return made

    def server(self, name="server"):
        """A certificate for this machine."""
        return self.issue(name, x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

    def client(self, name, uri=None):
        """A certificate that names somebody by a URI, or by the common name alone."""
        return self.issue(name, *([] if uri is None else [x509.UniformResourceIdentifier(uri)]))


def channel(server, authority, identity=None):
    """A gRPC channel over TLS."""
    shown = {}
    if identity is not None:
        shown = {"private_key": identity.key.read_bytes(), "certificate_chain": identity.cert.read_bytes()}
    credentials = grpc.ssl_channel_credentials(root_certificates=authority.ca.read_bytes(), **shown)
    return grpc.secure_channel(server.address, credentials)
