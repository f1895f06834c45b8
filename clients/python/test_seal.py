"""Root seals: several at once, shares, starting sealed, unsealing, and keys elsewhere. Through the CLI and HTTP."""

import base64
import contextlib
import datetime
import http.client
import json
import os
import queue
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from harness.kms import Keys
from harness.server import NotReady, Server, binary, environment
from harness.token import Token

PASSPHRASE = "a long passphrase, for a test"
OTHER = "another passphrase"
SEALED = "claviger sealed "
READY = "claviger ready "


class Sealed(Server):
    """A server that starts without what opens it, and says so."""

    def start_sealed(self, *flags):
        command = [str(binary()), "serve", "--listen", "127.0.0.1:0", "--services", "kms"]
        command += ["--data-dir", str(self.data_dir), "--kms-dir", str(self.kms_dir), *self.flags, *map(str, flags)]
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment()
            )
        self.lines = queue.Queue()

        def drain(stdout):
            for line in stdout:
                self.lines.put(line)
            self.lines.put("")

        threading.Thread(target=drain, args=(self.process.stdout,), daemon=True).start()
        line = self.lines.get(timeout=30)
        assert line.startswith(SEALED), f"{line!r}\n{self.log()}"
        self.endpoint = line[len(SEALED):].strip()
        return self

    def cli(self, *arguments, given=""):
        """A command with standard input: exit status, standard output, standard error."""
        done = subprocess.run(
            [str(binary()), *arguments], input=given, capture_output=True, text=True, timeout=120,
            env=environment(CLAVIGER_ENDPOINT=self.endpoint),
        )
        assert "panicked" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def ok(self, *arguments, given=""):
        status, out, err = self.cli(*arguments, given=given)
        assert status == 0, err + out
        return out

    def refused(self, *arguments, given=""):
        status, _, err = self.cli(*arguments, given=given)
        assert status == 1, err
        return err

    def http(self, method, path, body=None, kind="application/json"):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request(method, path, body=None if body is None else json.dumps(body), headers={"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")

    def kinds(self):
        return [seal["kind"] for seal in json.loads(self.ok("seal", "list", "--format", "json"))]


@pytest.fixture
def make(tmp_path_factory):
    """Makes servers of keys alone, which end with the test."""
    made = []

    def new(*flags, **options):
        server = Sealed(tmp_path_factory.mktemp("seal"), "--kms-min-destroy-duration", "1s", *flags, **options)
        made.append(server)
        return server

    yield new
    for server in made:
        server.stop()


@pytest.fixture
def phrase(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


def start(server, *flags):
    return server.start("--services", "kms", *flags)


@pytest.fixture
def encrypted(make, phrase):
    """A server under a passphrase that was stopped, a key of it, and a ciphertext."""
    server = start(make(), "--root-passphrase-file", phrase)
    keys = Keys(server, "p1")
    name = keys.key("k", grant=False)
    ciphertext = keys.client.encrypt(name=name, plaintext=b"secret").ciphertext
    server.stop()
    return server, name, ciphertext


def opens(server, name, ciphertext):
    assert Keys(server, "p1").client.decrypt(name=name, ciphertext=ciphertext).plaintext == b"secret"


def test_a_server_without_its_passphrase_starts_sealed_and_is_opened_without_a_restart(encrypted):
    server, name, ciphertext = encrypted
    server.start_sealed()
    pid = server.pid
    assert server.http("GET", "/healthz") == (200, "ok\n")
    status, text = server.http("GET", "/readyz")
    assert status == 503 and "sealed" in text
    status, text = server.http("GET", "/v1/projects/p1/locations")
    told = json.loads(text)["error"]
    assert (status, told["status"]) == (503, "UNAVAILABLE") and "claviger unseal" in told["message"]
    with pytest.raises(Exception) as caught:
        Keys(server, "p1").client.decrypt(name=name, ciphertext=ciphertext, retry=None, timeout=10)
    assert "The server is sealed" in str(caught.value)
    assert "The server is sealed" in server.refused("kms", "keyrings", "list", "--location", "us-east1")
    assert "The server is sealed" in server.refused("seal", "add", "local-key")
    assert server.ok("seal", "status").startswith("The server is sealed.")

    wrong = server.refused("unseal", given="not it\n")
    assert "the passphrase does not open this KMS" in wrong and "not it" not in wrong
    assert "try again in" in server.refused("unseal", given=PASSPHRASE)
    time.sleep(1.1)
    assert server.cli("unseal", given=PASSPHRASE)[2].strip() == "The server is open: seal [1] was opened."
    assert server.lines.get(timeout=30).startswith(READY)
    assert server.http("GET", "/readyz")[0] == 200
    assert server.pid == pid
    opens(server, name, ciphertext)
    assert server.ok("seal", "status").startswith("The server is open.")
    assert "not sealed" in server.refused("unseal", given=PASSPHRASE)
    assert PASSPHRASE not in server.log() and "not it" not in server.log()
    # Sealed, it had no log to write to; afterwards it tells who opened it.
    bundle = server.http("GET", "/audit/v1/checkpoint")[1]
    count = int(bundle.splitlines()[1])
    entries = server.http("GET", f"/audit/v1/tile/entries/000.p/{count}")[1]
    assert '"Unseal"' in entries and "seals/1" in entries


def test_a_wrong_passphrase_file_ends_the_start_and_a_sealed_server_stops_in_order(encrypted, tmp_path):
    server, _, _ = encrypted
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    with pytest.raises(NotReady) as caught:
        start(server, "--root-passphrase-file", wrong)
    assert caught.value.status == 1 and "the passphrase does not open this KMS" in caught.value.log
    server.start_sealed()
    for name in (signal.SIGTERM, signal.SIGINT):
        server.process.send_signal(name)
        assert server.process.wait(20) == 0
        server.process = None
        server.start_sealed()


def test_any_one_of_several_seals_opens_and_a_removed_one_does_not(encrypted, phrase, tmp_path):
    server, name, ciphertext = encrypted
    start(server, "--root-passphrase-file", phrase)
    material = {path: path.read_bytes() for path in (server.kms_dir / "material").rglob("*") if path.is_file()}
    key_file = tmp_path / "root.key"
    key_file.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    server.ok("seal", "add", "key-file", str(key_file))
    server.ok("seal", "add", "passphrase", given=OTHER + "\n")
    assert server.kinds() == ["passphrase", "key-file", "passphrase"]
    assert {path: path.read_bytes() for path in material} == material, "a change of seals touched key material"
    server.stop()
    for given in (PASSPHRASE, OTHER):
        server.start_sealed()
        server.ok("unseal", given=given)
        opens(server, name, ciphertext)
        server.stop()
    start(server, "--root-key-file", key_file)
    opens(server, name, ciphertext)
    server.ok("seal", "remove", "1")
    server.ok("seal", "add", "passphrase", "--replace", "3", given="a third one")
    assert "there is no seal 1" in server.refused("seal", "remove", "1")
    server.stop()
    server.start_sealed()
    for given in (PASSPHRASE, OTHER):
        assert "does not open this KMS" in server.refused("unseal", given=given)
        time.sleep(2.1)
    server.ok("unseal", "--key-file", str(key_file))
    opens(server, name, ciphertext)
    server.ok("seal", "remove", "2")
    assert "the last one" in server.refused("seal", "remove", "4")
    server.stop()
    server.start_sealed()
    server.ok("unseal", given="a third one")
    opens(server, name, ciphertext)


def test_a_server_that_starts_by_itself_is_sealed_once_its_key_is_removed(make):
    server = start(make())
    assert (server.kms_dir / "root.key").exists()
    status, _, told = server.cli("seal", "add", "passphrase", given=PASSPHRASE)
    assert status == 0 and "seal remove 1" in told
    server.restart("--services", "kms")
    server.ok("seal", "remove", "1")
    assert not (server.kms_dir / "root.key").exists()
    server.stop()
    server.start_sealed()
    server.ok("unseal", given=PASSPHRASE)


def test_three_of_five_shares_open_and_wrong_ones_are_told_by_number(encrypted, phrase):
    server, name, ciphertext = encrypted
    start(server, "--root-passphrase-file", phrase)
    old = server.ok("seal", "shares", "--shares", "3", "--threshold", "2").split()
    shares = server.ok("seal", "shares", "--shares", "5", "--threshold", "3", "--replace", "2").split()
    assert len(shares) == 5 and len({share.split("-")[1] for share in shares}) == 1
    assert [share.split("-")[2] for share in shares] == list("12345")
    on_disk = (server.kms_dir / "root.json").read_text()
    assert not any(share.split("-")[4] in on_disk for share in shares)
    assert "2 of 1" not in server.refused("seal", "shares", "--shares", "2", "--threshold", "3")
    server.stop()
    server.start_sealed()
    # Two of them are not enough, by whatever way they come.
    status, _, told = server.cli("unseal", given=f"{shares[4]}\n{shares[1]}\n")
    assert status == 0 and "2 of 3 shares: 2, 5" in told
    assert server.ok("seal", "status").startswith("The server is sealed, 2 of 3 shares: 2, 5.")
    assert "share 2 is of the set" in server.refused("unseal", given=old[1])
    mistyped = shares[3][:-1] + ("0" if shares[3][-1] != "0" else "1")
    assert "share 4 was not read as it was written" in server.refused("unseal", given=mistyped)
    assert "Share 5 was given already" in server.refused("unseal", given=shares[4])
    assert server.http("GET", "/readyz")[0] == 503
    server.ok("unseal", given=shares[0].upper() + "\n")
    opens(server, name, ciphertext)
    log = server.log()
    assert not any(share.split("-")[4] in log for share in shares)
    server.stop()
    server.start_sealed()
    server.ok("unseal", given="\n".join([shares[2], shares[3], shares[4]]))
    opens(server, name, ciphertext)


def test_wrong_passphrases_are_no_lever_against_the_machine(encrypted):
    server, _, _ = encrypted
    server.start_sealed()
    answers = []

    def attempt():
        answers.append(server.http("POST", "/seal/v1/unseal", {"passphrase": "wrong"})[0])

    threads = [threading.Thread(target=attempt) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [400] + [429] * 39
    # What a page in a browser can send without asking.
    status, _ = server.http("POST", "/seal/v1/unseal", {"passphrase": PASSPHRASE}, kind="text/plain")
    assert status == 400
    assert server.http("GET", "/readyz")[0] == 503


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda text: text[: len(text) // 2], "root.json of the KMS cannot be read"),
        (lambda text: text.replace('"passes": 3', '"passes": 2'), "its checksum does not fit"),
        (lambda text: text.replace('"format": 2', '"format": 7'), "use a newer program"),
    ],
)
def test_a_damaged_file_is_told_from_a_wrong_passphrase(encrypted, phrase, change, sentence):
    server, name, ciphertext = encrypted
    file = server.kms_dir / "root.json"
    good = file.read_text()
    file.write_text(change(good))
    for flags in (["--root-passphrase-file", str(phrase)], []):
        with pytest.raises(NotReady) as caught:
            start(server, *flags)
        assert caught.value.status == 1 and sentence in caught.value.log
    file.write_text(good)
    start(server, "--root-passphrase-file", phrase)
    opens(server, name, ciphertext)


def test_a_kill_in_the_middle_of_changes_leaves_a_kms_that_opens(make, tmp_path):
    server = start(make())
    keys = Keys(server, "p1")
    name = keys.key("k", grant=False)
    ciphertext = keys.client.encrypt(name=name, plaintext=b"secret").ciphertext
    files = []
    for n in range(2):
        files.append(tmp_path / f"key-{n}")
        files[n].write_bytes(bytes([n + 1]) * 32)
    for round in range(6):
        done = []

        def change():
            body = {"localKey": True} if round % 2 else {"keyFile": base64.b64encode(bytes([1]) * 32).decode()}
            try:
                while True:
                    seals = json.loads(server.http("GET", "/seal/v1/status")[1])["seals"]
                    status, _ = server.http("POST", "/seal/v1/seals", {**body, "replace": seals[0]["id"]})
                    done.append(status)
                    body = {"keyFile": base64.b64encode(bytes([1 + len(done) % 2]) * 32).decode()}
            except (OSError, http.client.HTTPException, ValueError):
                pass

        thread = threading.Thread(target=change)
        thread.start()
        time.sleep(0.05 + 0.07 * round)
        server.kill()
        thread.join()
        opened = False
        for flags in ([], ["--root-key-file", files[0]], ["--root-key-file", files[1]]):
            try:
                if flags:
                    start(server, *flags)
                else:
                    kinds = [seal["kind"] for seal in json.loads((server.kms_dir / "root.json").read_text()).get("seals", [])]
                    if "local-key" not in kinds and kinds:
                        continue
                    start(server)
            except NotReady:
                continue
            opened = True
            break
        assert opened, server.log()[-2000:]
        opens(server, name, ciphertext)


@pytest.fixture
def remote(make):
    """Another KMS, and the name of a key in it."""
    server = start(make())
    return server, Keys(server, "p2").key("root", grant=False)


def test_a_key_of_another_kms_opens_until_it_is_disabled_there(make, remote):
    other, key = remote
    server = make("--root-kms-key", key, "--root-kms-endpoint", other.endpoint)
    start(server)
    assert server.kinds() == ["cloud-kms"]
    name = Keys(server, "p1").key("k", grant=False)
    ciphertext = Keys(server, "p1").client.encrypt(name=name, plaintext=b"secret").ciphertext
    server.ok("seal", "add", "passphrase", given=PASSPHRASE)
    server.restart("--services", "kms")
    opens(server, name, ciphertext)
    # The same key again, in the place of itself.
    server.ok("seal", "add", "cloud-kms", "--replace", "1")
    assert server.kinds() == ["passphrase", "cloud-kms"]
    server.stop()

    Keys(other, "p2").disable(key)
    server.start_sealed()
    assert "refuses" in server.log() and "not enabled" in server.log()
    server.ok("unseal", given=PASSPHRASE)
    opens(server, name, ciphertext)
    assert "refuses" in server.refused("seal", "add", "cloud-kms")
    server.stop()
    Keys(other, "p2").enable(key)
    start(server)
    opens(server, name, ciphertext)


def test_a_silent_kms_makes_the_server_wait_and_open_by_itself_later(make, remote):
    other, key = remote
    with relay(lambda: other.address) as port:
        server = make("--root-kms-key", key, "--root-kms-endpoint", f"http://127.0.0.1:{port}")
        start(server)
        server.stop()
        other.stop()
        server.start_sealed()
        assert "does not answer" in server.log()
        start(other)
        assert server.lines.get(timeout=30).startswith(READY)


def test_the_other_kms_is_reached_over_tls_by_the_certificates_that_were_named(make, remote, tmp_path):
    other, key = remote
    context, ca_file = own_tls(tmp_path)
    with relay(lambda: other.address, context) as port:
        endpoint = f"https://localhost:{port}"
        server = make("--root-kms-key", key, "--root-kms-endpoint", endpoint)
        with pytest.raises(NotReady) as caught:
            start(server)
        assert "does not answer" in caught.value.log
        assert not (server.kms_dir / "root.json").exists()
        start(server, "--root-kms-ca-file", ca_file)
        assert server.kinds() == ["cloud-kms"]
        server.restart("--services", "kms", "--root-kms-ca-file", ca_file)


def own_tls(folder):
    """What a server for localhost needs, and the file of the certificate that it is known by."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "ca.pem", folder / "tls.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    context.set_alpn_protocols(["h2"])
    return context, files[0]


@contextlib.contextmanager
def relay(address, context=None):
    """Hands connections on to where `address` says, without TLS; gives the port."""

    def copy(from_, to):
        with contextlib.suppress(OSError):
            while data := from_.recv(65536):
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    def hand_on(client):
        with contextlib.suppress(OSError):
            if context is not None:
                client = context.wrap_socket(client, server_side=True)
            host, port = address().split(":")
            behind = socket.create_connection((host, int(port)))
            threading.Thread(target=copy, args=(client, behind), daemon=True).start()
            copy(behind, client)
        client.close()

    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=hand_on, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


@pytest.fixture
def token(tmp_path, monkeypatch):
    """The flags that name a software token of the test's own, and the file of its PIN."""
    made = Token(tmp_path, monkeypatch, "roots")
    flags = ["--root-pkcs11-module", made.module, "--root-pkcs11-token", "roots"]
    return [*flags, "--root-pkcs11-pin-file", made.pin_file], made.pin_file


def test_a_key_in_a_token_opens_and_a_wrong_pin_does_not_lock_it(encrypted, phrase, token):
    server, name, ciphertext = encrypted
    flags, pin = token
    start(server, "--root-passphrase-file", phrase, *flags)
    server.ok("seal", "add", "pkcs11", "--replace", "1")
    assert server.kinds() == ["pkcs11"]
    server.ok("seal", "add", "passphrase", given=OTHER)
    server.stop()
    start(server, *flags)
    opens(server, name, ciphertext)
    server.stop()
    pin.write_text("00000000\n")
    server.start_sealed(*flags)
    assert "refuses the PIN" in server.log() and "00000000" not in server.log()
    server.ok("unseal", given=OTHER)
    opens(server, name, ciphertext)
    server.stop()
    server.start_sealed("--root-pkcs11-module", "/no/such/module.so", *flags[2:])
    assert "/no/such/module.so cannot be loaded" in server.log()
    server.stop()
    pin.write_text("20482048\n")
    start(server, *flags)
    opens(server, name, ciphertext)
