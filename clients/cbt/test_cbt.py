"""Google's `cbt`, unmodified, pointed at the server by BIGTABLE_EMULATOR_HOST: B1, B4, B8."""

import shutil

import pytest
from harness.bigtable import Bigtable
from harness.kms import Keys
from harness.tools import Tool

CBT = shutil.which("cbt")
pytestmark = pytest.mark.skipif(CBT is None, reason="cbt is not installed (a component of the Google Cloud CLI)")

ZONE = "us-east1-b"


@pytest.fixture
def admin(server, project, tmp_path):
    """cbt in the test's project."""
    # With a gcloud on its path, cbt asks it for credentials that it then does not use: a second each time.
    environment = {"BIGTABLE_EMULATOR_HOST": server.address, "HOME": str(tmp_path), "PATH": "/nonexistent"}
    return Tool(CBT, "-project", project, environment=environment)


@pytest.fixture
def cbt(admin, unique):
    """cbt with an instance that it made, with a table `birds`."""
    instance = unique("i")
    admin("createinstance", instance, "Birds", f"{instance}-c1", ZONE, "1", "SSD")
    tool = Tool(CBT, *admin.first, "-instance", instance, environment=admin.environment)
    tool("createtable", "birds", "families=f:maxversions=3,g")
    return tool


@pytest.fixture
def filled(cbt):
    """Five birds."""
    cbt("set", "birds", "wren", "f:song=long", "g:eggs=6")
    for bird in ("robin", "raven", "crow", "tit"):
        cbt("set", "birds", bird, f"f:song=of-{bird}")
    return cbt


def keys(output):
    """The row keys that `cbt read` printed: the lines after the dashes."""
    lines = output.splitlines()
    return [after for before, after in zip(lines, lines[1:]) if before.startswith("------")]


def test_b1_an_instance_is_created_listed_and_deleted(admin, unique):
    instance = unique("i")
    admin("createinstance", instance, "Birds of a feather", f"{instance}-c1", ZONE, "3", "HDD")
    assert instance in admin("listinstances")
    one = Tool(CBT, *admin.first, "-instance", instance, environment=admin.environment)
    shown = one("listclusters")
    assert f"{instance}-c1" in shown and ZONE in shown
    one("updatecluster", f"{instance}-c1", "num-nodes=5")
    assert "5" in one("listclusters")
    one.fails("already exists", "createinstance", instance, "Again", f"{instance}-c1", ZONE, "1", "SSD")
    one("deleteinstance", instance)
    assert instance not in admin("listinstances")


def test_b1_tables_and_families_are_created_changed_and_listed(cbt):
    assert cbt("ls").split() == ["birds"]
    assert "versions() > 3" in cbt("ls", "birds")
    cbt("createfamily", "birds", "h:maxage=1d")
    assert "age() > 1d" in cbt("ls", "birds")
    cbt("setgcpolicy", "birds", "h", "maxage=2h and maxversions=5")
    shown = cbt("ls", "birds")
    assert "age() > 2h" in shown and "versions() > 5" in shown and "&&" in shown
    cbt("setgcpolicy", "birds", "h", "maxage=2h or maxversions=5")
    assert "||" in cbt("ls", "birds")
    cbt("setgcpolicy", "birds", "h", "never")
    cbt("deletefamily", "birds", "h")
    assert "h\t" not in cbt("ls", "birds")
    cbt("createtable", "split", "splits=m,t")
    assert cbt("ls").split() == ["birds", "split"]
    cbt.fails("already exists", "createtable", "birds")
    cbt("deletetable", "split")
    assert cbt("ls").split() == ["birds"]
    cbt.fails("not found", "deletetable", "split")


def test_b1_cells_are_set_and_looked_up(cbt):
    cbt("set", "birds", "wren", "f:song=long@1000", "f:song=longer@2000", "g:eggs=6")
    shown = cbt("lookup", "birds", "wren")
    assert shown.index('"longer"') < shown.index('"long"') and '"6"' in shown
    assert '"6"' not in cbt("lookup", "birds", "wren", "columns=f:song")
    assert '"long"' not in cbt("lookup", "birds", "wren", "columns=f:song", "cells-per-column=1")
    for n in range(5):
        cbt("set", "birds", "wren", f"f:song=song-{n}")
    assert cbt("lookup", "birds", "wren", "columns=f:song").count('"song-') == 3, "the rule keeps three versions"


def test_b1_rows_are_read_by_key_prefix_range_and_pattern(filled):
    cbt = filled
    assert keys(cbt("read", "birds")) == ["crow", "raven", "robin", "tit", "wren"]
    assert keys(cbt("read", "birds", "prefix=r")) == ["raven", "robin"]
    assert keys(cbt("read", "birds", "start=raven", "end=tit")) == ["raven", "robin"]
    assert keys(cbt("read", "birds", "start=s")) == ["tit", "wren"]
    assert keys(cbt("read", "birds", "regex=.*r.*n")) == ["raven", "robin", "wren"]
    assert keys(cbt("read", "birds", "count=2")) == ["crow", "raven"]
    assert keys(cbt("read", "birds", "columns=g:eggs")) == ["wren"]
    assert "of-crow" not in cbt("read", "birds", "keys-only=true")
    assert cbt("count", "birds").strip() == "5"
    assert cbt("count", "birds", "prefix=r").strip() == "2"


def test_b1_rows_are_read_backwards(filled):
    assert keys(filled("read", "birds", "reversed=true", "count=3")) == ["wren", "tit", "robin"]
    assert keys(filled("read", "birds", "reversed=true", "start=crow", "end=robin")) == ["raven", "crow"]


def test_b1_request_stats_are_shown(filled):
    assert "rows_returned_count" in filled("read", "birds", "include-stats=full").replace("RowsReturnedCount", "rows_returned_count")


def test_b1_rows_columns_and_everything_are_deleted(filled):
    cbt = filled
    cbt("deletecolumn", "birds", "wren", "f", "song")
    assert "f:song" not in cbt("lookup", "birds", "wren")
    cbt("deleterow", "birds", "robin")
    assert keys(cbt("read", "birds")) == ["crow", "raven", "tit", "wren"]
    cbt("deleteallrows", "birds")
    assert cbt("count", "birds").strip() == "0"


def test_b1_a_csv_file_is_imported(cbt, tmp_path):
    lines = [",f,,g", ",song,place,eggs"] + [f"bird-{n:04},song {n},wood,{n % 9}" for n in range(1500)]
    path = tmp_path / "birds.csv"
    path.write_text("\n".join(lines) + "\n")
    cbt("import", "birds", path, "batch-size=200", "workers=3")
    assert cbt("count", "birds").strip() == "1500"
    shown = cbt("lookup", "birds", "bird-0042")
    assert '"song 42"' in shown and '"wood"' in shown and '"6"' in shown


def test_b1_app_profiles_are_created_changed_and_deleted(cbt):
    instance = cbt.first[-1]
    cbt("createappprofile", instance, "batch", "nightly", "route-any")
    assert "batch" in cbt("listappprofile", instance)
    assert "nightly" in cbt("getappprofile", instance, "batch")
    cbt("updateappprofile", instance, "batch", "weekly", f"route-to={instance}-c1", "force=true")
    assert "weekly" in cbt("getappprofile", instance, "batch")
    cbt("set", "birds", "wren", "app-profile=batch", "f:song=long")
    assert '"long"' in cbt("lookup", "birds", "wren", "app-profile=batch")
    cbt("deleteappprofile", instance, "batch", "force=true")
    assert "batch" not in cbt("listappprofile", instance)


def test_b1_replication_of_one_cluster_is_waited_for(cbt):
    cbt("waitforreplication", "birds")


def test_b1_mistakes_are_told(cbt):
    cbt.fails("none", "set", "birds", "wren", "none:song=x")
    cbt.fails("not found", "read", "nobirds")
    cbt.fails("Unimplemented", "addtocell", "birds", "wren", "f:n=1")


def test_b8_cbt_sees_a_disabled_key_and_the_return_of_the_data(server, admin, project, unique):
    keys_of, bigtable = Keys(server, project), Bigtable(server.address, project)
    key = keys_of.key("k")
    instance = unique("i")
    bigtable.create_table(bigtable.create_instance(instance, key=key), "birds")
    cbt = Tool(CBT, *admin.first, "-instance", instance, environment=admin.environment)
    cbt("set", "birds", "wren", "f:song=long")
    keys_of.disable(key)
    cbt.fails("is disabled", "read", "birds")
    cbt.fails("is disabled", "set", "birds", "wren", "f:song=x")
    keys_of.enable(key)
    assert '"long"' in cbt("read", "birds")
