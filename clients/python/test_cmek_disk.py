"""What is on disk, and what becomes of it: planted plaintext, rotation, restarts, destruction, lost keys.

E2, E3, E4, B8, B9 and the KMS apart from the data.
"""

import hashlib
import os
import random
import shutil
import time

import pytest
from google.protobuf import duration_pb2
from harness.bigtable import Bigtable, set_cell
from harness.errors import refused
from harness.kms import STATE, Keys
from harness.server import NotReady
from harness.wait import eventually

PROJECT = "p-disk"


class Setting:
    """A server of its own with one protected table."""

    def __init__(self, server, **key_fields):
        self.server = server
        self.keys = Keys(server, PROJECT)
        self.bigtable = Bigtable(server.address, PROJECT)
        self.key = self.keys.key("k", **key_fields)
        self.instance = self.bigtable.create_instance("instance-1", key=self.key)
        self.table = self.bigtable.create_table(self.instance, "t", ("f", "g"))

    def restart(self, *flags, kill=False):
        self.server.restart(*flags, kill=kill)
        self.connect()

    def connect(self):
        self.keys = Keys(self.server, PROJECT)
        self.bigtable = Bigtable(self.server.address, PROJECT)

    def rows(self):
        return self.bigtable.keys(self.table)


@pytest.fixture
def setting(own_server):
    return Setting(own_server)


def files(folder):
    """Every file's hash by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def search(folder, needles):
    """The needles that some file holds, with the file."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [(path.name, needle) for needle in needles if needle in data or needle in str(path).encode()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("cmek", [True, False], ids=["customer's key", "default key"])
def test_e4_no_planted_text_is_found_on_disk(start_server, cmek):
    """Row keys, qualifiers, values, families, names and labels, while the server runs and when it has stopped."""
    server = start_server()
    keys, bigtable = Keys(server, PROJECT), Bigtable(server.address, PROJECT)
    planted = {
        name: f"PLANTED{name}{random.randrange(10**12)}".encode()
        for name in ("row", "qualifier", "value", "family", "table", "label", "display", "secret")
    }
    key = keys.key("k") if cmek else None
    instance = bigtable.create_instance(
        "instance-1",
        key=key,
        labels={"l": planted["label"].decode().lower()},
        **{"display_name": planted["display"].decode()[:30]},
    )
    family = planted["family"].decode()
    table = bigtable.create_table(instance, planted["table"].decode(), (family,))
    for batch in range(20):
        entries = [
            (b"%s-%02d-%03d" % (planted["row"], batch, n), [set_cell(family, planted["qualifier"], 0, planted["value"] * 20)])
            for n in range(200)
        ]
        assert set(bigtable.write_many(table, entries)) == {0}
    assert len(bigtable.keys(table)) == 4000
    if cmek:
        keys.client.encrypt(name=key, plaintext=planted["secret"])
        keys.rotate(key)
    needles = [needle for needle in planted.values()]
    needles += [planted["label"].lower(), planted["display"][:30]]
    assert sum(1 for _ in server.data_dir.rglob("*")) > 3
    assert search(server.data_dir, needles) == []
    assert search(server.kms_dir, needles) == []
    server.restart()
    assert len(Bigtable(server.address, PROJECT).keys(table)) == 4000
    server.stop()
    assert search(server.data_dir, needles) == []
    assert search(server.kms_dir, needles) == []
    assert not any(needle in server.log().encode() for needle in needles), "nor is it in the log"


def test_e4_the_keys_are_not_where_the_data_is(setting):
    """A copy of the data directory alone opens nothing; the root key lies with the KMS, for its owner's eyes only."""
    setting.bigtable.put(setting.table, b"r")
    root = setting.server.kms_dir / "root.key"
    assert root.stat().st_mode & 0o077 == 0
    secret = root.read_bytes().strip()
    assert search(setting.server.data_dir, [secret]) == []
    setting.server.stop()
    shutil.rmtree(setting.server.kms_dir)
    with pytest.raises(NotReady) as caught:
        setting.server.start()
    assert caught.value.status == 1


@pytest.mark.slow
def test_e3_rotation_rewrites_no_data_file(setting):
    for batch in range(10):
        entries = [(b"%d-%03d" % (batch, n), [set_cell("f", b"q", 0, random.randbytes(1000))]) for n in range(200)]
        setting.bigtable.write_many(setting.table, entries)
    setting.restart()
    assert len(setting.rows()) == 2000
    folder = setting.server.data_dir / "bigtable"

    def quiet():
        before = files(folder)
        time.sleep(1)
        assert files(folder) == before
        return before

    before = eventually(quiet, 20)
    assert sum((folder / name).stat().st_size for name in before) > 2_000_000
    version = setting.keys.rotate(setting.key)

    def rotated():
        shown = setting.bigtable.tables.get_table(request={"name": setting.table, "view": "ENCRYPTION_VIEW"})
        [state] = shown.cluster_states.values()
        assert state.encryption_info[0].kms_key_version == version

    eventually(rotated)
    time.sleep(1)
    assert files(folder) == before
    setting.keys.set_state(f"{setting.key}/cryptoKeyVersions/1", STATE.DISABLED)
    setting.restart()
    assert len(setting.rows()) == 2000, "the new version alone opens what the old one protected"


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_b8_a_server_started_while_the_key_is_disabled_is_locked_until_it_is_enabled(setting, kill):
    setting.bigtable.put(setting.table, b"r")
    setting.keys.disable(setting.key)
    setting.restart(kill=kill)
    for _ in range(3):
        with refused("FAILED_PRECONDITION", f"{setting.key}/cryptoKeyVersions/1", "disabled"):
            setting.rows()
        with refused("FAILED_PRECONDITION"):
            setting.bigtable.put(setting.table, b"s")
    setting.keys.enable(setting.key)
    assert eventually(setting.rows) == [b"r"]
    setting.bigtable.put(setting.table, b"s")
    assert setting.rows() == [b"r", b"s"]


def test_b8_killed_while_locked_nothing_acknowledged_is_lost(setting):
    """The memtable goes with the lock; what was acknowledged is in the log on disk."""
    for n in range(50):
        setting.bigtable.put(setting.table, b"%02d" % n)
    setting.keys.disable(setting.key)
    setting.restart(kill=True)
    setting.keys.enable(setting.key)
    assert eventually(setting.rows) == [b"%02d" % n for n in range(50)]


@pytest.mark.slow
def test_b8_locked_with_much_in_memory_and_killed_nothing_acknowledged_is_lost(setting):
    """120 MiB: some of it in sorted files, some in the log alone, when the key goes and the process with it."""
    rng = random.Random(5)
    expected = {}
    for part in range(30):
        entries = {b"%02d-%02d" % (part, n): rng.randbytes(64 * 1024) for n in range(64)}
        codes = setting.bigtable.write_many(
            setting.table, [(key, [set_cell("f", b"q", 0, value)]) for key, value in entries.items()]
        )
        assert set(codes) == {0}
        expected.update(entries)
    setting.keys.disable(setting.key)
    setting.restart(kill=True)
    setting.keys.enable(setting.key)
    eventually(setting.rows)
    assert {key: cells[0][3] for key, cells in setting.bigtable.read(setting.table)} == expected


def test_k3_a_grant_revoked_while_the_server_was_down_is_noticed_at_its_start(setting):
    setting.bigtable.put(setting.table, b"r")
    setting.keys.revoke(setting.key)
    setting.restart(kill=True)
    with refused("FAILED_PRECONDITION", "gcp-sa-bigtable"):
        setting.rows()
    setting.keys.grant(setting.key)
    assert eventually(setting.rows) == [b"r"]


def test_b1_what_was_acknowledged_survives_kill_and_stop(setting):
    """Rows, tables, families, instances, profiles, keys, versions, policies."""
    for n in range(200):
        setting.bigtable.put(setting.table, b"%03d" % n)
    setting.keys.rotate(setting.key)
    policy = setting.keys.client.get_iam_policy(request={"resource": setting.key})
    sealed = setting.keys.client.encrypt(name=setting.key, plaintext=b"secret").ciphertext
    setting.bigtable.tables.modify_column_families(
        name=setting.table, modifications=[{"id": "h", "create": {"gc_rule": {"max_num_versions": 2}}}]
    )
    for kill in (True, False, True):
        setting.restart(kill=kill)
        assert setting.rows() == [b"%03d" % n for n in range(200)]
        shown = setting.bigtable.tables.get_table(name=setting.table)
        assert set(shown.column_families) == {"f", "g", "h"}
        assert setting.keys.client.get_iam_policy(request={"resource": setting.key}) == policy
        assert setting.keys.client.decrypt(name=setting.key, ciphertext=sealed).plaintext == b"secret"
        assert len(setting.keys.versions(setting.key)) == 2


def test_b9_a_destroyed_key_makes_the_data_worthless_for_good(start_server):
    """Nothing opens it: not the server, not a restart, not a copy of the directories taken before the end."""
    setting = Setting(start_server(), destroy_scheduled_duration=duration_pb2.Duration(seconds=1))
    setting.bigtable.put(setting.table, b"r")
    setting.keys.destroy(setting.key)
    version = f"{setting.key}/cryptoKeyVersions/1"

    def destroyed():
        assert setting.keys.client.get_crypto_key_version(name=version).state == STATE.DESTROYED
        with refused("FAILED_PRECONDITION", version, "is destroyed") as caught:
            setting.rows()
        assert ("KEY_DESTROYED", version) in [violation[:2] for violation in caught.violations]

    eventually(destroyed)
    setting.restart()
    with refused("FAILED_PRECONDITION", version, "destroyed"):
        setting.rows()
    with refused("FAILED_PRECONDITION"):
        setting.keys.client.restore_crypto_key_version(name=version)
    setting.keys.rotate(setting.key)
    with refused("FAILED_PRECONDITION"):
        setting.rows()
    setting.bigtable.instances.delete_instance(name=setting.instance)


def test_b9_restored_in_time_the_data_comes_back(setting):
    setting.bigtable.put(setting.table, b"r")
    setting.keys.destroy(setting.key)
    version = f"{setting.key}/cryptoKeyVersions/1"

    def scheduled():
        with refused("FAILED_PRECONDITION", version, "scheduled for destruction"):
            setting.rows()

    eventually(scheduled, 1)
    setting.keys.client.restore_crypto_key_version(name=version)
    with refused("FAILED_PRECONDITION", version):
        setting.rows()
    setting.keys.enable(setting.key)
    assert eventually(setting.rows) == [b"r"]


def test_b9_material_of_a_destroyed_version_leaves_the_disk(start_server):
    setting = Setting(start_server(), destroy_scheduled_duration=duration_pb2.Duration(seconds=1))
    folder = setting.server.kms_dir / "material"
    before = {path for path in folder.rglob("*") if path.is_file()}
    setting.keys.destroy(setting.key)

    def gone():
        now = {path for path in folder.rglob("*") if path.is_file()}
        assert len(now) == len(before) - 1 and now < before

    eventually(gone)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["flipped bit", "cut", "emptied", "gone"])
def test_e2_a_damaged_data_file_is_noticed_and_never_served(setting, what):
    """Sorted runs, manifests, logs and whatever else lies there, one of each kind after the other."""
    for n in range(300):
        setting.bigtable.put(setting.table, b"%03d" % n, random.randbytes(200))
    expected = setting.bigtable.read(setting.table)
    setting.server.stop()
    folder = setting.server.data_dir / "bigtable"
    copy = setting.server.folder / "copy"
    shutil.copytree(folder, copy)
    newest = {}
    for name in sorted(files(folder)):
        if (folder / name).stat().st_size:
            newest[os.path.dirname(name), os.path.splitext(name)[1]] = name
    assert any("compacted" in name for name in newest.values())
    rng = random.Random(1)
    noticed = []
    for name in newest.values():
        damaged = bytearray((folder / name).read_bytes())
        if what == "flipped bit":
            damaged[rng.randrange(len(damaged) // 2)] ^= 1 << rng.randrange(8)
        elif what == "cut":
            del damaged[rng.randrange(len(damaged)):]
        else:
            damaged.clear()
        (folder / name).unlink()
        if what != "gone":
            (folder / name).write_bytes(damaged)
        try:
            setting.server.start()
        except NotReady as error:
            noticed.append(name)
            assert name.rpartition("/")[2] in error.log
        else:
            setting.connect()
            try:
                got = setting.bigtable.read(setting.table)
            except Exception as error:
                noticed.append(name)
                assert name.rpartition("/")[2] in str(error), "the damaged file is not named"
            else:
                assert got == expected, f"{name}: other rows were served"
            setting.server.stop()
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
    assert any("compacted" in name for name in noticed), noticed
    setting.server.start()
    setting.connect()
    assert setting.bigtable.read(setting.table) == expected


def test_e2_the_files_of_one_table_do_not_open_in_anothers_place(own_server):
    """Paths and scopes are bound into the files: swapped directories are noticed."""
    keys, bigtable = Keys(own_server, PROJECT), Bigtable(own_server.address, PROJECT)
    key = keys.key("k")
    instance = bigtable.create_instance("instance-1", key=key)
    tables = [bigtable.create_table(instance, name) for name in ("one", "two")]
    for table in tables:
        bigtable.put(table, table.encode())
    own_server.stop()
    folder = own_server.data_dir / "bigtable"
    first, second = sorted(path for path in folder.iterdir() if path.is_dir())
    spare = folder / "spare"
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    own_server.start()
    bigtable = Bigtable(own_server.address, PROJECT)
    for table in tables:
        with refused(("DATA_LOSS", "INTERNAL", "FAILED_PRECONDITION", "UNAVAILABLE")):
            bigtable.keys(table)


def test_e2_a_root_key_of_another_kms_opens_nothing(start_server, tmp_path):
    setting = Setting(start_server())
    setting.bigtable.put(setting.table, b"r")
    setting.server.stop()
    root = setting.server.kms_dir / "root.key"
    right = root.read_bytes()
    os.chmod(root, 0o600)
    root.write_bytes((b"0000" if right[:4] != b"0000" else b"1111") + right[4:])
    with pytest.raises(NotReady) as caught:
        setting.server.start()
    assert caught.value.status == 1
    assert "root.key does not open this KMS" in caught.value.log
    root.write_bytes(right)
    setting.server.start()
    setting.connect()
    assert setting.rows() == [b"r"]


def test_e2_a_passphrase_opens_the_kms_and_a_wrong_one_does_not(start_server, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("correct horse battery staple\n")
    bad.write_text("incorrect horse\n")
    setting = Setting(start_server("--root-passphrase-file", good))
    setting.bigtable.put(setting.table, b"r")
    assert not (setting.server.kms_dir / "root.key").exists()
    assert search(setting.server.folder, [b"battery staple"]) == []
    setting.server.stop()
    setting.server.flags = [flag if flag != str(good) else str(bad) for flag in setting.server.flags]
    with pytest.raises(NotReady) as caught:
        setting.server.start()
    assert caught.value.status == 1 and "does not open this KMS" in caught.value.log
    setting.server.flags = [flag if flag != str(bad) else str(good) for flag in setting.server.flags]
    setting.server.start()
    setting.connect()
    assert setting.rows() == [b"r"]
