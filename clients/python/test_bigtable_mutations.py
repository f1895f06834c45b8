"""Writes by the official data API: every mutation, many rows at once, conditions, read-modify-write: B1, B4."""

import random
import struct
import time

import pytest
from google.cloud.bigtable_v2.types import Mutation, ReadModifyWriteRule, RowFilter
from harness import generate
from harness.bigtable import delete_column, delete_family, delete_row, set_cell
from harness.errors import refused
from harness.model import Table

KIB, MIB = 1 << 10, 1 << 20


def cell(family, qualifier, timestamp, value):
    return family, qualifier, timestamp, value, ()


def test_b1_cells_are_versions_of_columns_newest_first(table):
    clients, name = table
    clients.write(
        name,
        b"r",
        set_cell("g", b"", 0, b"empty qualifier"),
        set_cell("f", b"b", 1000, b"1"),
        set_cell("f", b"b", 3000, b"3"),
        set_cell("f", b"a", 2000, b""),
    )
    clients.write(name, b"r", set_cell("f", b"b", 2000, b"2"), set_cell("f", b"b", 1000, b"one"))
    assert clients.read_row(name, b"r") == [
        cell("f", b"a", 2000, b""),
        cell("f", b"b", 3000, b"3"),
        cell("f", b"b", 2000, b"2"),
        cell("f", b"b", 1000, b"one"),
        cell("g", b"", 0, b"empty qualifier"),
    ]


def test_b1_a_server_timestamp_is_the_time_in_milliseconds(table):
    clients, name = table
    before = time.time_ns() // 1_000_000 * 1000
    clients.write(name, b"r", set_cell("f", b"q", -1, b"v"))
    after = time.time_ns() // 1000
    [(_, _, timestamp, _, _)] = clients.read_row(name, b"r")
    assert before <= timestamp <= after
    assert timestamp % 1000 == 0


def test_b1_deletes_take_what_they_name_and_no_more(table):
    clients, name = table

    def fresh():
        cells = [set_cell(f, q, at, b"v") for f in "fg" for q in (b"a", b"b") for at in (1000, 2000, 3000)]
        clients.write(name, b"r", delete_row(), *cells)

    def left():
        return {(c[0], c[1], c[2]) for c in clients.read_row(name, b"r")}

    fresh()
    everything = left()
    assert len(everything) == 12
    clients.write(name, b"r", delete_column("f", b"a", 1000, 3000))
    assert everything - left() == {("f", b"a", 1000), ("f", b"a", 2000)}
    fresh()
    clients.write(name, b"r", delete_column("f", b"a", 2000))
    assert everything - left() == {("f", b"a", 2000), ("f", b"a", 3000)}
    fresh()
    clients.write(name, b"r", delete_column("g", b"b"))
    assert everything - left() == {("g", b"b", at) for at in (1000, 2000, 3000)}
    fresh()
    clients.write(name, b"r", delete_family("g"))
    assert left() == {at for at in everything if at[0] == "f"}
    fresh()
    clients.write(name, b"r", delete_row())
    assert left() == set()
    assert clients.keys(name) == []


def test_b1_mutations_of_a_request_take_effect_in_order(table):
    clients, name = table
    clients.put(name, b"r", b"before")
    clients.write(
        name,
        b"r",
        set_cell("f", b"q", 1000, b"gone"),
        delete_row(),
        set_cell("f", b"q", 2000, b"kept"),
        set_cell("f", b"q", 2000, b"last"),
        set_cell("g", b"q", 1000, b"gone"),
        delete_family("g"),
    )
    assert clients.read_row(name, b"r") == [cell("f", b"q", 2000, b"last")]


def test_b1_a_delete_does_not_hide_what_is_written_after_it(table):
    clients, name = table
    for _ in range(3):
        clients.put(name, b"r", timestamp=1000)
        clients.write(name, b"r", delete_column("f", b"q"))
        assert clients.read_row(name, b"r") == []
        clients.put(name, b"r", b"again", timestamp=1000)
        assert clients.read_row(name, b"r") == [cell("f", b"q", 1000, b"again")]


@pytest.mark.parametrize("seed", range(4))
def test_b1_random_mutations_leave_what_a_naive_model_says(shared_instance, unique, seed):
    rng = random.Random(seed)
    clients, instance = shared_instance
    name = clients.create_table(instance, unique("t"), generate.FAMILIES)
    model = Table(generate.FAMILIES)
    for step in range(150):
        entries = [
            (rng.choice(generate.KEYS), generate.mutations(rng)) for _ in range(rng.choice([1, 1, 3]))
        ]
        if len(entries) == 1:
            clients.write(name, entries[0][0], *entries[0][1])
        else:
            assert clients.write_many(name, entries) == [0] * len(entries)
        for key, mutations in entries:
            model.apply(key, mutations)
        if step % 10 == 9:
            assert clients.read(name) == model.read()


def test_b1_one_row_under_hundreds_of_small_writes_is_whole(table):
    clients, name = table
    clients.write_many(name, [(b"hot", [set_cell("f", b"%03d" % n, 1000, b"%d" % n)]) for n in range(500)])
    assert [(c[1], c[3]) for c in clients.read_row(name, b"hot")] == [(b"%03d" % n, b"%d" % n) for n in range(500)]


def test_b1_each_row_of_many_has_its_own_status(table):
    clients, name = table
    good = [set_cell("f", b"q", 1000, b"v")]
    codes = clients.write_many(
        name,
        [
            (b"ok-1", good),
            (b"unknown family", [set_cell("none", b"q", 1000, b"v")]),
            (b"", good),
            (b"ok-2", good),
            (b"granularity", [set_cell("f", b"q", 1, b"v")]),
            (b"no mutations", []),
            (b"half", [*good, set_cell("none", b"q", 1000, b"v")]),
            (b"x" * (4 * KIB + 1), good),
            (b"ok-3", good),
        ],
    )
    assert [code == 0 for code in codes] == [True, False, False, True, False, False, False, False, True]
    assert codes[1] in (3, 5) and codes[6] == codes[1]
    assert {codes[index] for index in (2, 4, 5, 7)} == {3}
    assert clients.keys(name) == [b"ok-1", b"ok-2", b"ok-3"]


def test_b1_thousands_of_rows_in_one_request(table):
    clients, name = table
    codes = clients.write_many(
        name, [(b"%05d" % n, [set_cell("f", b"q", 1000, b"%d" % n)]) for n in range(10_000)]
    )
    assert codes == [0] * 10_000
    rows = clients.read(name)
    assert [(key, cells[0][3]) for key, cells in rows] == [(b"%05d" % n, b"%d" % n) for n in range(10_000)]


def test_b1_an_unknown_family_is_refused_and_named(table):
    clients, name = table
    for mutation in [set_cell("none", b"q", 0, b""), delete_column("none", b"q"), delete_family("none")]:
        with refused(("NOT_FOUND", "INVALID_ARGUMENT"), "none"):
            clients.write(name, b"r", set_cell("f", b"q", 0, b"v"), mutation)
    assert clients.keys(name) == []


@pytest.mark.parametrize("timestamp", [-2, 1, 999, 1001, -(1 << 63)])
def test_b1_a_timestamp_that_is_no_whole_millisecond_is_refused(table, timestamp):
    clients, name = table
    with refused("INVALID_ARGUMENT"):
        clients.write(name, b"r", set_cell("f", b"q", timestamp, b"v"))


@pytest.mark.parametrize("timestamp", [0, 1000, (1 << 63) - 1 - ((1 << 63) - 1) % 1000])
def test_b1_every_whole_millisecond_is_a_timestamp(table, timestamp):
    clients, name = table
    clients.write(name, b"r", set_cell("f", b"q", timestamp, b"v"))
    assert clients.read_row(name, b"r") == [cell("f", b"q", timestamp, b"v")]


def test_b1_the_largest_keys_qualifiers_and_values_fit_and_no_larger(table):
    clients, name = table
    key, qualifier = b"k" * 4 * KIB, b"q" * 16 * KIB
    clients.write(name, key, set_cell("f", qualifier, 0, b"v"))
    assert clients.read_row(name, key) == [cell("f", qualifier, 0, b"v")]
    with refused("INVALID_ARGUMENT"):
        clients.write(name, key + b"k", set_cell("f", b"q", 0, b"v"))
    with refused("INVALID_ARGUMENT", "column_qualifier"):
        clients.write(name, b"r", set_cell("f", qualifier + b"q", 0, b"v"))
    with refused("INVALID_ARGUMENT"):
        clients.write(name, b"", set_cell("f", b"q", 0, b"v"))
    with refused("INVALID_ARGUMENT"):
        clients.write(name, b"r")
    with refused("INVALID_ARGUMENT"):
        clients.write(name, b"r", Mutation())


@pytest.mark.slow
def test_b1_a_value_of_100_mib_fits_and_no_larger(table):
    clients, name = table
    value = random.Random(1).randbytes(100 * MIB)
    clients.write(name, b"r", set_cell("f", b"q", 0, value))
    [(_, _, _, got, _)] = clients.read_row(name, b"r")
    assert got == value
    with refused("INVALID_ARGUMENT", "value"):
        clients.write(name, b"r2", set_cell("f", b"q", 0, value + b"x"))
    assert clients.keys(name, filter=RowFilter(strip_value_transformer=True)) == [b"r"]


@pytest.mark.slow
def test_b1_100_000_mutations_fit_in_a_request_and_no_more(table):
    clients, name = table
    mutations = [set_cell("f", b"%d" % n, 0, b"") for n in range(100_000)]
    clients.write(name, b"r", *mutations)
    assert len(clients.read_row(name, b"r")) == 100_000
    with refused("INVALID_ARGUMENT"):
        clients.write(name, b"r2", *mutations, delete_row())


def test_b1_aggregates_are_not_built_and_say_so(table):
    clients, name = table
    added = Mutation.AddToCell(
        family_name="f", column_qualifier={"raw_value": b"q"}, timestamp={"raw_timestamp_micros": 0}, input={"int_value": 1}
    )
    with refused("UNIMPLEMENTED") as caught:
        clients.write(name, b"r", Mutation(add_to_cell=added))
    assert caught.message


def check_and_mutate(clients, name, key, then=(), otherwise=(), predicate=None):
    request = {"table_name": name, "row_key": key, "true_mutations": then, "false_mutations": otherwise}
    if predicate is not None:
        request["predicate_filter"] = predicate
    return clients.data.check_and_mutate_row(request=request, retry=None).predicate_matched


def test_b1_a_condition_chooses_the_mutations(table):
    clients, name = table
    is_one = RowFilter(value_regex_filter=b"1")
    then, otherwise = [set_cell("f", b"then", 0, b"")], [set_cell("f", b"q", 0, b"1")]
    assert check_and_mutate(clients, name, b"r", then, otherwise, is_one) is False
    assert [c[1] for c in clients.read_row(name, b"r")] == [b"q"]
    assert check_and_mutate(clients, name, b"r", then, otherwise, is_one) is True
    assert [c[1] for c in clients.read_row(name, b"r")] == [b"q", b"then"]
    assert check_and_mutate(clients, name, b"none", then) is False
    assert check_and_mutate(clients, name, b"r", [delete_row()]) is True
    assert clients.keys(name) == []


def test_b1_a_condition_that_makes_no_sense_is_refused(table):
    clients, name = table
    good = [set_cell("f", b"q", 0, b"")]
    with refused("INVALID_ARGUMENT"):
        check_and_mutate(clients, name, b"r")
    with refused("INVALID_ARGUMENT"):
        check_and_mutate(clients, name, b"", good)
    with refused("INVALID_ARGUMENT"):
        check_and_mutate(clients, name, b"r", good, predicate=RowFilter(value_regex_filter=b"("))
    with refused(("NOT_FOUND", "INVALID_ARGUMENT"), "none"):
        check_and_mutate(clients, name, b"r", good, [set_cell("none", b"q", 0, b"")])
    with refused("NOT_FOUND"):
        check_and_mutate(clients, f"{name}x", b"r", good)
    assert clients.keys(name) == []


def read_modify_write(clients, name, key, *rules):
    made = [ReadModifyWriteRule(family_name=f, column_qualifier=q, **{kind: value}) for f, q, kind, value in rules]
    row = clients.data.read_modify_write_row(
        request={"table_name": name, "row_key": key, "rules": made}, retry=None
    ).row
    assert row.key == key
    return {
        (family.name, column.qualifier): column.cells[0].value for family in row.families for column in family.columns
    }


def test_b1_append_and_increment_give_the_new_cells(table):
    clients, name = table
    rules = [("f", b"text", "append_value", b"ab"), ("g", b"count", "increment_amount", 5)]
    assert read_modify_write(clients, name, b"r", *rules) == {
        ("f", b"text"): b"ab",
        ("g", b"count"): struct.pack(">q", 5),
    }
    rules = [
        ("f", b"text", "append_value", b"c"),
        ("g", b"count", "increment_amount", -7),
        ("g", b"count", "increment_amount", 1),
        ("f", b"text", "append_value", b""),
    ]
    assert read_modify_write(clients, name, b"r", *rules) == {
        ("f", b"text"): b"abc",
        ("g", b"count"): struct.pack(">q", -1),
    }
    newest = {(c[0], c[1]): c[3] for c in reversed(clients.read_row(name, b"r"))}
    assert newest == {("f", b"text"): b"abc", ("g", b"count"): struct.pack(">q", -1)}


def test_b1_a_read_modify_write_has_the_servers_time_or_that_of_a_later_cell(table):
    clients, name = table
    later = time.time_ns() // 1_000_000 * 1000 + 3_600_000_000
    clients.put(name, b"r", b"a", timestamp=later)
    read_modify_write(clients, name, b"r", ("f", b"q", "append_value", b"b"))
    assert clients.read_row(name, b"r") == [cell("f", b"q", later, b"ab")]
    before = time.time_ns() // 1_000_000 * 1000
    read_modify_write(clients, name, b"new", ("f", b"q", "append_value", b"b"))
    [(_, _, timestamp, _, _)] = clients.read_row(name, b"new")
    assert before <= timestamp <= time.time_ns() // 1000


def test_b1_an_increment_wraps_as_64_bits_do(table):
    clients, name = table
    clients.put(name, b"r", struct.pack(">q", (1 << 63) - 1), timestamp=0)
    got = read_modify_write(clients, name, b"r", ("f", b"q", "increment_amount", 1))
    assert got == {("f", b"q"): struct.pack(">q", -(1 << 63))}


def test_b1_a_read_modify_write_that_makes_no_sense_is_refused(table):
    clients, name = table
    clients.put(name, b"r", b"not a number")
    with refused(("FAILED_PRECONDITION", "INVALID_ARGUMENT")):
        read_modify_write(clients, name, b"r", ("f", b"q", "increment_amount", 1))
    for rules in [(), [("none", b"q", "append_value", b"x")], [("f", b"q" * (16 * KIB + 1), "append_value", b"x")]]:
        with refused(("INVALID_ARGUMENT", "NOT_FOUND")):
            read_modify_write(clients, name, b"r", *rules)
    with refused("INVALID_ARGUMENT"):
        clients.data.read_modify_write_row(
            request={"table_name": name, "row_key": b"r", "rules": [ReadModifyWriteRule(family_name="f")]}
        )
    with refused("INVALID_ARGUMENT"):
        read_modify_write(clients, name, b"", ("f", b"q", "append_value", b"x"))
    assert clients.read_row(name, b"r") == [cell("f", b"q", 1000, b"not a number")]


def test_b1_concurrent_increments_and_conditions_lose_nothing(table):
    from concurrent.futures import ThreadPoolExecutor

    clients, name = table

    def work(worker):
        for n in range(25):
            read_modify_write(clients, name, b"sum", ("f", b"q", "increment_amount", 1))
            flag = RowFilter(column_qualifier_regex_filter=b"%d" % n)
            put = [set_cell("f", b"%d" % n, 0, b"%d" % worker)]
            won = not check_and_mutate(clients, name, b"race", (), put, flag)
            if won:
                wins.append(n)

    wins = []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    newest = clients.read_row(name, b"sum")[0][3]
    assert struct.unpack(">q", newest) == (200,)
    assert sorted(wins) == list(range(25)), "each condition was won once"


@pytest.mark.slow
def test_b1_rows_stay_right_through_flushes_and_compaction(shared_instance, unique):
    """Some 200 MiB in 48 KiB values, written, overwritten and deleted, far more than is kept in memory."""
    clients, instance = shared_instance
    name = clients.create_table(instance, unique("t"), {"f": {"max_num_versions": 1}, "g": None})
    rng = random.Random(3)
    expected = {}
    for step in range(1, 71):
        entries = {}
        for _ in range(60):
            key = b"%04d" % rng.randrange(900)
            if rng.random() < 0.15:
                entries[key] = [delete_row()]
                expected.pop(key, None)
            else:
                value = rng.randbytes(48 * KIB)
                entries[key] = [set_cell("f", b"q", step * 1000, value), set_cell("g", b"n", 0, b"%d" % step)]
                expected[key] = [cell("f", b"q", step * 1000, value), cell("g", b"n", 0, b"%d" % step)]
        assert set(clients.write_many(name, entries.items())) == {0}
    assert dict(clients.read(name)) == expected
    for key in rng.sample(sorted(expected), 50):
        assert clients.read_row(name, key) == expected[key]
