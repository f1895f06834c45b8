"""Random rows, mutations, row sets and filters from a seed, small enough that their parts meet often."""

from google.cloud.bigtable_v2.types import RowFilter, RowRange, RowSet
from harness.bigtable import delete_column, delete_family, delete_row, set_cell

KEYS = [b"a", b"aa", b"ab", b"b", b"b\x00", b"ba", b"c", b"c\xff", b"d", b"d\nd", b"e", b"\xff"]
FAMILIES = ["f", "g", "h2"]
QUALIFIERS = [b"", b"a", b"ab", b"b", b"b:c", b"\x00", b"\xff"]
TIMESTAMPS = [0, 1000, 2000, 3000, 10_000, 1_000_000]
VALUES = [b"", b"1", b"12", b"2", b"abc", b"a\nb", b"\x00\xff", b"\xf0\x0f", b"zz"]
LABELS = ["l1", "l-2"]
KEY_PATTERNS = [b"a.*", b".*", b"(a|b)+", b"d.d", b"[a-c]", b"c\xff", b"b\x00", b".", b"b"]
FAMILY_PATTERNS = ["f", "[fg]", "h.", ".*", "g|h2", "x|y"]
QUALIFIER_PATTERNS = [b"a.*", b".*", b"", b"b:c", b"[ab]+", b"\xff", b"\x00", b"a", b".+"]
VALUE_PATTERNS = [b"1.*", b".*", b"", b"a.b", b"a\nb", b"[0-9]+", b"\xf0\x0f", b"z{2}", b"12"]
NOT_IN_CONDITION = "sink"


def mutations(random, count=4):
    """One to `count` mutations of every kind but those with the server's time."""
    made = []
    for _ in range(random.randint(1, count)):
        kind = random.random()
        family, qualifier = random.choice(FAMILIES), random.choice(QUALIFIERS)
        if kind < 0.75:
            made.append(set_cell(family, qualifier, random.choice(TIMESTAMPS), random.choice(VALUES)))
        elif kind < 0.9:
            start, end = sorted(random.sample([0, *TIMESTAMPS[1:]], 2))
            made.append(delete_column(family, qualifier, start, random.choice([end, 0])))
        elif kind < 0.96:
            made.append(delete_family(family))
        else:
            made.append(delete_row())
    return made


def row_set(random):
    """None, or some keys and ranges, none of them upside down."""
    if random.random() < 0.3:
        return None
    made = RowSet(row_keys=random.sample(KEYS, random.randint(0, 4)))
    for _ in range(random.randint(0 if made.row_keys else 1, 3)):
        start, end = sorted(random.sample(KEYS, 2))
        fields = {}
        if random.random() < 0.8:
            fields[random.choice(["start_key_closed", "start_key_open"])] = start
        if random.random() < 0.8:
            fields[random.choice(["end_key_closed", "end_key_open"])] = end
        made.row_ranges.append(RowRange(**fields))
    return made


def _bounds(random, choices, names):
    start, end = sorted(random.sample(choices, 2))
    start_closed, start_open, end_closed, end_open = names
    fields = {}
    if random.random() < 0.7:
        fields[random.choice([start_closed, start_open])] = start
    if random.random() < 0.7:
        fields[random.choice([end_closed, end_open])] = end
    return fields


def _leaf(random, label, without):
    choices = {
        "pass_all_filter": lambda: True,
        "block_all_filter": lambda: True,
        "row_key_regex_filter": lambda: random.choice(KEY_PATTERNS),
        "family_name_regex_filter": lambda: random.choice(FAMILY_PATTERNS),
        "column_qualifier_regex_filter": lambda: random.choice(QUALIFIER_PATTERNS),
        "value_regex_filter": lambda: random.choice(VALUE_PATTERNS),
        "column_range_filter": lambda: {
            "family_name": random.choice(FAMILIES),
            **_bounds(random, QUALIFIERS[1:], _names("qualifier")),
        },
        "value_range_filter": lambda: _bounds(random, VALUES[1:], _names("value")),
        "timestamp_range_filter": lambda: _time_range(random),
        "cells_per_row_offset_filter": lambda: random.randint(1, 4),
        "cells_per_row_limit_filter": lambda: random.randint(1, 6),
        "cells_per_column_limit_filter": lambda: random.randint(1, 3),
        "strip_value_transformer": lambda: True,
        "value_bitmask_filter": lambda: {"mask": random.choice([b"\xf0\x00", b"\x01", b"1", b"\x00\x00", b"a\x00b"])},
        "sink": lambda: True,
    }
    if label:
        choices["apply_label_transformer"] = lambda: random.choice(LABELS)
    kind = random.choice([kind for kind in choices if kind not in without])
    return RowFilter(**{kind: choices[kind]()})


def _names(what):
    return [f"{end}_{what}_{kind}" for end in ("start", "end") for kind in ("closed", "open")]


def _time_range(random):
    start, end = sorted(random.sample(TIMESTAMPS, 2))
    return {"start_timestamp_micros": start, "end_timestamp_micros": random.choice([end, 0])}


def row_filter(random, depth=3, label=True, without=("sink",)):
    """A filter of up to `depth` levels, of no kind in `without`, with at most one label on any way through it."""
    kind = random.random()
    if depth == 0 or kind < 0.35:
        return _leaf(random, label, without)
    count = random.randint(2, 3)
    if kind < 0.65:
        labelled = random.randrange(count) if label else -1
        steps = [row_filter(random, depth - 1, at == labelled, without) for at in range(count)]
        return RowFilter(chain=RowFilter.Chain(filters=steps))
    if kind < 0.85:
        steps = [row_filter(random, depth - 1, label, without) for _ in range(count)]
        return RowFilter(interleave=RowFilter.Interleave(filters=steps))
    inner = {*without, NOT_IN_CONDITION}
    branches = {"predicate_filter": row_filter(random, depth - 1, False, inner)}
    for name in ("true_filter", "false_filter"):
        if random.random() < 0.8:
            branches[name] = row_filter(random, depth - 1, label, inner)
    return RowFilter(condition=RowFilter.Condition(**branches))
