"""The same random requests to this server and to Google's emulator must give the same rows: B1.

Known faults of the emulator are left out by name in `EMULATOR_FAULTS`.
"""

import random

import pytest
from harness import generate
from harness.bigtable import Bigtable
from harness.emulator import Emulator, find
from harness.model import canonical

EMULATOR_FAULTS = {
    "sink": "is ignored",
    "value_bitmask_filter": "is ignored",
    "cells_per_row_limit_filter": "takes the families of a row in an order of the moment",
    "cells_per_row_offset_filter": "as the limit",
}
STRIP_FAULT = "strip_value_transformer drops the labels that cells have"
FAMILY_ORDER = "the emulator orders families by their creation, this server by name: they are created in that order"

pytestmark = pytest.mark.emulator


@pytest.fixture(scope="module")
def emulator():
    program = find()
    if program is None:
        pytest.skip("Google's Bigtable emulator is not installed")
    running = Emulator(program)
    yield running
    running.stop()


@pytest.fixture
def both(emulator, shared_instance, unique):
    """(clients, table) of this server and of the emulator, each with the same empty table."""
    ours, instance = shared_instance
    theirs = Bigtable(emulator.address, ours.project)
    table_id = unique("t")
    pairs = []
    for clients in (ours, theirs):
        table = clients.create_table(instance, table_id, ())
        for family in generate.FAMILIES:
            clients.tables.modify_column_families(name=table, modifications=[{"id": family, "create": {}}])
        pairs.append((clients, table))
    return pairs


def compare(both, request):
    labels_count = "strip_value_transformer" not in str(request.get("filter", ""))

    def shown(clients, table):
        rows = clients.read(table, **request)
        return [(key, canonical([cell if labels_count else cell[:4] + ((),) for cell in cells])) for key, cells in rows]

    ours, theirs = (shown(clients, table) for clients, table in both)
    assert ours == theirs, request


def fill(rng, both, steps):
    for _ in range(steps):
        entries = [(rng.choice(generate.KEYS), generate.mutations(rng)) for _ in range(rng.randint(1, 4))]
        codes = {tuple(clients.write_many(table, entries)) for clients, table in both}
        assert len(codes) == 1


@pytest.mark.parametrize("seed", range(3))
def test_b1_random_writes_leave_the_same_rows(both, seed):
    rng = random.Random(seed)
    for _ in range(8):
        fill(rng, both, 15)
        compare(both, {})


@pytest.mark.parametrize("seed", range(3))
def test_b1_random_reads_give_the_same_rows(both, seed):
    rng = random.Random(50 + seed)
    fill(rng, both, 60)
    for _ in range(100):
        row_set = generate.row_set(rng)
        request = {"rows_limit": rng.choice([0, 0, 2, 5])}
        if row_set is not None:
            request["rows"] = row_set
        if rng.random() < 0.8:
            request["filter"] = generate.row_filter(rng, depth=2, without=tuple(EMULATOR_FAULTS))
        compare(both, request)


@pytest.mark.parametrize("seed", range(2))
def test_b1_random_conditions_and_increments_end_alike(both, seed):
    rng = random.Random(80 + seed)
    fill(rng, both, 20)
    for _ in range(60):
        key = rng.choice(generate.KEYS)
        request = {
            "row_key": key,
            "predicate_filter": generate.row_filter(rng, depth=1, without=tuple(EMULATOR_FAULTS)),
            "true_mutations": generate.mutations(rng),
            "false_mutations": generate.mutations(rng),
        }
        matched = {
            clients.data.check_and_mutate_row(request={"table_name": table, **request}, retry=None).predicate_matched
            for clients, table in both
        }
        assert len(matched) == 1, request
    compare(both, {})


@pytest.mark.parametrize("seed", range(2))
def test_b1_prefixes_dropped_at_random_leave_the_same_rows(both, seed):
    rng = random.Random(90 + seed)
    for _ in range(10):
        fill(rng, both, 10)
        prefix = rng.choice([b"a", b"b", b"ab", b"\xff", b"c\xff", b"none"])
        for clients, table in both:
            clients.tables.drop_row_range(request={"name": table, "row_key_prefix": prefix})
        compare(both, {})
