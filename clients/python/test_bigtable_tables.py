"""Tables, families, garbage collection and dropped rows by the official admin client: B1."""

import datetime
import time

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigtable_admin_v2 import BaseBigtableTableAdminClient
from google.cloud.bigtable_admin_v2.types import GcRule, ModifyColumnFamiliesRequest, Table
from google.protobuf import field_mask_pb2
from harness.bigtable import set_cell
from harness.errors import refused

Modification = ModifyColumnFamiliesRequest.Modification


@pytest.fixture(params=["grpc", "rest"])
def admin(request, server, shared_instance):
    """The table admin client over each of its transports, and the instance."""
    clients, instance = shared_instance
    if request.param == "grpc":
        return clients.tables, instance
    client = BaseBigtableTableAdminClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )
    return client, instance


def versions(count):
    return GcRule(max_num_versions=count)


def age(seconds):
    return GcRule(max_age=datetime.timedelta(seconds=seconds))


def union(*rules):
    return GcRule(union=GcRule.Union(rules=rules))


def intersection(*rules):
    return GcRule(intersection=GcRule.Intersection(rules=rules))


def modify(admin, table, *changes):
    return admin.modify_column_families(name=table, modifications=changes)


def create(admin, parent, table_id, families=None, **table):
    spec = {name: {} if rule is None else {"gc_rule": rule} for name, rule in (families or {}).items()}
    request = {"parent": parent, "table_id": table_id, "table": {"column_families": spec, **table}}
    return admin.create_table(request=request)


def test_b1_a_table_is_created_found_listed_and_deleted(admin, unique):
    admin, instance = admin
    made = create(admin, instance, unique("t"), {"f": versions(3), "g": None})
    got = admin.get_table(name=made.name)
    assert set(got.column_families) == {"f", "g"}
    assert got.column_families["f"].gc_rule == versions(3)
    assert not got.column_families["g"].gc_rule
    assert got.granularity == Table.TimestampGranularity.MILLIS
    assert made.name in [table.name for table in admin.list_tables(parent=instance)]
    with refused("ALREADY_EXISTS"):
        create(admin, instance, made.name.rpartition("/")[2])
    admin.delete_table(name=made.name)
    with refused("NOT_FOUND"):
        admin.get_table(name=made.name)
    with refused("NOT_FOUND"):
        admin.delete_table(name=made.name)


def test_b1_views_show_what_they_say(admin, unique):
    admin, instance = admin
    made = create(admin, instance, unique("t"), {"f": versions(1)})
    name_only = admin.get_table(request={"name": made.name, "view": Table.View.NAME_ONLY})
    assert name_only == Table(name=made.name)
    full = admin.get_table(request={"name": made.name, "view": Table.View.FULL})
    assert set(full.column_families) == {"f"}
    [state] = full.cluster_states.values()
    assert state.replication_state == Table.ClusterState.ReplicationState.READY
    listed = list(admin.list_tables(request={"parent": instance, "view": Table.View.NAME_ONLY}))
    assert made.name in [table.name for table in listed]


def test_b1_pages_show_every_table_once(bigtable, unique):
    instance = bigtable.create_instance(unique("i"))
    names = sorted(bigtable.create_table(instance, f"t{n}") for n in range(5))
    pages = list(bigtable.tables.list_tables(request={"parent": instance, "page_size": 2}).pages)
    assert [table.name for page in pages for table in page.tables] == names
    assert max(len(page.tables) for page in pages) <= 2


@pytest.mark.parametrize("bad", ["", "a b", "x" * 51, "-a", "a/b", "ü", "a:b"])
def test_b1_a_bad_table_id_is_refused(shared_instance, bad):
    clients, instance = shared_instance
    with refused("INVALID_ARGUMENT", "table_id"):
        clients.create_table(instance, bad)


@pytest.mark.parametrize("bad", ["", "a b", "x" * 65, "a:b", "ü"])
def test_b1_a_bad_family_name_is_refused(shared_instance, unique, bad):
    clients, instance = shared_instance
    with refused("INVALID_ARGUMENT"):
        clients.create_table(instance, unique("t"), (bad,))
    table = clients.create_table(instance, unique("t"), ("f",))
    with refused("INVALID_ARGUMENT"):
        modify(clients.tables, table, Modification(id=bad, create={}))


def test_b1_a_table_in_an_instance_that_is_not_there_is_not_found(shared_instance, unique):
    clients, instance = shared_instance
    with refused("NOT_FOUND"):
        clients.create_table(f"{instance}x", unique("t"))
    with refused("INVALID_ARGUMENT"):
        clients.create_table("projects/p/instance/x", unique("t"))


def test_b1_families_are_created_changed_and_dropped(admin, unique):
    admin, instance = admin
    table = create(admin, instance, unique("t"), {"f": None}).name
    got = modify(
        admin,
        table,
        Modification(id="g", create={"gc_rule": union(versions(2), age(60))}),
        Modification(id="f", update={"gc_rule": versions(7)}),
    )
    assert got.column_families["g"].gc_rule == union(versions(2), age(60))
    assert got.column_families["f"].gc_rule == versions(7)
    got = modify(admin, table, Modification(id="f", drop=True))
    assert set(got.column_families) == {"g"}
    assert set(admin.get_table(name=table).column_families) == {"g"}


def test_b1_changes_of_families_are_all_or_none(admin, unique):
    admin, instance = admin
    table = create(admin, instance, unique("t"), {"f": None}).name
    for code, bad in [
        ("NOT_FOUND", Modification(id="none", update={})),
        ("NOT_FOUND", Modification(id="none", drop=True)),
        ("ALREADY_EXISTS", Modification(id="f", create={})),
        ("INVALID_ARGUMENT", Modification(id="x")),
        ("INVALID_ARGUMENT", Modification(id="f", drop=False)),
    ]:
        with refused(code):
            modify(admin, table, Modification(id="new", create={}), bad)
        assert set(admin.get_table(name=table).column_families) == {"f"}


def test_b1_a_dropped_familys_cells_do_not_come_back(table):
    clients, name = table
    clients.write(name, b"r", set_cell("f", b"q", 1000, b"f"), set_cell("g", b"q", 1000, b"g"))
    clients.put(name, b"only-g", family="g")
    modify(clients.tables, name, Modification(id="g", drop=True))
    assert clients.read(name) == [(b"r", [("f", b"q", 1000, b"f", ())])]
    modify(clients.tables, name, Modification(id="g", create={}))
    assert clients.read(name) == [(b"r", [("f", b"q", 1000, b"f", ())])]


@pytest.mark.parametrize(
    "rule",
    [
        versions(1),
        age(1),
        age(0.001),
        union(versions(1), age(86_400)),
        intersection(versions(1), union(age(1), versions(9))),
        union(),
    ],
    ids=["versions", "age", "millisecond", "union", "nested", "empty"],
)
def test_b1_a_rule_is_shown_as_it_was_given(admin, unique, rule):
    admin, instance = admin
    table = create(admin, instance, unique("t"), {"f": rule}).name
    assert admin.get_table(name=table).column_families["f"].gc_rule == rule


@pytest.mark.parametrize(
    "rule",
    [
        versions(0),
        versions(-1),
        age(0),
        age(-5),
        union(versions(1), versions(0)),
        union(*[age(seconds) for seconds in range(1, 200)]),
    ],
    ids=["none", "negative", "no age", "negative age", "nested", "too large"],
)
def test_b1_a_rule_that_makes_no_sense_is_refused(admin, unique, rule):
    admin, instance = admin
    with refused("INVALID_ARGUMENT"):
        create(admin, instance, unique("t"), {"f": rule})


def millis(seconds_ago):
    return (time.time_ns() // 1_000_000 - int(seconds_ago * 1000)) * 1000


@pytest.mark.parametrize(
    "rule, kept",
    [
        (None, 5),
        (versions(2), 2),
        (age(100), 3),
        (union(versions(4), age(100)), 3),
        (union(versions(1), age(100)), 1),
        (intersection(versions(2), age(100)), 3),
        (intersection(versions(4), age(100)), 4),
        (union(intersection(versions(1), age(1000)), age(3000)), 3),
        (union(intersection(versions(4), age(1000)), age(3000)), 4),
    ],
    ids=["none", "versions", "age", "union", "union 1", "both", "both 4", "nested", "nested 4"],
)
def test_b1_a_rule_hides_what_it_lets_go_at_once(shared_instance, unique, rule, kept):
    """Five versions, 0, 30, 60, 2,000 and 5,000 s old, of each of two columns; reads give the newest `kept`."""
    clients, instance = shared_instance
    table = clients.create_table(instance, unique("t"), {"f": rule})
    times = [millis(ago) for ago in (0, 30, 60, 2000, 5000)]
    for qualifier in (b"a", b"b"):
        clients.write(table, b"r", *[set_cell("f", qualifier, at, b"v") for at in times])
    got = clients.read_row(table, b"r")
    assert [(cell[1], cell[2]) for cell in got] == [(q, at) for q in (b"a", b"b") for at in times[:kept]]


def test_b1_a_row_all_of_whose_cells_are_too_old_is_gone(shared_instance, unique):
    clients, instance = shared_instance
    table = clients.create_table(instance, unique("t"), {"f": age(1)})
    clients.put(table, b"old", timestamp=millis(10))
    clients.put(table, b"new", timestamp=millis(0))
    assert clients.keys(table) == [b"new"]
    deadline = time.monotonic() + 5
    while clients.keys(table):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_b1_a_changed_rule_holds_for_what_is_there(table):
    clients, name = table
    clients.write(name, b"r", *[set_cell("f", b"q", at * 1000, b"v") for at in range(1, 6)])
    modify(clients.tables, name, Modification(id="f", update={"gc_rule": versions(2)}))
    assert [cell[2] for cell in clients.read_row(name, b"r")] == [5000, 4000]


def test_b1_rows_are_dropped_by_prefix(admin, unique, table):
    clients, name = table
    client, _ = admin
    keys = [b"a", b"ab", b"ab\xff", b"abc", b"ac", b"b", b"\xff", b"\xff\xff", b"\xff\xffa"]
    clients.write_many(name, [(key, [set_cell("f", b"q", 0, b"v")]) for key in keys])
    client.drop_row_range(request={"name": name, "row_key_prefix": b"ab"})
    assert clients.keys(name) == [b"a", b"ac", b"b", b"\xff", b"\xff\xff", b"\xff\xffa"]
    client.drop_row_range(request={"name": name, "row_key_prefix": b"\xff\xff"})
    assert clients.keys(name) == [b"a", b"ac", b"b", b"\xff"]
    client.drop_row_range(request={"name": name, "row_key_prefix": b"none"})
    clients.put(name, b"ab")
    assert clients.keys(name) == [b"a", b"ab", b"ac", b"b", b"\xff"]


def test_b1_all_rows_are_dropped_and_new_ones_can_be_written(admin, table):
    clients, name = table
    client, _ = admin
    clients.write_many(name, [(b"%d" % n, [set_cell("f", b"q", 0, b"v")]) for n in range(100)])
    client.drop_row_range(request={"name": name, "delete_all_data_from_table": True})
    assert clients.keys(name) == []
    clients.put(name, b"new")
    assert clients.keys(name) == [b"new"]


def test_b1_to_drop_nothing_in_particular_is_refused(table):
    clients, name = table
    clients.put(name, b"r")
    for request in [{}, {"row_key_prefix": b""}, {"delete_all_data_from_table": False}]:
        with refused("INVALID_ARGUMENT"):
            clients.tables.drop_row_range(request={"name": name, **request})
    assert clients.keys(name) == [b"r"]
    with refused("NOT_FOUND"):
        clients.tables.drop_row_range(request={"name": f"{name}x", "delete_all_data_from_table": True})


def test_b1_a_protected_table_is_not_deleted(admin, unique):
    admin, instance = admin
    table = create(admin, instance, unique("t"), {"f": None}, deletion_protection=True).name
    assert admin.get_table(name=table).deletion_protection
    with refused("FAILED_PRECONDITION"):
        admin.delete_table(name=table)
    admin.update_table(
        table=Table(name=table, deletion_protection=False),
        update_mask=field_mask_pb2.FieldMask(paths=["deletion_protection"]),
    ).result(timeout=20)
    admin.delete_table(name=table)


def test_b1_a_table_made_again_is_empty(shared_instance, unique):
    clients, instance = shared_instance
    table = clients.create_table(instance, "again")
    clients.put(table, b"old")
    clients.tables.delete_table(name=table)
    with refused("NOT_FOUND"):
        clients.keys(table)
    with refused("NOT_FOUND"):
        clients.put(table, b"r")
    clients.create_table(instance, "again")
    assert clients.keys(table) == []


def test_b1_initial_splits_are_taken(shared_instance, unique):
    clients, instance = shared_instance
    request = {
        "parent": instance,
        "table_id": unique("t"),
        "table": {"column_families": {"f": {}}},
        "initial_splits": [{"key": b"m"}],
    }
    table = clients.tables.create_table(request=request).name
    clients.put(table, b"a")
    clients.put(table, b"z")
    assert clients.keys(table) == [b"a", b"z"]


def test_b1_consistency_is_reached_at_once(table):
    clients, name = table
    token = clients.tables.generate_consistency_token(name=name).consistency_token
    assert clients.tables.check_consistency(name=name, consistency_token=token).consistent


@pytest.mark.parametrize(
    "call",
    [
        lambda admin, instance, table: admin.list_backups(parent=f"{instance}/clusters/{instance.rpartition('/')[2]}-c1"),
        lambda admin, instance, table: admin.list_authorized_views(parent=table),
        lambda admin, instance, table: admin.undelete_table(name=table),
        lambda admin, instance, table: admin.list_snapshots(parent=f"{instance}/clusters/c"),
    ],
    ids=["backups", "authorized views", "undelete", "snapshots"],
)
def test_b1_what_is_not_built_says_so(shared_instance, table, call):
    clients, instance = shared_instance
    with refused("UNIMPLEMENTED") as caught:
        call(clients.tables, instance, table[1])
    assert caught.message
