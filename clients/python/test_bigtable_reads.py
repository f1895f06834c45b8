"""ReadRows and SampleRowKeys by the official data API: row sets, limits, chunks, reversed scans: B1."""

import base64
import random

import pytest
from google.cloud.bigtable_v2.types import FeatureFlags, ReadRowsRequest, RowFilter, RowRange, RowSet
from harness import generate
from harness.bigtable import set_cell
from harness.chunks import decode
from harness.errors import refused
from harness.model import Table

MIB = 1 << 20
MAX_MESSAGE = 4 * MIB


def features(**flags):
    encoded = FeatureFlags.serialize(FeatureFlags(**flags))
    return [("bigtable-features", base64.urlsafe_b64encode(encoded).decode())]


REVERSED = features(reverse_scans=True)


@pytest.fixture(scope="module")
def rows(shared_instance):
    """A table with one cell in each of the generator's keys."""
    clients, instance = shared_instance
    name = clients.create_table(instance, "rows", generate.FAMILIES)
    assert set(clients.write_many(name, [(key, [set_cell("f", b"q", 0, key)]) for key in generate.KEYS])) == {0}
    return clients, name, sorted(generate.KEYS)


def closed(start, end):
    return RowSet(row_ranges=[RowRange(start_key_closed=start, end_key_closed=end)])


def test_b1_a_table_is_read_in_the_order_of_its_keys(rows):
    clients, name, keys = rows
    assert clients.read(name) == [(key, [("f", b"q", 0, key, ())]) for key in keys]


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"start_key_closed": b"ab", "end_key_closed": b"b"}, [b"ab", b"b"]),
        ({"start_key_open": b"ab", "end_key_open": b"ba"}, [b"b", b"b\x00"]),
        ({"start_key_closed": b"ab", "end_key_open": b"ab\x00"}, [b"ab"]),
        ({"start_key_open": b"e"}, [b"\xff"]),
        ({"end_key_closed": b"aa"}, [b"a", b"aa"]),
        ({"end_key_open": b"aa"}, [b"a"]),
        ({"start_key_closed": b"x", "end_key_closed": b"y"}, []),
        ({"start_key_open": b"c\xff", "end_key_closed": b"d\nd"}, [b"d", b"d\nd"]),
        ({"start_key_closed": b""}, sorted(generate.KEYS)),
        ({}, sorted(generate.KEYS)),
    ],
    ids=str,
)
def test_b1_a_range_has_open_and_closed_and_no_ends(rows, fields, expected):
    clients, name, _ = rows
    assert clients.keys(name, rows=RowSet(row_ranges=[RowRange(**fields)])) == expected


def test_b1_keys_and_ranges_together_give_each_row_once(rows):
    clients, name, _ = rows
    row_set = RowSet(
        row_keys=[b"e", b"a", b"a", b"none", b"b"],
        row_ranges=[
            RowRange(start_key_closed=b"aa", end_key_closed=b"b"),
            RowRange(start_key_closed=b"ab", end_key_open=b"ba"),
        ],
    )
    assert clients.keys(name, rows=row_set) == [b"a", b"aa", b"ab", b"b", b"b\x00", b"e"]


@pytest.mark.parametrize(
    "row_range",
    [
        {"start_key_closed": b"b", "end_key_closed": b"a"},
        {"start_key_closed": b"b", "end_key_open": b"a"},
        {"start_key_open": b"b", "end_key_closed": b"a"},
    ],
)
def test_b1_a_range_upside_down_is_refused(rows, row_range):
    clients, name, _ = rows
    with refused("INVALID_ARGUMENT"):
        clients.keys(name, rows=RowSet(row_ranges=[RowRange(**row_range)]))


def test_b1_an_empty_row_key_is_refused(rows):
    clients, name, _ = rows
    with refused("INVALID_ARGUMENT"):
        clients.keys(name, rows=RowSet(row_keys=[b""]))


@pytest.mark.parametrize("limit", [1, 5, 12, 13, 1 << 40])
def test_b1_a_limit_counts_rows(rows, limit):
    clients, name, keys = rows
    assert clients.keys(name, rows_limit=limit) == keys[:limit]


def test_b1_a_limit_counts_rows_that_the_filter_leaves(rows):
    clients, name, _ = rows
    kept = RowFilter(row_key_regex_filter=b"[^a].*")
    assert clients.keys(name, rows_limit=2, filter=kept) == [b"b", b"b\x00"]
    with refused("INVALID_ARGUMENT"):
        clients.keys(name, rows_limit=-1)


def test_b1_a_table_that_is_not_there_is_not_found(rows):
    clients, name, _ = rows
    for wrong, code in [(f"{name}x", "NOT_FOUND"), ("", "INVALID_ARGUMENT"), ("tables/t", "INVALID_ARGUMENT")]:
        with refused(code):
            clients.keys(wrong)
        with refused(code):
            list(clients.data.sample_row_keys(table_name=wrong))


def test_b1_a_reversed_scan_gives_the_rows_backwards(rows):
    clients, name, keys = rows
    assert clients.keys(name, reversed=True, metadata=REVERSED) == keys[::-1]
    assert clients.keys(name, reversed=True, rows_limit=3, metadata=REVERSED) == keys[::-1][:3]
    got = clients.keys(name, reversed=True, rows=closed(b"ab", b"b\x00"), metadata=REVERSED)
    assert got == [b"b\x00", b"b", b"ab"]
    row_set = RowSet(row_keys=[b"a", b"e"], row_ranges=[RowRange(start_key_open=b"b", end_key_open=b"d")])
    got = clients.keys(name, reversed=True, rows=row_set, metadata=REVERSED)
    assert got == [b"e", b"c\xff", b"c", b"ba", b"b\x00", b"a"]


def test_b1_a_reversed_scan_gives_the_cells_of_a_row_forwards(table):
    clients, name = table
    clients.write(name, b"r", *[set_cell(f, q, at, b"v") for f in "fg" for q in (b"a", b"b") for at in (0, 1000)])
    forwards = clients.read(name)
    assert clients.read(name, reversed=True, metadata=REVERSED) == forwards


def test_b1_a_reversed_scan_needs_no_header(rows):
    """Clients say in `bigtable-features` that they can take one; a request that asks for one says it as well."""
    clients, name, keys = rows
    assert clients.keys(name, reversed=True) == keys[::-1]


@pytest.mark.parametrize("seed", range(3))
def test_b1_random_row_sets_and_limits_give_what_a_naive_model_says(shared_instance, unique, seed):
    rng = random.Random(1000 + seed)
    clients, instance = shared_instance
    name = clients.create_table(instance, unique("t"), generate.FAMILIES)
    model = Table(generate.FAMILIES)
    entries = [(key, generate.mutations(rng)) for key in generate.KEYS for _ in range(2)]
    clients.write_many(name, entries)
    for key, mutations in entries:
        model.apply(key, mutations)
    for _ in range(80):
        row_set, limit, reverse = generate.row_set(rng), rng.choice([0, 0, 1, 3]), rng.random() < 0.3
        request = {"rows_limit": limit, "reversed": reverse}
        if row_set is not None:
            request["rows"] = row_set
        got = clients.read(name, metadata=REVERSED if reverse else (), **request)
        assert got == model.read(row_set, None, limit, reverse), request


def test_b1_big_values_are_split_and_messages_stay_small(table):
    """The default limit of gRPC clients is 4 MiB a message."""
    clients, name = table
    rng = random.Random(7)
    values = [rng.randbytes(size) for size in (0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB, 12_345_678)]
    for number, value in enumerate(values):
        clients.write(name, b"r%d" % number, set_cell("f", b"q", 0, value), set_cell("g", b"after", 0, b"end"))
    sizes = []
    stream = clients.data.read_rows(request={"table_name": name}, retry=None)
    got = list(decode(stream, sizes=sizes))
    assert [cells[0][3] for _, cells in got] == values
    assert all(cells[1][3] == b"end" for _, cells in got)
    assert max(sizes) < MAX_MESSAGE


def test_b1_a_row_of_many_cells_is_streamed_in_small_messages(table):
    clients, name = table
    for part in range(4):
        cells = [set_cell("fg"[n % 2], b"%06d" % n, 0, b"x" * 200) for n in range(part * 10_000, part * 10_000 + 10_000)]
        clients.write(name, b"wide", *cells)
    sizes = []
    [(key, cells)] = decode(clients.data.read_rows(request={"table_name": name}, retry=None), sizes=sizes)
    assert key == b"wide"
    assert len(cells) == 40_000
    assert max(sizes) < MAX_MESSAGE


def test_b1_many_small_rows_share_a_message(table):
    clients, name = table
    clients.write_many(name, [(b"%04d" % n, [set_cell("f", b"q", 0, b"v")]) for n in range(2000)])
    sizes = []
    got = list(decode(clients.data.read_rows(request={"table_name": name}, retry=None), sizes=sizes))
    assert len(got) == 2000
    assert len(sizes) < 200


def test_b1_a_read_sees_the_rows_as_they_were_when_it_began(table):
    """Rows are read whole, and a stream read slowly is not disturbed by writes in between."""
    clients, name = table
    for part in range(8):
        clients.write_many(name, [(b"%d-%02d" % (part, n), [set_cell("f", b"q", 0, b"a" * 65_536)]) for n in range(20)])
    stream = decode(clients.data.read_rows(request={"table_name": name}, retry=None))
    first, _ = next(stream)
    clients.tables.drop_row_range(request={"name": name, "row_key_prefix": b"7-"})
    assert first == b"0-00"
    rest = list(stream)
    assert all(cells == [("f", b"q", 0, b"a" * 65_536, ())] for _, cells in rest)
    assert len(clients.keys(name)) == 140


def test_b1_request_stats_come_with_the_last_message_when_asked_for(rows):
    clients, name, keys = rows
    full = ReadRowsRequest.RequestStatsView.REQUEST_STATS_FULL
    for request, count in [({}, len(keys)), ({"filter": RowFilter(block_all_filter=True)}, 0)]:
        stream = clients.data.read_rows(request={"table_name": name, "request_stats_view": full, **request}, retry=None)
        responses = list(stream)
        assert all(not response._pb.HasField("request_stats") for response in responses[:-1])
        stats = responses[-1].request_stats.full_read_stats_view.read_iteration_stats
        assert stats.rows_returned_count == count
        assert stats.rows_seen_count == len(keys)
    stream = clients.data.read_rows(request={"table_name": name}, retry=None)
    assert not any(response._pb.HasField("request_stats") for response in stream)


def test_b1_row_keys_are_sampled_in_order_with_an_end(table):
    clients, name = table

    def samples():
        return [(s.row_key, s.offset_bytes) for s in clients.data.sample_row_keys(table_name=name, retry=None)]

    empty = samples()
    assert len(empty) <= 1 and all(key == b"" for key, _ in empty)
    for part in range(10):
        value = random.Random(part).randbytes(1000)
        clients.write_many(name, [(b"%d-%03d" % (part, n), [set_cell("f", b"q", 0, value)]) for n in range(300)])
    got = samples()
    assert got
    keys = [key for key, _ in got if key]
    assert keys == sorted(set(keys))
    assert got[-1][0] == b"" or got[-1][0] >= b"9-299", "the last sample is the end of the table"
    offsets = [offset for _, offset in got]
    assert offsets == sorted(offsets)


def test_b1_ping_and_warm_answers(shared_instance):
    clients, instance = shared_instance
    clients.data.ping_and_warm(name=instance)
    with refused("NOT_FOUND"):
        clients.data.ping_and_warm(name=f"{instance}x")
    with refused("INVALID_ARGUMENT"):
        clients.data.ping_and_warm(name="")


def test_b1_no_header_is_needed(rows):
    """A bare call, as cbt's admin calls: no request-params, no features."""
    import grpc
    from google.cloud.bigtable_v2.types import ReadRowsResponse

    clients, name, keys = rows
    call = clients.channel.unary_stream(
        "/google.bigtable.v2.Bigtable/ReadRows",
        request_serializer=ReadRowsRequest.serialize,
        response_deserializer=ReadRowsResponse.deserialize,
    )
    assert [key for key, _ in decode(call(ReadRowsRequest(table_name=name)))] == keys
    assert isinstance(clients.channel, grpc.Channel)


def test_b1_an_unknown_app_profile_is_refused(rows):
    clients, name, keys = rows
    assert clients.keys(name, app_profile_id="default") == keys
    with refused(("NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION")):
        clients.keys(name, app_profile_id="no-such-profile")
