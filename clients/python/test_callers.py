"""Callers by bearer token, with the credentials of official clients: who is let in, as whom, and to what (ADR 16)."""

import datetime
import json
import subprocess
import time

import google.auth.credentials
import grpc
import pytest
import requests
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.exceptions import RefreshError
from google.cloud import kms_v1, storage
from google.cloud.bigtable.data import BigtableDataClient, ReadRowsQuery
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.iam.v1 import policy_pb2
from google.oauth2 import service_account
from harness.bigtable import Bigtable, emulator_host
from harness.callers import Account, File, Provider, channel, refreshed, rsa_key, sign
from harness.errors import refused
from harness.kms import PURPOSE, USE
from harness.server import NotReady, binary, environment

KMS = "https://cloudkms.googleapis.com/"


class World:
    """A server with a file of callers: an administrator, an application and a reader, and an identity provider."""

    def __init__(self, start_server, folder):
        self.file = File(folder / "callers")
        self.ops, self.app, self.reader, self.nobody = (Account(n) for n in ("ops", "app", "reader", "nobody"))
        self.provider = Provider()
        for account in (self.ops, self.app, self.reader):
            self.file.account(account)
        self.file.provider(self.provider)
        self.roles = [
            ("roles/bigtable.user", [self.app.principal]),
            ("roles/storage.objectAdmin", [self.app.principal]),
            ("roles/bigtable.reader", [self.reader.principal]),
            ("roles/storage.objectViewer", [self.reader.principal]),
        ]
        self.administrators = [self.ops.principal, "user:ada@example.com"]
        self.file.write(self.administrators, self.roles)
        self.server = start_server("--callers", self.file.path)

    def own(self, account, **more):
        """A token that an account signs for this server."""
        return account.token(self.server.endpoint, **more)

    def kms(self, token=None, transport="grpc"):
        if transport == "grpc":
            transport = KeyManagementServiceGrpcTransport(channel=channel(self.server, token))
            return kms_v1.KeyManagementServiceClient(transport=transport)
        credentials = _Fixed(token)
        options = ClientOptions(api_endpoint=self.server.endpoint)
        return kms_v1.KeyManagementServiceClient(transport="rest", credentials=credentials, client_options=options)

    def get(self, path, token=None, method="GET", **options):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return requests.request(method, self.server.endpoint + path, headers=headers, timeout=30, **options)


class _Fixed(google.auth.credentials.Credentials):
    """Credentials of a token that is there, or of none."""

    def __init__(self, token):
        super().__init__()
        self.token = token
        self.expiry = datetime.datetime(2100, 1, 1)

    def refresh(self, request):
        pass

    def before_request(self, request, method, url, headers):
        if self.token is not None:
            self.apply(headers)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from harness.server import Server

    servers = []

    def start(*flags):
        made = Server(tmp_path_factory.mktemp("callers-server"), "--kms-min-destroy-duration", "1s", *flags).start()
        servers.append(made)
        return made

    yield World(start, tmp_path_factory.mktemp("callers"))
    for server in servers:
        server.stop()


@pytest.fixture
def key(world, project):
    """A key of the administrator's that nobody else may use."""
    ops = world.kms(world.own(world.ops))
    parent = f"projects/{project}/locations/us-east1"
    ops.create_key_ring(parent=parent, key_ring_id="r", key_ring={})
    crypto_key = {"purpose": PURPOSE.ENCRYPT_DECRYPT}
    return ops.create_crypto_key(
        parent=f"{parent}/keyRings/r", crypto_key_id="k", crypto_key=crypto_key
    ).name


def grant(world, key, *members, role=USE):
    policy = policy_pb2.Policy(bindings=[policy_pb2.Binding(role=role, members=members)])
    world.kms(world.own(world.ops)).set_iam_policy(request={"resource": key, "policy": policy})


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_service_accounts_own_token_is_taken_and_iam_decides(world, key, transport):
    app = world.kms(world.own(world.app), transport)
    with refused("PERMISSION_DENIED", "cloudkms.cryptoKeyVersions.useToEncrypt"):
        app.encrypt(name=key, plaintext=b"x", retry=None)
    with refused("PERMISSION_DENIED"):
        app.create_key_ring(parent=key.partition("/keyRings")[0], key_ring_id="other", key_ring={}, retry=None)
    grant(world, key, world.app.principal)
    sealed = app.encrypt(name=key, plaintext=b"x").ciphertext
    assert app.decrypt(name=key, ciphertext=sealed).plaintext == b"x"
    with refused("PERMISSION_DENIED"):
        world.kms(world.own(world.reader), transport).decrypt(name=key, ciphertext=sealed, retry=None)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_tokens_that_are_not_right_are_refused(world, key, transport):
    app, now = world.app, int(time.time())
    own = world.server.endpoint
    stranger = rsa_key()
    claims = app.claims(own)
    wrong = {
        "nothing": None,
        "another key": sign(stranger, claims, kid=app.kid),
        "another kid": sign(app.key, claims, kid="other"),
        "an account that is not known": world.nobody.token(own),
        "another account's key": sign(world.reader.key, claims, kid=world.reader.kid),
        "expired": app.token(own, iat=now - 3700, exp=now - 100),
        "not yet": app.token(own, iat=now + 100, exp=now + 200),
        "too long": app.token(own, exp=now + 3700),
        "another audience": app.token("https://other.example.com"),
        "no audience": app.token(None),
        "another subject": app.token(own, sub=world.ops.email),
        "no algorithm": sign(app.key, claims, kid=app.kid, alg="none"),
        "an HMAC": sign(app.key, claims, kid=app.kid, alg="HS256"),
        "another scheme": sign(app.key, claims, kid=app.kid, alg="ES256"),
        "critical": sign(app.key, claims, kid=app.kid, crit=["x"]),
        "no token": "abc",
        "four parts": app.token(own) + ".x",
        "huge": "a." * 3000 + "a",
    }
    grant(world, key, app.principal)
    for what, token in wrong.items():
        client = world.kms(token, transport)
        with refused("UNAUTHENTICATED") as caught:
            client.get_crypto_key(name=key, retry=None)
        assert "authentication credential" in caught.message, what
        if token and len(token) > 100:
            assert not any(part in caught.message for part in token.split(".") if len(part) > 10), what
        with refused("UNAUTHENTICATED"):
            client.encrypt(name=key, plaintext=b"x", retry=None)
    log = world.server.log()
    assert claims["iss"] not in log and app.token(own).partition(".")[0] not in log


def test_credentials_of_googles_library_are_taken_as_they_are(world, key):
    """The client signs for cloudkms.googleapis.com by itself, or with scopes; others exchange an assertion."""
    grant(world, key, world.app.principal)
    options = ClientOptions(api_endpoint=world.server.endpoint)

    def encrypts(credentials):
        client = kms_v1.KeyManagementServiceClient(transport="rest", credentials=credentials, client_options=options)
        return client.encrypt(name=key, plaintext=b"x").ciphertext

    assert encrypts(world.app.credentials(world.server, scopes=None))
    assert encrypts(world.app.credentials(world.server))
    assert encrypts(_Fixed(refreshed(world.app.credentials(world.server))()))
    stranger = Account("app", kid=world.app.kid)
    for credentials in (
        stranger.credentials(world.server),
        stranger.credentials(world.server, scopes=None),
        world.app.credentials(world.server, scopes=["openid"]),
    ):
        with refused("UNAUTHENTICATED"):
            encrypts(credentials)
    with pytest.raises(RefreshError, match="invalid_grant"):
        refreshed(stranger.credentials(world.server))()
    with pytest.raises(RefreshError, match="invalid_scope"):
        refreshed(world.app.credentials(world.server, scopes=["openid"]))()


def test_a_token_for_one_service_or_scope_is_not_one_for_another(world, key):
    grant(world, key, world.app.principal)
    assert world.kms(world.app.token(KMS)).encrypt(name=key, plaintext=b"x").ciphertext
    scoped = lambda scope: world.app.token(None, scope=f"https://www.googleapis.com/auth/{scope}")  # noqa: E731
    assert world.kms(scoped("cloudkms")).encrypt(name=key, plaintext=b"x").ciphertext
    for token in (world.app.token("https://bigtable.googleapis.com/"), scoped("devstorage.full_control")):
        with refused("PERMISSION_DENIED", "scopes or the audience"):
            world.kms(token).encrypt(name=key, plaintext=b"x", retry=None)
    # An administrator's too.
    with refused("PERMISSION_DENIED"):
        world.kms(world.ops.token("https://storage.googleapis.com/")).get_crypto_key(name=key, retry=None)


def test_an_identity_providers_token_names_a_user_or_a_subject(world, key):
    ada = world.provider.token(email="ada@example.com", email_verified=True)
    assert world.kms(ada).get_crypto_key(name=key).name == key
    for more in ({"email": "ada@example.com"}, {"email": "ada@evil.com", "email_verified": True}):
        with refused("PERMISSION_DENIED"):
            world.kms(world.provider.token(**more)).get_crypto_key(name=key, retry=None)
    bob = world.kms(world.provider.token(email="bob@example.com", email_verified=True))
    with refused("PERMISSION_DENIED"):
        bob.encrypt(name=key, plaintext=b"x", retry=None)
    grant(world, key, "user:bob@example.com")
    assert bob.encrypt(name=key, plaintext=b"x").ciphertext
    subject = world.kms(world.provider.token("repo:a/b"))
    grant(world, key, "principal://login.example.com/subject/repo:a/b")
    assert subject.encrypt(name=key, plaintext=b"x").ciphertext
    with refused("PERMISSION_DENIED"):
        world.kms(world.provider.token("repo:A/b")).encrypt(name=key, plaintext=b"x", retry=None)
    with refused("UNAUTHENTICATED"):
        world.kms(world.provider.token(aud="other")).get_crypto_key(name=key, retry=None)
    with refused("UNAUTHENTICATED"):
        world.kms(Provider().token()).get_crypto_key(name=key, retry=None)
    posing = world.provider.token(email="admin@claviger.local", email_verified=True)
    with refused("PERMISSION_DENIED"):
        world.kms(posing).get_crypto_key(name=key, retry=None)


def test_the_audit_log_names_who_used_a_key(world, key, project):
    grant(world, key, world.app.principal)
    world.kms(world.own(world.app)).encrypt(name=key, plaintext=b"x")
    with refused("PERMISSION_DENIED"):
        world.kms(world.own(world.reader)).encrypt(name=key, plaintext=b"x", retry=None)
    body = {"resourceNames": [f"projects/{project}"], "filter": 'protoPayload.methodName="Encrypt"'}
    assert world.get("/v2/entries:list", world.own(world.app), "POST", json=body).status_code == 403
    reply = world.get("/v2/entries:list", world.own(world.ops), "POST", json=body)
    who = {entry["protoPayload"]["authenticationInfo"]["principalEmail"] for entry in reply.json()["entries"]}
    assert who == {world.app.email, world.reader.email}, reply.text


def test_rows_need_a_role(world, project):
    ops = Bigtable(world.server.address, project, channel(world.server, world.own(world.ops)))
    instance = ops.create_instance("instance")
    table = ops.create_table(instance, "t")
    app = Bigtable(world.server.address, project, channel(world.server, world.own(world.app)))
    reader = Bigtable(world.server.address, project, channel(world.server, world.own(world.reader)))
    nobody = Bigtable(world.server.address, project, channel(world.server, world.provider.token("x")))
    app.put(table, b"r1")
    assert len(list(app.data.read_rows(table_name=table))) == 1
    assert len(list(reader.data.read_rows(table_name=table))) == 1
    with refused("PERMISSION_DENIED", "MutateRow"):
        reader.put(table, b"r2")
    with refused("PERMISSION_DENIED"):
        list(nobody.data.read_rows(table_name=table, retry=None))
    for one in (app, reader):
        with refused("PERMISSION_DENIED"):
            one.create_table(instance, "t2")
        with refused("PERMISSION_DENIED"):
            one.tables.delete_table(name=table, retry=None)
    assert app.tables.get_table(name=table).name == table
    # The same over REST.
    path = f"/v2/{table}:readRows"
    assert world.get(path, world.own(world.reader), "POST", json={}).status_code == 200
    assert world.get(path, world.provider.token("x"), "POST", json={}).status_code == 403
    assert world.get(path, None, "POST", json={}).status_code == 401
    mutate = {"rowKey": "cjI=", "mutations": [{"deleteFromRow": {}}]}
    assert world.get(f"/v2/{table}:mutateRow", world.own(world.reader), "POST", json=mutate).status_code == 403
    # Google's client for rows sends no token in clear (BIGTABLE_EMULATOR_HOST), so it is not let in.
    with emulator_host(world.server.address), BigtableDataClient(project=project) as client:
        with client.get_table("instance", "t") as rows, pytest.raises(exceptions.Unauthenticated):
            rows.read_rows(ReadRowsQuery(), operation_timeout=5)


def test_credentials_of_googles_library_over_grpc_in_clear(world, project):
    """Exchanged at token_uri, and shown by an interceptor: gRPC itself gives no credentials to a channel in clear."""
    token = refreshed(world.app.credentials(world.server))
    app = Bigtable(world.server.address, project, channel(world.server, token))
    with refused("NOT_FOUND"):
        app.put(f"projects/{project}/instances/none/tables/t", b"r")


def bucket_client(world, account, project):
    return storage.Client(
        project=project,
        credentials=account.credentials(world.server),
        client_options=ClientOptions(api_endpoint=world.server.endpoint),
    )


def test_objects_need_a_role_and_clients_exchange_assertions(world, project, unique):
    ops = bucket_client(world, world.ops, project)
    bucket = ops.create_bucket(unique("b"), location="us-east1")
    app = bucket_client(world, world.app, project)
    blob = app.bucket(bucket.name).blob("a")
    blob.upload_from_string("x" * 100)
    large = app.bucket(bucket.name).blob("large", chunk_size=256 * 1024)
    large.upload_from_string("y" * 600_000)
    assert blob.download_as_bytes() == b"x" * 100
    with pytest.raises(exceptions.Forbidden):
        app.create_bucket(unique("b"), location="us-east1")
    with pytest.raises(exceptions.Forbidden):
        app.get_bucket(bucket.name)
    reader = bucket_client(world, world.reader, project)
    theirs = reader.bucket(bucket.name)
    assert theirs.blob("large").download_as_bytes() == b"y" * 600_000
    assert [found.name for found in reader.list_blobs(bucket.name)] == ["a", "large"]
    with pytest.raises(exceptions.Forbidden):
        theirs.blob("b").upload_from_string("z")
    with pytest.raises(exceptions.Forbidden):
        theirs.blob("a").delete()
    with pytest.raises(exceptions.Forbidden):
        with reader.batch():
            theirs.blob("a").delete()
    assert theirs.test_iam_permissions(["storage.objects.get", "storage.objects.delete"]) == ["storage.objects.get"]
    # A resumable upload belongs to no one who only knows its address.
    start = f"/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=n"
    begun = world.get(start, world.own(world.app), "POST", json={})
    path = begun.headers["location"].removeprefix(world.server.endpoint)
    assert world.get(path, None, "PUT", data=b"z").status_code == 401
    assert world.get(path, world.own(world.reader), "PUT", data=b"z").status_code == 403
    assert world.get(path, world.own(world.app), "PUT", data=b"z").status_code == 200
    # A method in a header is the method.
    hidden = {"authorization": f"Bearer {world.own(world.reader)}", "x-http-method-override": "DELETE"}
    sneaky = requests.post(f"{world.server.endpoint}/storage/v1/b/{bucket.name}/o/a", headers=hidden, timeout=30)
    assert sneaky.status_code == 403
    for path in (f"/{bucket.name}/a", f"/download/storage/v1/b/{bucket.name}/o/a?alt=media", "/storage/v1/b?project=p"):
        reply = world.get(path)
        assert reply.status_code == 401, path
        assert reply.json()["error"]["errors"][0]["reason"] == "required"
    assert world.get(f"/{bucket.name}/a", world.own(world.reader)).content == b"x" * 100


def test_what_is_open_and_what_is_not(world):
    assert world.get("/healthz").status_code == world.get("/readyz").status_code == 200
    assert world.get("/ekm/v1/certs").status_code == 200
    for path in ("/metrics", "/audit/v1/checkpoint", "/seal/v1/status", "/v1/projects/p/locations", "/nothing", "/"):
        reply = world.get(path)
        assert reply.status_code == 401, path
        assert reply.headers["www-authenticate"] == 'Bearer realm="claviger"'
        assert reply.json()["error"]["status"] == "UNAUTHENTICATED"
        assert "invalid_token" in world.get(path, "x.y.z").headers["www-authenticate"]
    ops, app = world.own(world.ops), world.own(world.app)
    for path in ("/metrics", "/audit/v1/checkpoint"):
        assert world.get(path, ops).status_code == 200
        assert world.get(path, app).status_code == 403
    assert world.get("/seal/v1/status", app).json()["state"] == "open"
    added = world.get("/seal/v1/seals", app, "POST", json={"passphrase": "not to be"})
    assert added.status_code == 403
    assert world.get("/v2/projects/p/policies", app).status_code == 403
    assert world.get("/v2/projects/p/policies", ops).status_code == 200
    assert world.get("/v1b3/projects/p/locations/us-east1/jobs", app).status_code == 403
    assert world.get("/v1b3/projects/p/locations/us-east1/jobs", ops).status_code == 200
    # Not by a token in the address, which others log.
    assert world.get(f"/metrics?access_token={ops}").status_code == 401


def test_workers_are_known_by_a_name_that_nobody_guesses(world):
    call = channel(world.server).stream_stream("/org.apache.beam.model.fn_execution.v1.BeamFnControl/Control")
    named = (("worker_id", "w"),)
    for metadata, code in ((), grpc.StatusCode.UNAUTHENTICATED), (named, grpc.StatusCode.PERMISSION_DENIED):
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter(()), metadata=metadata, timeout=10))
        assert caught.value.code() == code
    submit = channel(world.server).unary_unary("/org.apache.beam.model.job_management.v1.JobService/GetJobs")
    with pytest.raises(grpc.RpcError) as caught:
        submit(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_token_endpoint_tells_what_is_wrong_with_a_request(world):
    grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer"

    def ask(**form):
        return requests.post(f"{world.server.endpoint}/token", data=form, timeout=30)

    scope = "https://www.googleapis.com/auth/cloud-platform"
    good = world.app.token(f"{world.server.endpoint}/token", scope=scope)
    reply = ask(grant_type=grant_type, assertion=good)
    assert reply.status_code == 200 and reply.headers["cache-control"] == "no-store"
    told = reply.json()
    assert (told["token_type"], told["expires_in"]) == ("Bearer", 3600)
    with refused("NOT_FOUND"):
        app = Bigtable(world.server.address, "p", channel(world.server, told["access_token"]))
        app.put("projects/p/instances/x/tables/t", b"r")
    stranger = world.nobody.token(f"{world.server.endpoint}/token", scope=scope)
    for form, error in (
        ({}, "invalid_request"),
        ({"grant_type": grant_type}, "invalid_request"),
        ({"grant_type": "password", "assertion": good}, "unsupported_grant_type"),
        ({"grant_type": grant_type, "assertion": "x"}, "invalid_grant"),
        ({"grant_type": grant_type, "assertion": stranger}, "invalid_grant"),
        ({"grant_type": grant_type, "assertion": world.own(world.app, scope=scope)}, "invalid_grant"),
        ({"grant_type": grant_type, "assertion": world.app.token(f"{world.server.endpoint}/token")}, "invalid_scope"),
        ({"grant_type": grant_type, "assertion": "a" * 40_000}, "invalid_request"),
    ):
        reply = ask(**form)
        assert (reply.status_code, reply.json()["error"]) == (400, error), reply.text
    assert world.get("/token").status_code == 405


def test_a_removed_key_is_refused_soon_and_a_broken_file_changes_nothing(start_server, tmp_path):
    world = World(start_server, tmp_path)
    token, issued = world.own(world.ops), refreshed(world.ops.credentials(world.server))()
    for shown in (token, issued):
        assert world.get("/metrics", shown).status_code == 200
    world.file.path.write_text("bindings = 7")
    time.sleep(11)
    assert world.get("/metrics", token).status_code == 200
    world.file.write(world.administrators, world.roles)
    fresh = Account("ops", kid="ops-2")
    world.file.account(fresh)
    deadline = time.monotonic() + 30
    while world.get("/metrics", token).status_code == 200:
        assert time.monotonic() < deadline, "the old key is still taken"
        time.sleep(0.2)
    assert world.get("/metrics", issued).status_code == 401
    assert world.get("/metrics", world.own(fresh)).status_code == 200


def test_a_wrong_file_ends_the_start(start_server, tmp_path):
    file = File(tmp_path / "callers")
    file.account(Account("ops"))
    for text, why in (
        ("", "nobody could call"),
        ('service_accounts = "none"', "none"),
        ('service_accounts = "accounts"\nowner = 1', "unknown field"),
        ('service_accounts = "accounts"\nadministrators = ["ada"]', "principal"),
    ):
        file.path.write_text(text)
        with pytest.raises(NotReady) as caught:
            start_server("--callers", file.path)
        assert why in str(caught.value)
    file.path.write_text('service_accounts = "accounts"')
    private = file.folder / "accounts" / "x@accounts.iam.gserviceaccount.com.json"
    private.write_text(json.dumps({"type": "service_account", "private_key": "x"}))
    with pytest.raises(NotReady) as caught:
        start_server("--callers", file.path)
    assert "private key" in str(caught.value)


def run(world, *arguments, token_file=None, expect=0):
    told = environment(CLAVIGER_ENDPOINT=world.server.endpoint, CLAVIGER_PROJECT="p")
    if token_file:
        told["CLAVIGER_TOKEN_FILE"] = str(token_file)
    done = subprocess.run([str(binary()), *arguments], env=told, capture_output=True, text=True, timeout=60)
    assert done.returncode == expect, done.stderr
    return done.stdout, done.stderr


def test_the_command_line_shows_a_token(world, tmp_path, unique):
    token = tmp_path / "token"
    token.write_text(world.own(world.ops) + "\n")
    ring, bucket = unique("ring"), unique("b")
    commands = (
        ("kms", "keyrings", "create", ring, "--location", "us-east1"),
        ("bigtable", "instances", "list"),
        ("storage", "buckets", "create", f"gs://{bucket}", "--location", "us-east1"),
        ("storage", "ls"),
        ("dataflow", "jobs", "list"),
        ("logging", "read", "severity>=ERROR"),
        ("org-policies", "list"),
        ("audit", "checkpoint"),
        ("seal", "status"),
        ("billing", "report"),
    )
    for command in commands:
        _, errors = run(world, *command, expect=1)
        assert "authentication credential" in errors, command
        run(world, *command, token_file=token)
    token.write_text(world.own(world.app))
    _, errors = run(world, "org-policies", "list", token_file=token, expect=1)
    assert "Permission" in errors
    text, note = run(world, "env", token_file=token)
    assert f"export CLAVIGER_TOKEN_FILE={token}" in text and "DISABLE_CREDENTIALS" not in text
    assert f"{world.server.endpoint}/token" in note
    token.write_text("\n")
    run(world, "seal", "status", token_file=token, expect=1)
    token.unlink()
    run(world, "kms", "keyrings", "list", "--location", "us-east1", token_file=token, expect=1)


def test_a_sealed_server_asks_for_tokens_too(start_server, tmp_path):
    world = World(start_server, tmp_path)
    passphrase = world.get("/seal/v1/seals", world.own(world.ops), "POST", json={"passphrase": "open sesame please"})
    assert passphrase.status_code == 200, passphrase.text
    seals = world.get("/seal/v1/status", world.own(world.ops)).json()["seals"]
    local = next(seal["id"] for seal in seals if seal["kind"] != "passphrase")
    assert world.get(f"/seal/v1/seals/{local}", world.own(world.ops), "DELETE").status_code == 200
    endpoint = world.server.endpoint
    world.server.stop()
    command = [str(binary()), "serve", "--listen", endpoint.removeprefix("http://"), *world.server.flags]
    command += ["--data-dir", str(world.server.data_dir), "--kms-dir", str(world.server.kms_dir)]
    with open(world.server.log_file, "ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment())
    try:
        assert process.stdout.readline().startswith("claviger sealed")
        assert world.get("/healthz").status_code == 200
        assert world.get("/readyz").status_code == 503
        for path in ("/seal/v1/status", "/v1/projects/p/locations"):
            assert world.get(path).status_code == 401
        assert world.get("/seal/v1/unseal", None, "POST", json={"passphrase": "open sesame please"}).status_code == 401
        # Whoever is known and has the passphrase may: the passphrase is the proof.
        opened = world.get("/seal/v1/unseal", world.own(world.app), "POST", json={"passphrase": "open sesame please"})
        assert opened.status_code == 200, opened.text
        assert process.stdout.readline().startswith("claviger ready")
    finally:
        process.terminate()
        process.wait(30)
    assert process.returncode == 0


def test_keys_and_tokens_are_made_without_other_tools(start_server, tmp_path):
    """From nothing to an administrator: what an operator without gcloud does."""
    email = "boss@accounts.iam.gserviceaccount.com"
    (tmp_path / "accounts").mkdir()
    private, public = tmp_path / "boss.json", tmp_path / "accounts" / f"{email}.json"
    make = ["iam", "service-accounts", "keys", "create", private, "--iam-account", email, "--public-key-file", public]
    subprocess.run([str(binary()), *map(str, make)], env=environment(), check=True, timeout=60)
    assert private.stat().st_mode & 0o077 == 0
    file = tmp_path / "callers.toml"
    file.write_text(f'administrators = ["serviceAccount:{email}"]\nservice_accounts = "accounts"\n')
    server = start_server("--callers", file)
    token = tmp_path / "token"
    token.write_text(server.run("auth", "print-access-token", "--key-file", str(private)))
    server.run("kms", "keyrings", "create", "r", "--location", "us-east1", "--token-file", str(token))
    # Google's library reads the same file.
    credentials = service_account.Credentials.from_service_account_file(str(private))
    options = ClientOptions(api_endpoint=server.endpoint)
    client = kms_v1.KeyManagementServiceClient(transport="rest", credentials=credentials, client_options=options)
    assert client.get_key_ring(name="projects/p1/locations/us-east1/keyRings/r").name
