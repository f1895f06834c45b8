"""The flights that left New York's airports in 2013, and how they lie in the table.

One row per flight; the key starts with the day, so that a day is one range. All 19 columns are kept, in
three families: what flew (`flight`), when (`time`), and how it went (`result`). Empty values are left out.

The archive also has tables of airports and planes, which the demo's pipeline joins with the flights.
"""

import csv
import io
import tarfile
import zipfile

FAMILIES = {
    "flight": ["carrier", "flight", "tailnum", "origin", "dest", "distance"],
    "time": [
        "year", "month", "day", "hour", "minute", "time_hour",
        "dep_time", "sched_dep_time", "arr_time", "sched_arr_time",
    ],
    "result": ["dep_delay", "arr_delay", "air_time"],
}

# (family, qualifier as bytes, position in the file's row); filled from the file's heading.
Columns = list[tuple[str, bytes, int]]


class Flights:
    """The data set in its archive."""

    def __init__(self, archive: str):
        self._archive = archive
        self._zip = zipfile.ZipFile(io.BytesIO(self.file("flights.csv.zip")))
        with self._open() as lines:
            self.heading = next(csv.reader(lines))
        at = {name: index for index, name in enumerate(self.heading)}
        self.columns: Columns = [
            (family, name.encode(), at[name]) for family, names in FAMILIES.items() for name in names
        ]
        self._key_parts = [at[name] for name in ("year", "month", "day", "carrier", "flight", "sched_dep_time")]

    def file(self, name: str) -> bytes:
        """A file of the archive, by the last part of its name."""
        with tarfile.open(self._archive) as tar:
            member = next(m for m in tar.getmembers() if m.name.endswith(f"/{name}"))
            return tar.extractfile(member).read()

    def _open(self):
        return io.TextIOWrapper(self._zip.open("flights.csv"), encoding="ascii", newline="")

    def rows(self):
        """The rows of the file, each a list of texts as in `heading`."""
        with self._open() as lines:
            reader = csv.reader(lines)
            next(reader)
            yield from reader

    def key(self, row: list[str]) -> bytes:
        """`2013-01-31#UA#1545#0515`: day, carrier, number, scheduled departure. No two flights share it."""
        year, month, day, carrier, number, departs = (row[at] for at in self._key_parts)
        return f"{year}-{month:0>2}-{day:0>2}#{carrier}#{number}#{departs:0>4}".encode()

    def cells(self, row: list[str]) -> list[tuple[str, bytes, bytes]]:
        """(family, qualifier, value) of all cells of a row."""
        return [(family, name, row[at].encode()) for family, name, at in self.columns if row[at]]

    def column(self, row: list[str], name: str) -> str:
        """One column of a row, by its name in the file."""
        return row[self.heading.index(name)]
