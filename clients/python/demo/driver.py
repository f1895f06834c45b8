"""The official-client part of `cargo xtask demo`.

Reads one JSON object a line from stdin, `{"do": NAME, ...arguments}`, and answers each with one line,
`{"ok": RESULT}` or `{"error": TEXT}`; long work also prints `{"at": N, "of": N}` lines before. Everything
goes through Google's own unmodified clients.
"""

import csv
import json
import os
import subprocess
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore")

ZONE = "us-east1-b"
LOCATION = "us-east1"
READ_TIMEOUT = 5
# How long reads go on after the key went, to see that none succeeds any more.
WATCH_AFTER = 3.0
# How long a change of a key may take before the demo gives up on it.
PATIENCE = 60.0


def progress(at, of):
    print(json.dumps({"at": at, "of": of}), flush=True)


def failure(error):
    """An error of a client as {code, message}, following what wraps it."""
    seen = error
    while getattr(seen, "code", None) is None and (seen.__cause__ or getattr(seen, "exceptions", None)):
        seen = seen.__cause__ or seen.exceptions[0]
    code = getattr(seen, "grpc_status_code", None)
    return {"code": code.name if code else type(seen).__name__, "message": str(seen)}


class Demo:
    """What the commands share: the clients and names."""

    def connect(self, host, project, archive):
        os.environ["BIGTABLE_EMULATOR_HOST"] = host
        import grpc
        from google.api_core.client_options import ClientOptions
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigtable, kms_v1, storage
        from google.cloud.bigtable import data
        from google.cloud.kms_v1.services.key_management_service.transports import (
            KeyManagementServiceGrpcTransport,
        )

        from flights import Flights

        self.host, self.project, self.archive = host, project, archive
        self.kms_types, self.data_types = kms_v1, data
        channel = grpc.insecure_channel(host)
        self.kms = kms_v1.KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))
        self.admin = bigtable.Client(project=project, admin=True)
        self.data = data.BigtableDataClient(project=project)
        self.storage = storage.Client(
            project=project,
            credentials=AnonymousCredentials(),
            client_options=ClientOptions(api_endpoint=f"http://{host}"),
        )
        self.flights = Flights(archive)

    # Keys ------------------------------------------------------------------------------------------

    def create_ring(self, ring):
        parent = f"projects/{self.project}/locations/{LOCATION}"
        return self.kms.create_key_ring(
            request={"parent": parent, "key_ring_id": ring, "key_ring": {}}
        ).name

    def create_key(self, ring, key, destroyed_after_s):
        created = self.kms.create_crypto_key(
            request={
                "parent": ring,
                "crypto_key_id": key,
                "crypto_key": {
                    "purpose": self.kms_types.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT,
                    "destroy_scheduled_duration": {"seconds": destroyed_after_s},
                },
            }
        )
        return {"key": created.name, "version": created.primary.name}

    def grants(self, key):
        policy = self.kms.get_iam_policy(request={"resource": key})
        return [{"role": b.role, "members": list(b.members)} for b in policy.bindings]

    def _set_state(self, version, state):
        self.kms.update_crypto_key_version(
            request={"crypto_key_version": {"name": version, "state": state}, "update_mask": {"paths": ["state"]}}
        )

    def _versions(self, key):
        return list(self.kms.list_crypto_key_versions(request={"parent": key}))

    # Tables ----------------------------------------------------------------------------------------

    def create_instance(self, instance, key):
        target = self.admin.instance(instance, display_name="Claviger demo")
        cluster = target.cluster(f"{instance}-c1", location_id=ZONE, serve_nodes=1, kms_key_name=key)
        target.create(clusters=[cluster]).result(timeout=60)
        return target.name

    def create_table(self, instance, table, families=None):
        """A table with these families, or those of flights."""
        from google.cloud.bigtable.column_family import MaxVersionsGCRule

        from flights import FAMILIES

        target = self.admin.instance(instance).table(table)
        target.create(column_families={name: MaxVersionsGCRule(1) for name in families or FAMILIES})
        return target.name

    def encryption(self, instance, table):
        """The key version and status of every cluster of a table, as the admin client reads them."""
        info = self.admin.instance(instance).table(table).get_encryption_info()
        return [
            {"cluster": cluster, "type": int(each.encryption_type), "version": each.kms_key_version}
            for cluster, all_of in info.items()
            for each in all_of
        ]

    def _table(self, instance, table):
        return self.data.get_table(instance, table)

    def plant(self, instance, table, key, qualifier, value):
        cell = self.data_types.SetCell("flight", qualifier.encode(), value.encode())
        self._table(instance, table).mutate_row(key, cell)
        self._table(instance, table).mutate_row(key + "-gone", cell)
        self._table(instance, table).mutate_row(key + "-gone", self.data_types.DeleteAllFromRow())

    def load(self, instance, table, processes, months):
        expected = sum(1 for row in self.flights.rows() if int(self.flights.column(row, "month")) <= months)
        here = os.path.dirname(os.path.abspath(__file__))
        counts = [0] * processes
        workers = [
            subprocess.Popen(
                [sys.executable, os.path.join(here, "load.py"), self.host, self.project, instance, table]
                + [self.archive, str(part), str(processes), str(months)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for part in range(processes)
        ]

        def follow(part):
            for line in workers[part].stdout:
                counts[part] = int(line)

        threads = [threading.Thread(target=follow, args=(part,)) for part in range(processes)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            progress(sum(counts), expected)
            time.sleep(0.2)
        codes = [worker.wait() for worker in workers]
        if any(codes) or sum(counts) != expected:
            raise RuntimeError(f"{sum(counts)} of {expected} rows loaded; processes ended with {codes}")
        progress(expected, expected)
        return expected

    # Reads, each compared with the file --------------------------------------------------------------

    def _row_of_file(self, key):
        return next(row for row in self.flights.rows() if self.flights.key(row) == key.encode())

    def flight(self, instance, table, key):
        """One flight by its key; all its cells must be those of the file."""
        row = self._table(instance, table).read_row(key, operation_timeout=READ_TIMEOUT)
        if row is None:
            raise RuntimeError(f"no row {key}")
        found = sorted((cell.family, cell.qualifier, cell.value) for cell in row)
        expected = sorted(self.flights.cells(self._row_of_file(key)))
        if found != expected:
            raise RuntimeError(f"row {key} is not that of the file: {found}")
        return {name.decode(): value.decode() for _, name, value in found}

    def day(self, instance, table, day):
        """One day's flights by a range of keys."""
        query = self.data_types.ReadRowsQuery(
            row_ranges=self.data_types.RowRange(start_key=f"{day}#", end_key=f"{day}$")
        )
        rows = self._table(instance, table).read_rows(query, operation_timeout=30)
        found = [row.row_key for row in rows]
        expected = sorted(key for key in map(self.flights.key, self.flights.rows()) if key.startswith(day.encode()))
        if found != expected:
            raise RuntimeError(f"{len(found)} flights on {day}, the file has {len(expected)}")
        return len(found)

    def to(self, instance, table, day, dest):
        """One day's flights to one airport, chosen by the server with a conditional filter."""
        filters = self.data_types.row_filters
        goes_there = filters.RowFilterChain(
            filters=[
                filters.FamilyNameRegexFilter("flight"),
                filters.ColumnQualifierRegexFilter(b"dest"),
                filters.ValueRegexFilter(dest.encode()),
            ]
        )
        query = self.data_types.ReadRowsQuery(
            row_ranges=self.data_types.RowRange(start_key=f"{day}#", end_key=f"{day}$"),
            row_filter=filters.ConditionalRowFilter(
                predicate_filter=goes_there, true_filter=filters.PassAllFilter(True)
            ),
        )
        found = [row.row_key for row in self._table(instance, table).read_rows(query, operation_timeout=30)]
        expected = sorted(
            self.flights.key(row)
            for row in self.flights.rows()
            if self.flights.key(row).startswith(day.encode()) and self.flights.column(row, "dest") == dest
        )
        if found != expected:
            raise RuntimeError(f"{len(found)} flights to {dest} on {day}, the file has {len(expected)}")
        return len(found)

    def count(self, instance, table, expected):
        """All rows, counted by a scan that carries no values."""
        filters = self.data_types.row_filters
        query = self.data_types.ReadRowsQuery(
            row_filter=filters.RowFilterChain(
                filters=[filters.CellsRowLimitFilter(1), filters.StripValueTransformerFilter(True)]
            )
        )
        stream = self._table(instance, table).read_rows_stream(query, operation_timeout=300)
        seen = 0
        for seen, _ in enumerate(stream, start=1):
            if seen % 5000 == 0:
                progress(seen, expected)
        return seen

    def try_read(self, instance, table, key):
        """One read: the row's number of cells, or how it failed."""
        try:
            row = self._table(instance, table).read_row(key, operation_timeout=READ_TIMEOUT)
            return {"cells": len(row.cells) if row else 0}
        except Exception as error:
            return failure(error)

    # The pipeline's input and output -----------------------------------------------------------------

    def stage(self, folder, bucket, key, planted):
        """Writes the pipeline's files to a folder, a file of flights for each month, and puts them into a new bucket.

        One file more has a flight of the planted plane to the planted place; its object has planted metadata.
        """
        months = {}
        for row in self.flights.rows():
            months.setdefault(int(self.flights.column(row, "month")), []).append(row)
        extra = dict(zip(self.flights.heading, months[1][0])) | {"tailnum": planted["key"], "dest": planted["value"]}
        os.makedirs(os.path.join(folder, "flights"))
        names = {f"flights/2013-{month:02}.csv": rows for month, rows in months.items()}
        hidden = f"flights/{planted['key']}.csv"
        names[hidden] = [[extra[name] for name in self.flights.heading]]
        for name, rows in names.items():
            with open(os.path.join(folder, name), "w", newline="", encoding="ascii") as file:
                csv.writer(file, lineterminator="\n").writerows([self.flights.heading, *rows])
        for name in ("airports.csv", "planes.csv"):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(self.flights.file(name))
        target = self.storage.bucket(bucket)
        target.default_kms_key_name = key
        target.create(location=LOCATION)
        objects = [*names, "airports.csv", "planes.csv"]
        for done, name in enumerate(objects):
            progress(done, len(objects))
            blob = target.blob(name)
            if name == hidden:
                blob.metadata = {planted["qualifier"]: planted["value"]}
            blob.upload_from_filename(os.path.join(folder, name))
        kept = list(self.storage.list_blobs(bucket))
        return {
            "default_key": self.storage.get_bucket(bucket).default_kms_key_name,
            "objects": len(kept),
            "bytes": sum(blob.size for blob in kept),
            "versions": sorted({blob.kms_key_name or "none" for blob in kept}),
        }

    def _all_cells(self, instance, table):
        """All cells of a table: by key, a list of (family, qualifier, value, time)."""
        rows = self._table(instance, table).read_rows(self.data_types.ReadRowsQuery(), operation_timeout=60)
        return {
            row.row_key.decode(): [(c.family, c.qualifier, c.value, c.timestamp_micros) for c in row] for row in rows
        }

    def _plain_delays(self, planted):
        """Flights and mean delay by route and month, in a loop over the file, with the planted flight."""
        sums = {}

        def add(origin, dest, month, late):
            entry = sums.setdefault(f"{origin}-{dest}#2013-{int(month):02}", [0, 0, 0])
            entry[0] += 1
            if late != "NA":
                entry[1] += 1
                entry[2] += int(late)

        at = [self.flights.heading.index(name) for name in ("origin", "dest", "month", "arr_delay")]
        for number, row in enumerate(self.flights.rows()):
            add(*(row[position] for position in at))
            if number == 0:
                add(row[at[0]], planted["value"], row[at[2]], row[at[3]])
        return {
            key: (str(count), f"{late / arrived:.2f}" if arrived else "NA")
            for key, (count, arrived, late) in sums.items()
        }

    def compare(self, instance, table, other, planted):
        """Both tables in full, and their delays with those of a plain loop over the file."""
        found, expected = self._all_cells(instance, table), self._all_cells(instance, other)
        for key in sorted({*found, *expected}):
            if found.get(key) != expected.get(key):
                raise RuntimeError(f"row {key}: {found.get(key)} in {table}, {expected.get(key)} in {other}")
        rows = {key: {name.decode(): value.decode() for _, name, value, _ in cells} for key, cells in found.items()}
        delays = {key: (cells["flights"], cells["mean"]) for key, cells in rows.items()}
        if delays != self._plain_delays(planted):
            raise RuntimeError("the delays are not those of the file")
        # One that many flew.
        often = [key for key, cells in rows.items() if int(cells["arrived"]) >= 100]
        late = max(often, key=lambda key: float(rows[key]["mean"]))
        return {
            "rows": len(rows),
            "flights": sum(int(cells["flights"]) for cells in rows.values()),
            "planted": sum(planted["value"] in key for key in rows),
            "latest": {"key": late, **rows[late]},
        }

    def try_object(self, bucket, name):
        """One download: its size, or how it failed."""
        try:
            return {"bytes": len(self.storage.bucket(bucket).blob(name).download_as_bytes(retry=None))}
        except Exception as error:
            code = getattr(error, "code", None)
            return {"code": f"HTTP {int(code)}" if code else type(error).__name__, "message": str(error)}

    # The key's life ------------------------------------------------------------------------------------

    def rotate(self, instance, table, key):
        """A new primary version; waits until the table says that it is in use."""
        version = self.kms.create_crypto_key_version(request={"parent": key, "crypto_key_version": {}}).name
        started = time.monotonic()
        self.kms.update_crypto_key_primary_version(
            request={"name": key, "crypto_key_version_id": version.rsplit("/", 1)[1]}
        )
        while True:
            seen = self.encryption(instance, table)
            if seen and all(each["version"] == version for each in seen):
                return {"version": version, "seconds": time.monotonic() - started, "keys": len(seen)}
            if time.monotonic() - started > PATIENCE:
                raise RuntimeError(f"the table still shows {seen}")
            time.sleep(0.05)

    def disable_while_reading(self, instance, table, key, row_key):
        """Disables every version while point reads and a full scan run; tells when the last read succeeded."""
        target = self._table(instance, table)
        stop = threading.Event()
        points = {"reads": 0, "last": None, "refused": 0, "error": None}
        scan = {"rows": 0, "last": None, "error": None, "ended": 0}

        def read_points():
            while not stop.is_set():
                try:
                    if target.read_row(row_key, operation_timeout=READ_TIMEOUT) is None:
                        raise RuntimeError("the row is gone")
                    points["last"] = time.monotonic()
                    points["reads"] += 1
                except Exception as error:
                    points["refused"] += 1
                    points["error"] = points["error"] or failure(error)
                    time.sleep(0.01)

        def read_all():
            while not stop.is_set():
                try:
                    for _ in target.read_rows_stream(self.data_types.ReadRowsQuery(), operation_timeout=300):
                        scan["last"] = time.monotonic()
                        scan["rows"] += 1
                        if stop.is_set():
                            return
                    scan["ended"] += 1
                except Exception as error:
                    scan["error"] = scan["error"] or failure(error)
                    return

        threads = [threading.Thread(target=read_points), threading.Thread(target=read_all)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        for version in self._versions(key):
            self._set_state(version.name, self.kms_types.CryptoKeyVersion.CryptoKeyVersionState.DISABLED)
        disabled = time.monotonic()
        time.sleep(WATCH_AFTER)
        stop.set()
        for thread in threads:
            thread.join()

        def after(moment):
            return None if moment is None else max(0.0, moment - disabled)

        return {
            "reads": points["reads"],
            "refused": points["refused"],
            "last_read_s": after(points["last"]),
            "error": points["error"],
            "scan_rows": scan["rows"],
            "scan_last_s": after(scan["last"]),
            "scan_error": scan["error"],
        }

    def enable(self, instance, table, key, row_key):
        """Enables every version and waits for the first read that succeeds."""
        for version in self._versions(key):
            self._set_state(version.name, self.kms_types.CryptoKeyVersion.CryptoKeyVersionState.ENABLED)
        enabled = time.monotonic()
        while "cells" not in (seen := self.try_read(instance, table, row_key)):
            if time.monotonic() - enabled > PATIENCE:
                raise RuntimeError(f"still locked: {seen}")
            time.sleep(0.02)
        return time.monotonic() - enabled

    def destroy(self, key):
        """Schedules the destruction of every version and waits until all are destroyed."""
        states = self.kms_types.CryptoKeyVersion.CryptoKeyVersionState
        started = time.monotonic()
        for version in self._versions(key):
            self.kms.destroy_crypto_key_version(request={"name": version.name})
        while any(version.state != states.DESTROYED for version in self._versions(key)):
            if time.monotonic() - started > PATIENCE:
                raise RuntimeError("the versions are not destroyed")
            time.sleep(0.1)
        refusals = []
        for version in self._versions(key):
            try:
                self.kms.restore_crypto_key_version(request={"name": version.name})
                raise RuntimeError(f"{version.name} could be restored")
            except Exception as error:
                refusals.append(failure(error)["code"])
        return {"seconds": time.monotonic() - started, "refusals": refusals}


def main():
    demo = Demo()
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        try:
            if name.startswith("_"):
                raise ValueError(f"no command {name}")
            answer = {"ok": getattr(demo, name)(**command)}
        except Exception as error:
            told = failure(error)
            answer = {"error": f"{name}: {told['code']}: {told['message']}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
