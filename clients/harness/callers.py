"""Callers of a server that asks for tokens: their keys, the server's file of them, the credentials of clients."""

import base64
import json
import time

import google.auth.credentials
import google.auth.transport.requests
import grpc
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from google.oauth2 import service_account

# With each token the library also asks Google, in the background, where the account may be used. Tests ask nobody but
# their server; that the answer is missing changes nothing.
google.auth.credentials.CredentialsWithRegionalAccessBoundary._is_regional_access_boundary_lookup_required = (
    lambda self: False
)

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
ISSUER = "https://login.example.com"


def _b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value, length=None):
    return _b64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def rsa_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def ec_key():
    return ec.generate_private_key(ec.SECP256R1())


def jwk(key, kid):
    """The public half as a JSON Web Key."""
    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return {"kty": "RSA", "use": "sig", "kid": kid, "n": _number(numbers.n), "e": _number(numbers.e)}
    return {"kty": "EC", "crv": "P-256", "kid": kid, "x": _number(numbers.x, 32), "y": _number(numbers.y, 32)}


def sign(key, claims, **header):
    """A JSON Web Token with any claims and header."""
    scheme = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    parts = [{"alg": scheme, "typ": "JWT", **header}, claims]
    signed = ".".join(_b64(json.dumps(part).encode()) for part in parts).encode()
    if scheme == "RS256":
        signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    else:
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{signed.decode()}.{_b64(signature)}"


class Account:
    """A service account with a key of its own."""

    def __init__(self, name, key=None, kid=None):
        self.email = f"{name}@accounts.iam.gserviceaccount.com"
        self.key = key or rsa_key()
        self.kid = kid or f"{name}-1"

    @property
    def principal(self):
        return f"serviceAccount:{self.email}"

    def info(self, server):
        """What `gcloud iam service-accounts keys create` writes, with the server's token_uri."""
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": self.kid,
            "private_key": pem.decode(),
            "client_email": self.email,
            "client_id": "1",
            "token_uri": f"{server.endpoint}/token",
        }

    def credentials(self, server, scopes=SCOPES):
        """Those of official clients. They sign a token themselves where they can, or exchange one at token_uri."""
        return service_account.Credentials.from_service_account_info(self.info(server), scopes=scopes)

    def claims(self, audience, **more):
        now = int(time.time())
        claims = {"iss": self.email, "sub": self.email, "aud": audience, "iat": now, "exp": now + 3600, **more}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, audience, **more):
        """One that the account signs itself."""
        return sign(self.key, self.claims(audience, **more), kid=self.kid)


class Provider:
    """An identity provider (OpenID Connect)."""

    def __init__(self):
        self.key = ec_key()

    def token(self, subject="s", **more):
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": subject, "aud": "claviger", "iat": now, "exp": now + 600, **more}
        return sign(self.key, claims, kid="login-1")


class File:
    """The file of callers of one server."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "accounts").mkdir(parents=True)
        self.path = folder / "callers.toml"

    def account(self, account):
        (self.folder / "accounts" / f"{account.email}.json").write_text(
            json.dumps({"keys": [jwk(account.key, account.kid)]})
        )

    def provider(self, provider):
        (self.folder / "login.json").write_text(json.dumps({"keys": [jwk(provider.key, "login-1")]}))

    def write(self, administrators=(), bindings=(), issuer=True):
        lines = [f"administrators = {json.dumps(list(administrators))}", 'service_accounts = "accounts"']
        if issuer:
            lines += [f'[[issuers]]\nissuer = "{ISSUER}"', 'audiences = ["claviger"]\nkeys = "login.json"']
            lines += ['email_domains = ["example.com"]']
        for role, members in bindings:
            lines += [f'[[bindings]]\nrole = "{role}"\nmembers = {json.dumps(members)}']
        self.path.write_text("\n".join(lines) + "\n")


class Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Shows a token with each call: on channels in clear, gRPC sends no call credentials."""

    def __init__(self, token):
        self.token = token

    def _named(self, details):
        token = self.token() if callable(self.token) else self.token
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {token}")]
        return details._replace(metadata=metadata)

    def intercept_unary_unary(self, proceed, details, request):
        return proceed(self._named(details), request)

    intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = intercept_unary_unary


def channel(server, token=None):
    """A channel in clear that shows a token, or a function's."""
    plain = grpc.insecure_channel(server.address)
    return plain if token is None else grpc.intercept_channel(plain, Bearer(token))


def refreshed(credentials):
    """A function that gives the credentials' token, a fresh one when it is needed."""
    request = google.auth.transport.requests.Request()

    def token():
        if not credentials.valid:
            credentials.refresh(request)
        return credentials.token

    return token
