"""Every filter of the data API against a naive model of its public text: B1."""

import random

import pytest
from google.cloud.bigtable_v2.types import RowFilter
from harness import generate
from harness.bigtable import set_cell
from harness.errors import refused
from harness.model import Ambiguous, Table, canonical

RANDOM_FILTERS = 400


def chain(*filters):
    return RowFilter(chain=RowFilter.Chain(filters=filters))


def interleave(*filters):
    return RowFilter(interleave=RowFilter.Interleave(filters=filters))


def condition(predicate, then=None, otherwise=None):
    branches = {"predicate_filter": predicate}
    if then is not None:
        branches["true_filter"] = then
    if otherwise is not None:
        branches["false_filter"] = otherwise
    return RowFilter(condition=RowFilter.Condition(**branches))


PASS = RowFilter(pass_all_filter=True)
BLOCK = RowFilter(block_all_filter=True)
SINK = RowFilter(sink=True)


@pytest.fixture(scope="module")
def filled(shared_instance):
    """A table of random rows, and the model of it."""
    clients, instance = shared_instance
    name = clients.create_table(instance, "filters", generate.FAMILIES)
    model = Table(generate.FAMILIES)
    rng = random.Random(42)
    entries = []
    for key in generate.KEYS:
        cells = {
            (rng.choice(generate.FAMILIES), rng.choice(generate.QUALIFIERS), rng.choice(generate.TIMESTAMPS)):
                rng.choice(generate.VALUES)
            for _ in range(rng.choice([1, 4, 12]))
        }
        entries.append((key, [set_cell(*at, value) for at, value in cells.items()]))
    assert set(clients.write_many(name, entries)) == {0}
    for key, mutations in entries:
        model.apply(key, mutations)
    return clients, name, model


def check(filled, row_filter):
    clients, name, model = filled
    expected = model.read(None, row_filter)
    got = clients.read(name, filter=row_filter)
    assert [(key, canonical(cells)) for key, cells in got] == [(key, canonical(cells)) for key, cells in expected]
    for _, cells in got:
        order = [(cell[0], cell[1], -cell[2]) for cell in cells]
        assert order == sorted(order), "cells are out of order"
    return expected


LEAVES = {
    "pass": PASS,
    "block": BLOCK,
    "key regex": RowFilter(row_key_regex_filter=b"a.*"),
    "key regex of one byte": RowFilter(row_key_regex_filter=b"c\xff"),
    "family regex": RowFilter(family_name_regex_filter="[fg]"),
    "family regex is a full match": RowFilter(family_name_regex_filter="h|g"),
    "qualifier regex": RowFilter(column_qualifier_regex_filter=b"a?b"),
    "empty qualifier": RowFilter(column_qualifier_regex_filter=b""),
    "value regex": RowFilter(value_regex_filter=b"[0-9]+"),
    "a dot is no newline": RowFilter(value_regex_filter=b"a.(b|c)"),
    "any byte": RowFilter(value_regex_filter=b"[\x00-\xff]{2}"),
    "column range": RowFilter(
        column_range_filter={"family_name": "f", "start_qualifier_closed": b"a", "end_qualifier_open": b"b"}
    ),
    "column range without bounds": RowFilter(column_range_filter={"family_name": "g"}),
    "value range": RowFilter(value_range_filter={"start_value_open": b"1", "end_value_closed": b"2"}),
    "value range without end": RowFilter(value_range_filter={"start_value_closed": b"abc"}),
    "time range": RowFilter(timestamp_range_filter={"start_timestamp_micros": 1000, "end_timestamp_micros": 3000}),
    "time range without end": RowFilter(timestamp_range_filter={"start_timestamp_micros": 3000}),
    "row offset": RowFilter(cells_per_row_offset_filter=3),
    "row limit": RowFilter(cells_per_row_limit_filter=2),
    "column limit": RowFilter(cells_per_column_limit_filter=1),
    "strip": RowFilter(strip_value_transformer=True),
    "label": RowFilter(apply_label_transformer="a-label-9"),
    "bitmask": RowFilter(value_bitmask_filter={"mask": b"\x00\x0f"}),
    "sink": SINK,
}


@pytest.mark.parametrize("row_filter", LEAVES.values(), ids=LEAVES)
def test_b1_each_filter_does_what_its_text_says(filled, row_filter):
    expected = check(filled, row_filter)
    if row_filter not in (BLOCK,):
        assert expected, "the case shows nothing"


COMPOSED = {
    "chain": chain(RowFilter(family_name_regex_filter="f"), RowFilter(cells_per_column_limit_filter=1)),
    "a limit before a regex is not one after it": chain(
        RowFilter(cells_per_row_limit_filter=2), RowFilter(value_regex_filter=b"1.*")
    ),
    "interleave keeps duplicates": interleave(PASS, PASS),
    "interleave of labels": interleave(
        RowFilter(apply_label_transformer="one"),
        chain(RowFilter(family_name_regex_filter="g"), RowFilter(apply_label_transformer="two")),
    ),
    "condition": condition(
        RowFilter(value_regex_filter=b"12"), RowFilter(strip_value_transformer=True), RowFilter(row_key_regex_filter=b"a.*")
    ),
    "condition without else": condition(RowFilter(value_regex_filter=b"12"), PASS),
    "condition without then": condition(RowFilter(value_regex_filter=b"12"), None, PASS),
    "the predicate does not change the row": condition(chain(RowFilter(value_regex_filter=b"1"), PASS), PASS, BLOCK),
    "a sink bypasses what follows": chain(
        interleave(PASS, chain(RowFilter(family_name_regex_filter="g"), RowFilter(apply_label_transformer="s"), SINK)),
        RowFilter(family_name_regex_filter="f"),
        RowFilter(value_regex_filter=b"1.*"),
    ),
    "a sink alone at the end of a chain": chain(RowFilter(value_regex_filter=b"1.*"), SINK, BLOCK),
    "nested": chain(
        interleave(
            chain(RowFilter(family_name_regex_filter="f"), RowFilter(cells_per_column_limit_filter=1)),
            condition(RowFilter(row_key_regex_filter=b"b.*"), RowFilter(family_name_regex_filter="g"), BLOCK),
        ),
        RowFilter(column_qualifier_regex_filter=b"a.*"),
        RowFilter(apply_label_transformer="l"),
    ),
}


@pytest.mark.parametrize("row_filter", COMPOSED.values(), ids=COMPOSED)
def test_b1_filters_compose(filled, row_filter):
    assert check(filled, row_filter), "the case shows nothing"


@pytest.mark.parametrize("seed", range(4))
def test_b1_random_filters_give_what_a_naive_model_says(filled, seed):
    rng = random.Random(seed)
    checked = shown = 0
    for _ in range(RANDOM_FILTERS // 4 * 2):
        row_filter = generate.row_filter(rng, without=())
        try:
            expected = check(filled, row_filter)
        except Ambiguous:
            continue
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {row_filter}") from error
        checked += 1
        shown += bool(expected)
    assert checked > RANDOM_FILTERS // 4
    assert shown > checked // 4


@pytest.mark.parametrize("seed", range(2))
def test_b1_a_filter_as_a_condition_of_a_write_holds_where_it_leaves_cells(filled, shared_instance, seed):
    clients, name, model = filled
    rng = random.Random(100 + seed)
    for _ in range(40):
        row_filter, key = generate.row_filter(rng), rng.choice(generate.KEYS)
        try:
            expected = any(found == key for found, _ in model.read(None, row_filter))
        except Ambiguous:
            continue
        gone = set_cell("h2", b"never", 0, b"")
        request = {
            "table_name": name,
            "row_key": key,
            "predicate_filter": row_filter,
            "true_mutations": [gone, {"delete_from_column": {"family_name": "h2", "column_qualifier": b"never"}}],
            "false_mutations": [gone, {"delete_from_column": {"family_name": "h2", "column_qualifier": b"never"}}],
        }
        assert clients.data.check_and_mutate_row(request=request, retry=None).predicate_matched == expected, row_filter
    assert clients.read(name) == model.read()


def test_b1_a_row_sample_keeps_whole_rows_and_about_its_share(table):
    clients, name = table
    cells = [set_cell("f", b"a", 0, b""), set_cell("g", b"b", 0, b"")]
    clients.write_many(name, [(b"%04d" % n, cells) for n in range(2000)])
    got = clients.read(name, filter=RowFilter(row_sample_filter=0.3))
    assert all(len(cells) == 2 for _, cells in got)
    assert 450 < len(got) < 750


def test_b1_regexes_are_re2_over_bytes(table):
    clients, name = table
    values = [b"a", b"ab", b"a\nb", b"\xc3\xa9", b"\xe9", b"A", b"\x00", b"a.b", b"1"]
    clients.write_many(name, [(b"%d" % n, [set_cell("f", b"q", 0, value)]) for n, value in enumerate(values)])
    cases = {
        rb"a\Cb": [b"a\nb", b"a.b"],
        rb"\C": [b"a", b"\xe9", b"A", b"\x00", b"1"],
        rb"\C\C": [b"ab", b"\xc3\xa9"],
        rb"a\.b": [b"a.b"],
        rb"\Qa.b\E": [b"a.b"],
        rb"(?i)a": [b"a", b"A"],
        rb"(?s)a.b": [b"a\nb", b"a.b"],
        rb"\xe9": [b"\xe9"],
        rb"\d": [b"1"],
        b"\xe9": [b"\xe9"],
        b"\x00": [b"\x00"],
        rb"[[:upper:]]": [b"A"],
        rb"a|b": [b"a"],
    }
    for pattern, expected in cases.items():
        got = [cells[0][3] for _, cells in clients.read(name, filter=RowFilter(value_regex_filter=pattern))]
        assert got == expected, pattern


def nested(depth):
    made = PASS
    for _ in range(depth - 1):
        made = chain(made, PASS)
    return made


def test_b1_twenty_levels_are_allowed_and_no_more(filled):
    check(filled, nested(20))
    clients, name, _ = filled
    for depth in (21, 40):
        with refused("INVALID_ARGUMENT"):
            clients.read(name, filter=nested(depth))


def test_b1_a_filter_of_20_480_bytes_is_allowed_and_no_larger(filled):
    clients, name, _ = filled

    def sized(size):
        made = RowFilter(value_regex_filter=b"x" * (size - 4))
        assert len(RowFilter.serialize(made)) == size
        return made

    clients.read(name, filter=sized(20_480))
    with refused("INVALID_ARGUMENT"):
        clients.read(name, filter=sized(20_481))


def test_b1_a_family_that_is_not_there_is_not_found_when_it_is_named_outright(filled):
    """A pattern that matches no family leaves no cell; a name must be one of the table's."""
    clients, name, _ = filled
    assert clients.read(name, filter=RowFilter(family_name_regex_filter="none.*")) == []
    for named in (RowFilter(family_name_regex_filter="none"), RowFilter(column_range_filter={"family_name": "none"})):
        with refused("NOT_FOUND", "none"):
            clients.read(name, filter=named)


@pytest.mark.parametrize(
    "row_filter",
    [
        chain(),
        chain(PASS),
        interleave(),
        interleave(PASS),
        condition(SINK, PASS),
        condition(PASS, SINK),
        condition(PASS, chain(PASS, SINK)),
        RowFilter(condition=RowFilter.Condition(true_filter=PASS)),
        RowFilter(row_key_regex_filter=b""),
        RowFilter(row_key_regex_filter=b"("),
        RowFilter(value_regex_filter=b"a**"),
        RowFilter(value_regex_filter=rb"(a)\1"),
        RowFilter(value_regex_filter=b"(((a{1000}){1000}){1000}){1000}"),
        RowFilter(family_name_regex_filter="a:b"),
        RowFilter(row_sample_filter=0.0),
        RowFilter(row_sample_filter=1.0),
        RowFilter(row_sample_filter=-0.5),
        RowFilter(row_sample_filter=float("nan")),
        RowFilter(cells_per_row_limit_filter=-1),
        RowFilter(cells_per_row_offset_filter=-1),
        RowFilter(cells_per_column_limit_filter=-1),
        RowFilter(apply_label_transformer=""),
        RowFilter(apply_label_transformer="Upper"),
        RowFilter(apply_label_transformer="sixteen-letters-"),
        chain(RowFilter(apply_label_transformer="a"), RowFilter(apply_label_transformer="b")),
        RowFilter(column_range_filter={"family_name": ""}),
        RowFilter(value_range_filter={"start_value_closed": b"b", "end_value_closed": b"a"}),
        RowFilter(timestamp_range_filter={"start_timestamp_micros": 2000, "end_timestamp_micros": 1000}),
        RowFilter(timestamp_range_filter={"start_timestamp_micros": -1000}),
    ],
    ids=lambda f: str(RowFilter.pb(f)).replace("\n", " ")[:60],
)
def test_b1_a_filter_that_makes_no_sense_is_refused_with_a_sentence(filled, row_filter):
    clients, name, _ = filled
    with refused("INVALID_ARGUMENT") as caught:
        clients.read(name, filter=row_filter)
    assert len(caught.message.split()) > 2
