"""The official-client part of `cargo xtask demo`.

Reads one JSON object a line from stdin, `{"do": NAME, ...arguments}`, and answers each with one line,
`{"ok": RESULT}` or `{"error": TEXT}`; long work also prints `{"at": N, "of": N}` lines before. Everything
goes through Google's own unmodified clients.
"""

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
        from google.cloud import bigtable, kms_v1
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

    def create_table(self, instance, table):
        from google.cloud.bigtable.column_family import MaxVersionsGCRule

        from flights import FAMILIES

        target = self.admin.instance(instance).table(table)
        target.create(column_families={name: MaxVersionsGCRule(1) for name in FAMILIES})
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
