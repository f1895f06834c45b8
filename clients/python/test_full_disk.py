"""A full disk, on a small file system of its own: a clear error, reads go on, nothing acknowledged is lost."""

import itertools
import os
import random
import shutil
import subprocess
import time

import pytest
from harness.bigtable import Bigtable, set_cell
from harness.errors import describe, refused
from harness.kms import Keys
from harness.server import Server

MIB = 1 << 20
SIZE = 48 * MIB
BALLAST = 20 * MIB
# More than fit into what a log takes beforehand.
OPERATIONS_IN_RESERVE = 5000


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("to mount a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(bigtable, table, acknowledged, seconds=60):
    """Writes until a write fails; the error."""
    rng = random.Random(len(acknowledged))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        key, value = b"%08d" % len(acknowledged), rng.randbytes(100_000)
        try:
            bigtable.data.mutate_row(
                table_name=table, row_key=key, mutations=[set_cell("f", b"q", 0, value)], retry=None, timeout=20
            )
        except Exception as error:
            return describe(error)
        acknowledged[key] = value
    raise AssertionError("the disk was never full")


def rows(bigtable, table):
    return {key: cells[0][3] for key, cells in bigtable.read(table)}


@pytest.mark.slow
def test_a_full_disk_refuses_writes_serves_reads_and_recovers(small_disk, tmp_path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(BALLAST))
    server = Server(tmp_path / "server", data_dir=small_disk / "data", kms_dir=tmp_path / "keys").start()
    try:
        bigtable = Bigtable(server.address, "p1")
        table = bigtable.create_table(bigtable.create_instance("instance-1"), "t")
        acknowledged = {}
        error = fill(bigtable, table, acknowledged)
        assert error.code == "RESOURCE_EXHAUSTED", error.message
        assert acknowledged
        for _ in range(2):
            got = rows(bigtable, table)
            assert all(got.get(key) == value for key, value in acknowledged.items())
            unacknowledged = set(got) - set(acknowledged)
            assert len(unacknowledged) <= 1, "at most the write that failed may be there"
            again = fill(bigtable, table, acknowledged)
            assert again.code == "RESOURCE_EXHAUSTED", again.message
        assert server.alive()
        ballast.unlink()
        deadline = time.monotonic() + 30
        while True:
            try:
                bigtable.put(table, b"after")
                break
            except Exception:
                assert time.monotonic() < deadline, "no write works although there is space again"
                time.sleep(0.2)
        got = rows(bigtable, table)
        assert all(got.get(key) == value for key, value in acknowledged.items())
        server.restart(kill=True)
        bigtable = Bigtable(server.address, "p1")
        got = rows(bigtable, table)
        assert b"after" in got
        assert all(got.get(key) == value for key, value in acknowledged.items()), "an acknowledged row is gone"
    finally:
        server.stop()


@pytest.mark.slow
def test_killed_on_a_full_disk_nothing_acknowledged_is_lost(small_disk, tmp_path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(BALLAST))
    server = Server(tmp_path / "server", data_dir=small_disk / "data", kms_dir=tmp_path / "keys").start()
    try:
        bigtable = Bigtable(server.address, "p1")
        table = bigtable.create_table(bigtable.create_instance("instance-1"), "t")
        acknowledged = {}
        assert fill(bigtable, table, acknowledged).code == "RESOURCE_EXHAUSTED"
        server.kill()
        ballast.unlink()
        server.start()
        bigtable = Bigtable(server.address, "p1")
        got = rows(bigtable, table)
        assert all(got.get(key) == value for key, value in acknowledged.items())
        bigtable.put(table, b"after")
    finally:
        server.stop()


def test_a_full_disk_of_the_kms_refuses_key_operations_and_serves_rows(small_disk, tmp_path):
    """No use of a key without its audit entry; what runs on cached keys goes on."""
    server = Server(tmp_path / "server", data_dir=tmp_path / "data", kms_dir=small_disk / "keys").start()
    try:
        keys, bigtable = Keys(server, "p1"), Bigtable(server.address, "p1")
        key = keys.key("k")
        table = bigtable.create_table(bigtable.create_instance("instance-1", key=key), "t")
        bigtable.put(table, b"r")
        with open(small_disk / "ballast", "wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(MIB)) == MIB:
                    pass
            except OSError:
                pass
        numbers = itertools.count(2)
        for use in (
            lambda: keys.client.encrypt(name=key, plaintext=b"x", retry=None, timeout=20),
            lambda: keys.key(f"k{next(numbers)}", grant=False),
            lambda: keys.rotate(key),
        ):
            with refused("RESOURCE_EXHAUSTED"):
                # The log has some room that it took beforehand.
                for _ in range(OPERATIONS_IN_RESERVE):
                    use()
        bigtable.put(table, b"s")
        assert bigtable.keys(table) == [b"r", b"s"]
        (small_disk / "ballast").unlink()
        deadline = time.monotonic() + 20
        while True:
            try:
                sealed = keys.client.encrypt(name=key, plaintext=b"x", retry=None, timeout=20).ciphertext
                break
            except Exception:
                assert time.monotonic() < deadline, "no key operation works although there is space again"
                time.sleep(0.2)
        assert keys.client.decrypt(name=key, ciphertext=sealed).plaintext == b"x"
        server.restart(kill=True)
        assert Bigtable(server.address, "p1").keys(table) == [b"r", b"s"]
        assert Keys(server, "p1").client.decrypt(name=key, ciphertext=sealed).plaintext == b"x"
    finally:
        server.stop()
