"""Loads every Nth flight with the official data client; one of N processes.

    python load.py HOST:PORT PROJECT INSTANCE TABLE ARCHIVE PART PARTS MONTHS

Prints the number of rows acknowledged so far, one number a line; the last is the total.
"""

import os
import sys
import time
import warnings

BATCH = 200


def main():
    host, project, instance, table, archive, part, parts, months = sys.argv[1:]
    os.environ["BIGTABLE_EMULATOR_HOST"] = host
    warnings.simplefilter("ignore")
    from google.cloud.bigtable.data import BigtableDataClient, RowMutationEntry, SetCell

    from flights import Flights

    part, parts, months = int(part), int(parts), int(months)
    flights = Flights(archive)
    month = flights.heading.index("month")
    # A time of its own for every cell makes the writes idempotent, so that the client may retry them.
    micros = time.time_ns() // 1_000_000 * 1_000
    done = 0
    with BigtableDataClient(project=project) as client:
        target = client.get_table(instance, table)
        batch = []

        def send():
            nonlocal done
            target.bulk_mutate_rows(batch)
            done += len(batch)
            batch.clear()
            print(done, flush=True)

        for number, row in enumerate(flights.rows()):
            if (number // BATCH) % parts != part or int(row[month]) > months:
                continue
            cells = [SetCell(family, name, value, micros) for family, name, value in flights.cells(row)]
            batch.append(RowMutationEntry(flights.key(row), cells))
            if len(batch) == BATCH:
                send()
        if batch:
            send()


if __name__ == "__main__":
    main()
