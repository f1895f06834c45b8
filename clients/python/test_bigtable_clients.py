"""The clients that applications use, unmodified and pointed at the server by BIGTABLE_EMULATOR_HOST: B1, B4.

The classic client (`google.cloud.bigtable`), the data client and the asynchronous data client.
"""

import asyncio
import datetime
import struct

import pytest
from google.api_core.exceptions import FailedPrecondition, NotFound
from google.cloud import bigtable as classic
from google.cloud.bigtable import column_family, enums, row_filters
from google.cloud.bigtable.data import (
    BigtableDataClient,
    BigtableDataClientAsync,
    DeleteAllFromRow,
    DeleteRangeFromColumn,
    ReadRowsQuery,
    RowMutationEntry,
    RowRange,
    SetCell,
)
from google.cloud.bigtable.data import row_filters as data_filters
from google.cloud.bigtable.data.exceptions import MutationsExceptionGroup, ShardedReadRowsExceptionGroup
from google.cloud.bigtable.data.read_modify_write_rules import AppendValueRule, IncrementRule
from google.cloud.bigtable.row_set import RowSet
from harness.bigtable import emulator_host
from harness.proxy import Proxy

ZONE = "us-east1-b"


@pytest.fixture
def admin_client(server, project):
    # The classic client makes its data client at first use and reads the variable once more.
    with emulator_host(server.address):
        yield classic.Client(project=project, admin=True)


@pytest.fixture
def classic_table(admin_client, unique):
    """A table made by the classic client alone."""
    instance = admin_client.instance(unique("i"), display_name="Birds", instance_type=enums.Instance.Type.PRODUCTION)
    cluster = instance.cluster(f"{instance.instance_id}-c1", location_id=ZONE, serve_nodes=1)
    instance.create(clusters=[cluster]).result(timeout=20)
    table = instance.table("birds")
    table.create(column_families={"f": column_family.MaxVersionsGCRule(3), "g": None})
    return table


def test_b1_the_classic_client_makes_and_changes_an_instance(admin_client, unique):
    instance = admin_client.instance(unique("i"), display_name="Birds", labels={"a": "b"})
    cluster = instance.cluster(f"{instance.instance_id}-c1", location_id=ZONE, serve_nodes=1)
    instance.create(clusters=[cluster]).result(timeout=20)
    assert instance.exists()
    instance.reload()
    assert (instance.display_name, instance.labels, instance.state) == ("Birds", {"a": "b"}, enums.Instance.State.READY)
    found, failed = admin_client.list_instances()
    assert [i.name for i in found] == [instance.name]
    assert failed == []
    clusters, failed = instance.list_clusters()
    assert [c.name for c in clusters] == [cluster.name]
    cluster.reload()
    assert cluster.serve_nodes == 1
    instance.display_name = "More birds"
    instance.update().result(timeout=20)
    instance.reload()
    assert instance.display_name == "More birds"
    instance.delete()
    assert not instance.exists()


def test_b1_the_classic_client_makes_tables_and_families(classic_table):
    table = classic_table
    assert table.exists()
    families = table.list_column_families()
    assert set(families) == {"f", "g"}
    assert families["f"].gc_rule == column_family.MaxVersionsGCRule(3)
    rule = column_family.GCRuleUnion(
        [column_family.MaxAgeGCRule(datetime.timedelta(days=1)), column_family.MaxVersionsGCRule(2)]
    )
    table.column_family("h", gc_rule=rule).create()
    assert table.list_column_families()["h"].gc_rule == rule
    changed = table.column_family("h", gc_rule=column_family.MaxVersionsGCRule(9))
    changed.update()
    assert table.list_column_families()["h"].gc_rule == column_family.MaxVersionsGCRule(9)
    changed.delete()
    assert set(table.list_column_families()) == {"f", "g"}
    [state] = table.get_cluster_states().values()
    assert state.replication_state == enums.Table.ReplicationState.READY
    [instance_table] = table._instance.list_tables()
    assert instance_table.name == table.name
    table.delete()
    assert not table.exists()


def test_b1_the_classic_client_writes_and_reads(classic_table):
    table = classic_table
    row = table.direct_row(b"wren")
    row.set_cell("f", b"song", b"long", timestamp=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc))
    row.set_cell("g", b"eggs", 6)
    assert row.commit().code == 0
    got = table.read_row(b"wren")
    assert got.cells["f"][b"song"][0].value == b"long"
    assert got.cells["f"][b"song"][0].timestamp == datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    assert struct.unpack(">q", got.cells["g"][b"eggs"][0].value) == (6,)
    assert table.read_row(b"none") is None
    rows = [table.direct_row(b"bird-%02d" % n) for n in range(20)]
    for n, direct in enumerate(rows):
        direct.set_cell("f", b"n", b"%d" % n)
    assert {status.code for status in table.mutate_rows(rows)} == {0}
    row_set = RowSet()
    row_set.add_row_range_from_keys(start_key=b"bird-05", end_key=b"bird-10")
    row_set.add_row_key(b"wren")
    assert [r.row_key for r in table.read_rows(row_set=row_set)] == [b"bird-%02d" % n for n in range(5, 10)] + [b"wren"]
    assert len(list(table.read_rows(limit=7))) == 7
    only = row_filters.RowFilterChain(
        filters=[row_filters.FamilyNameRegexFilter("g"), row_filters.StripValueTransformerFilter(True)]
    )
    [(key, cell)] = [(r.row_key, r.cells["g"][b"eggs"][0]) for r in table.read_rows(filter_=only)]
    assert (key, cell.value) == (b"wren", b"")
    assert list(table.sample_row_keys())[-1].row_key in (b"", b"wren")
    table.drop_by_prefix(b"bird-0")
    assert len(list(table.read_rows())) == 11
    table.truncate()
    assert list(table.read_rows()) == []


def test_b1_the_classic_client_deletes_appends_and_decides(classic_table):
    table = classic_table
    row = table.append_row(b"r")
    row.append_cell_value("f", b"text", b"ab")
    row.increment_cell_value("f", b"count", 5)
    got = row.commit()
    assert got["f"][b"text"][0][0] == b"ab"
    assert struct.unpack(">q", got["f"][b"count"][0][0]) == (5,)
    decide = table.conditional_row(b"r", row_filters.ValueRegexFilter(b"ab"))
    decide.set_cell("g", b"yes", b"1", state=True)
    decide.set_cell("g", b"no", b"1", state=False)
    assert decide.commit() is True
    assert set(table.read_row(b"r").cells["g"]) == {b"yes"}
    delete = table.direct_row(b"r")
    delete.delete_cell("f", b"text")
    delete.delete_cells("g", delete.ALL_COLUMNS)
    delete.commit()
    assert {family: set(columns) for family, columns in table.read_row(b"r").cells.items()} == {"f": {b"count"}}
    delete = table.direct_row(b"r")
    delete.delete()
    delete.commit()
    assert table.read_row(b"r") is None


def test_b1_the_classic_batcher_sends_all(classic_table):
    with classic_table.mutations_batcher(flush_count=50) as batcher:
        for n in range(333):
            row = classic_table.direct_row(b"%04d" % n)
            row.set_cell("f", b"q", b"v")
            batcher.mutate(row)
    assert len(list(classic_table.read_rows())) == 333


@pytest.fixture
async def data(server, project, bigtable, unique):
    """The asynchronous data client's view of a new table."""
    instance = bigtable.create_instance(unique("i"))
    bigtable.create_table(instance, "birds", ("f", "g"))
    with emulator_host(server.address):
        client = BigtableDataClientAsync(project=project)
    async with client, client.get_table(instance.rpartition("/")[2], "birds") as table:
        yield table


async def fill(table, count, size=10):
    entries = [RowMutationEntry(b"%05d" % n, SetCell("f", b"q", b"v" * size, 1000)) for n in range(count)]
    await table.bulk_mutate_rows(entries)


async def test_b1_the_async_client_writes_and_reads(data):
    await data.mutate_row(b"r", [SetCell("f", b"a", b"1", 1000), SetCell("g", b"b", 7, 2000)])
    row = await data.read_row(b"r")
    assert [(c.family, c.qualifier, c.timestamp_micros, c.value) for c in row] == [
        ("f", b"a", 1000, b"1"),
        ("g", b"b", 2000, struct.pack(">q", 7)),
    ]
    assert await data.row_exists(b"r")
    assert not await data.row_exists(b"none")
    assert await data.read_row(b"none") is None
    await data.mutate_row(b"r", DeleteRangeFromColumn("f", b"a"))
    assert [c.family for c in await data.read_row(b"r")] == ["g"]
    await data.mutate_row(b"r", DeleteAllFromRow())
    assert await data.read_row(b"r") is None


async def test_b1_the_async_client_reads_ranges_shards_and_samples(data):
    await fill(data, 300)
    query = ReadRowsQuery(row_ranges=[RowRange(b"00010", b"00015")], row_keys=[b"00200"], limit=4)
    assert [row.row_key for row in await data.read_rows(query)] == [b"%05d" % n for n in (10, 11, 12, 13)]
    samples = await data.sample_row_keys()
    shards = ReadRowsQuery(row_ranges=[RowRange(b"00000", b"00200")]).shard(samples)
    assert len(await data.read_rows_sharded(shards)) == 200
    assert len(await data.read_rows_sharded([ReadRowsQuery(row_keys=[b"%05d" % n]) for n in range(0, 300, 30)])) == 10
    keep = data_filters.RowFilterChain(
        [data_filters.RowKeyRegexFilter(b"0010."), data_filters.ApplyLabelFilter("kept")]
    )
    rows = await data.read_rows(ReadRowsQuery(row_filter=keep))
    assert [row.row_key for row in rows] == [b"0010%d" % n for n in range(10)]
    assert all(row[0].labels == ["kept"] for row in rows)


async def test_b1_the_async_client_decides_appends_and_increments(data):
    rules = [AppendValueRule("f", b"t", b"ab"), IncrementRule("f", b"n", 2)]
    row = await data.read_modify_write_row(b"r", rules)
    assert row.get_cells("f", b"t")[0].value == b"ab"
    assert int(row.get_cells("f", b"n")[0]) == 2
    is_there = data_filters.ValueRegexFilter(b"ab")
    assert await data.check_and_mutate_row(
        b"r", is_there, true_case_mutations=SetCell("g", b"yes", b"1"), false_case_mutations=SetCell("g", b"no", b"1")
    )
    assert (await data.read_row(b"r")).get_cells("g", b"yes")


async def test_b1_the_async_client_names_the_entries_that_failed(data):
    entries = [
        RowMutationEntry(b"ok", SetCell("f", b"q", b"v")),
        RowMutationEntry(b"bad", SetCell("none", b"q", b"v")),
    ]
    with pytest.raises(MutationsExceptionGroup) as caught:
        await data.bulk_mutate_rows(entries)
    assert [error.index for error in caught.value.exceptions] == [1]
    assert [row.row_key for row in await data.read_rows(ReadRowsQuery())] == [b"ok"]


async def test_b1_the_async_batcher_sends_all_under_concurrency(data):
    async with data.mutations_batcher(flush_limit_mutation_count=100) as batcher:
        for n in range(1000):
            await batcher.append(RowMutationEntry(b"%05d" % n, SetCell("f", b"q", b"v")))
    await asyncio.gather(*[data.mutate_row(b"x%03d" % n, SetCell("f", b"q", b"v")) for n in range(200)])
    assert len(await data.read_rows(ReadRowsQuery())) == 1200
    got = await asyncio.gather(*[data.read_row(b"%05d" % n) for n in range(0, 1000, 5)])
    assert all(got)


async def test_b1_an_unknown_table_is_not_found_by_the_async_client(server, project, bigtable, unique):
    instance = bigtable.create_instance(unique("i")).rpartition("/")[2]
    with emulator_host(server.address):
        client = BigtableDataClientAsync(project=project)
    async with client, client.get_table(instance, "none") as table:
        with pytest.raises(NotFound):
            await table.read_row(b"r")
        with pytest.raises(NotFound):
            await table.mutate_row(b"r", SetCell("f", b"q", b"v"))
        with pytest.raises(ShardedReadRowsExceptionGroup):
            await table.read_rows_sharded([ReadRowsQuery()])


def test_b1_a_cut_stream_is_resumed_where_it_broke(server, bigtable, unique, project):
    """The connection breaks three times within a scan; the official client asks again from the last row it has."""
    instance = bigtable.create_instance(unique("i"))
    table_name = bigtable.create_table(instance, "birds")
    for part in range(10):
        entries = [(b"%d-%03d" % (part, n), [{"set_cell": {"family_name": "f", "value": b"v" * 10_000}}]) for n in range(100)]
        assert set(bigtable.write_many(table_name, entries)) == {0}
    proxy = Proxy(server.address)
    try:
        proxy.cut_after(3_000_000, 2_500_000, 1_000_000)
        with emulator_host(proxy.address):
            client = BigtableDataClient(project=project)
        with client, client.get_table(instance.rpartition("/")[2], "birds") as table:
            keys = [row.row_key for row in table.read_rows(ReadRowsQuery(), operation_timeout=60)]
        assert keys == [b"%d-%03d" % (part, n) for part in range(10) for n in range(100)]
        assert proxy.made >= 4
        proxy.cut_after(3_000_000)
        with emulator_host(proxy.address):
            client = BigtableDataClient(project=project)
        with client, client.get_table(instance.rpartition("/")[2], "birds") as table:
            query = ReadRowsQuery(row_ranges=[RowRange(b"2-000", b"8-000")], row_keys=[b"9-000"], limit=550)
            keys = [row.row_key for row in table.read_rows(query, operation_timeout=60)]
        assert keys == [b"%d-%03d" % (part, n) for part in range(2, 8) for n in range(100)][:550]
    finally:
        proxy.stop()


async def test_b8_the_async_client_sees_a_lock_and_the_return_of_its_data(server, project, keys, bigtable, unique):
    """A disabled key is not a passing fault: the client must not retry it until its deadline."""
    key = keys.key("k")
    instance = bigtable.create_instance(unique("i"), key=key)
    bigtable.create_table(instance, "birds")
    with emulator_host(server.address):
        client = BigtableDataClientAsync(project=project)
    async with client, client.get_table(instance.rpartition("/")[2], "birds") as table:
        await table.mutate_row(b"r", SetCell("f", b"q", b"v"))
        keys.disable(key)
        with pytest.raises(FailedPrecondition, match="is disabled"):
            for _ in range(200):
                await table.read_row(b"r", operation_timeout=5)
                await asyncio.sleep(0.005)
        with pytest.raises(FailedPrecondition, match="is disabled"):
            await table.mutate_row(b"r", SetCell("f", b"q", b"w"), operation_timeout=5)
        keys.enable(key)
        for _ in range(200):
            try:
                row = await table.read_row(b"r")
                break
            except FailedPrecondition:
                await asyncio.sleep(0.02)
        assert row[0].value == b"v"


def test_b1_the_data_api_answers_over_rest_as_well(server, bigtable, unique):
    """The official client's REST transport: unary calls and streams."""
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.bigtable_v2 import BigtableClient
    from harness.bigtable import set_cell
    from harness.chunks import decode

    table = bigtable.create_table(bigtable.create_instance(unique("i")), "t")
    rest = BigtableClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )
    rest.mutate_row(table_name=table, row_key=b"r\x00", mutations=[set_cell("f", b"q", 1000, b"\xff")])
    got = list(decode(rest.read_rows(request={"table_name": table})))
    assert got == [(b"r\x00", [("f", b"q", 1000, b"\xff", ())])]
    assert [s.row_key for s in rest.sample_row_keys(table_name=table)]
