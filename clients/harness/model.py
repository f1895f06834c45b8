"""A naive model of a table: rows in a dictionary, mutations one after the other, filters from their public texts.

Slow and plain on purpose, and shares nothing with the server. A cell is a tuple: family, qualifier, timestamp,
value, labels. Families are in the order of their names, as the server gives them.
"""

import re


class Ambiguous(Exception):
    """The public texts leave the result open: a limit cuts through cells whose order is unspecified."""


class Table:
    """Rows and what mutations do to them."""

    def __init__(self, families):
        self.families = set(families)
        self.rows = {}

    def apply(self, key, mutations):
        """Applies protos of mutations to a row, in their order."""
        row = dict(self.rows.get(key, {}))
        for mutation in mutations:
            kind = mutation._pb.WhichOneof("mutation")
            change = getattr(mutation, kind)
            if kind == "set_cell":
                row[change.family_name, change.column_qualifier, change.timestamp_micros] = change.value
            elif kind == "delete_from_column":
                start, end = change.time_range.start_timestamp_micros, change.time_range.end_timestamp_micros
                row = {
                    at: value
                    for at, value in row.items()
                    if at[:2] != (change.family_name, change.column_qualifier)
                    or not (start <= at[2] and (end == 0 or at[2] < end))
                }
            elif kind == "delete_from_family":
                row = {at: value for at, value in row.items() if at[0] != change.family_name}
            else:
                row = {}
        if row:
            self.rows[key] = row
        else:
            self.rows.pop(key, None)

    def cells(self, key):
        """The row's cells in their order."""
        order = sorted(self.rows.get(key, {}).items(), key=lambda item: (item[0][0], item[0][1], -item[0][2]))
        return [(family, qualifier, timestamp, value, ()) for (family, qualifier, timestamp), value in order]

    def read(self, row_set=None, row_filter=None, limit=0, reverse=False):
        """What ReadRows gives."""
        found = []
        for key in sorted(self.rows, reverse=reverse):
            if not in_set(row_set, key):
                continue
            cells = run_filter(row_filter, key, self.cells(key))
            if cells:
                found.append((key, cells))
            if limit and len(found) == limit:
                break
        return found


def in_set(row_set, key):
    """Whether a RowSet proto holds the key. None, or an empty one: all."""
    if row_set is None or not (row_set.row_keys or row_set.row_ranges):
        return True
    return key in row_set.row_keys or any(in_range(row_range, key) for row_range in row_set.row_ranges)


def in_range(row_range, key):
    """Whether a RowRange proto holds the key. An empty end means none."""
    start, end = (row_range._pb.WhichOneof(which) for which in ("start_key", "end_key"))
    if start == "start_key_closed" and key < row_range.start_key_closed:
        return False
    if start == "start_key_open" and key <= row_range.start_key_open:
        return False
    if end == "end_key_closed" and row_range.end_key_closed and key > row_range.end_key_closed:
        return False
    return not (end == "end_key_open" and row_range.end_key_open and key >= row_range.end_key_open)


def _coordinates(cell):
    return cell[0], cell[1], -cell[2]


def canonical(cells):
    """Cells with those of one column and timestamp in a fixed order: the texts leave it open."""
    return sorted(cells, key=lambda cell: (_coordinates(cell), cell[3], cell[4]))


def _within(value, bounds, names):
    """Whether bytes lie in a range proto with four optional bounds."""
    start_closed, start_open, end_closed, end_open = names
    start = bounds._pb.WhichOneof(start_closed.replace("_closed", ""))
    end = bounds._pb.WhichOneof(end_closed.replace("_closed", ""))
    if start == start_closed and value < getattr(bounds, start_closed):
        return False
    if start == start_open and value <= getattr(bounds, start_open):
        return False
    if end == end_closed and value > getattr(bounds, end_closed):
        return False
    return not (end == end_open and value >= getattr(bounds, end_open))


QUALIFIERS = ("start_qualifier_closed", "start_qualifier_open", "end_qualifier_closed", "end_qualifier_open")
VALUES = ("start_value_closed", "start_value_open", "end_value_closed", "end_value_open")


def run_filter(row_filter, key, cells):
    """The cells that a RowFilter proto gives for a row. Its sinks' cells join those that come out at the end."""
    if row_filter is None:
        return cells
    sunk = []
    out = _run(row_filter, key, cells, sunk)
    return canonical(out + sunk) if sunk else out


def _run(row_filter, key, cells, sunk):
    kind = row_filter._pb.WhichOneof("filter")
    if kind is None:
        return cells
    value = getattr(row_filter, kind)
    if kind == "chain":
        for step in value.filters:
            cells = _run(step, key, cells, sunk)
        return cells
    if kind == "interleave":
        out = [cell for step in value.filters for cell in _run(step, key, cells, sunk)]
        return sorted(out, key=_coordinates)
    if kind == "condition":
        held = bool(_run(value.predicate_filter, key, cells, []))
        name = "true_filter" if held else "false_filter"
        return _run(getattr(value, name), key, cells, sunk) if value._pb.HasField(name) else []
    if kind == "sink":
        sunk.extend(cells)
        return []
    if kind == "pass_all_filter":
        return cells
    if kind == "block_all_filter":
        return []
    if kind == "row_key_regex_filter":
        return cells if re.fullmatch(value, key) else []
    if kind == "family_name_regex_filter":
        return [cell for cell in cells if re.fullmatch(value, cell[0])]
    if kind == "column_qualifier_regex_filter":
        return [cell for cell in cells if re.fullmatch(value, cell[1])]
    if kind == "value_regex_filter":
        return [cell for cell in cells if re.fullmatch(value, cell[3])]
    if kind == "value_bitmask_filter":
        mask = value.mask
        return [
            cell
            for cell in cells
            if len(cell[3]) == len(mask) and all(have & want == want for have, want in zip(cell[3], mask))
        ]
    if kind == "column_range_filter":
        return [cell for cell in cells if cell[0] == value.family_name and _within(cell[1], value, QUALIFIERS)]
    if kind == "value_range_filter":
        return [cell for cell in cells if _within(cell[3], value, VALUES)]
    if kind == "timestamp_range_filter":
        start, end = value.start_timestamp_micros, value.end_timestamp_micros
        return [cell for cell in cells if start <= cell[2] and (end == 0 or cell[2] < end)]
    if kind == "cells_per_row_offset_filter":
        _unambiguous(cells, value)
        return cells[value:]
    if kind == "cells_per_row_limit_filter":
        _unambiguous(cells, value)
        return cells[:value]
    if kind == "cells_per_column_limit_filter":
        columns = {}
        for cell in cells:
            columns.setdefault(cell[:2], []).append(cell)
        for column in columns.values():
            _unambiguous(column, value)
        return [cell for column in columns.values() for cell in column[:value]]
    if kind == "strip_value_transformer":
        return [(*cell[:3], b"", cell[4]) for cell in cells]
    assert kind == "apply_label_transformer", kind
    return [(*cell[:4], (*cell[4], value)) for cell in cells]


def _unambiguous(cells, count):
    """Refuses a cut between cells of one column and timestamp that are not the same."""
    if 0 < count < len(cells):
        at = _coordinates(cells[count - 1])
        if at == _coordinates(cells[count]):
            tied = {cell for cell in cells if _coordinates(cell) == at}
            if len(tied) > 1:
                raise Ambiguous
