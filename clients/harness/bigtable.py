"""Official Bigtable clients pointed at a server, and short ways to say what tests say often."""

import contextlib
import os

import grpc
from google.cloud.bigtable_admin_v2 import (
    BaseBigtableTableAdminClient,
    BigtableInstanceAdminClient,
)
from google.cloud.bigtable_admin_v2.services.bigtable_instance_admin.transports import (
    BigtableInstanceAdminGrpcTransport,
)
from google.cloud.bigtable_admin_v2.services.bigtable_table_admin.transports import BigtableTableAdminGrpcTransport
from google.cloud.bigtable_v2 import BigtableClient
from google.cloud.bigtable_v2.services.bigtable.transports import BigtableGrpcTransport
from google.cloud.bigtable_v2.types import Mutation

from harness.chunks import decode

# As the official data client sets them.
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
ZONE = "us-east1-b"


@contextlib.contextmanager
def emulator_host(address):
    """The variable that points official clients at a server in clear; they read it when they are made."""
    before = os.environ.get("BIGTABLE_EMULATOR_HOST")
    os.environ["BIGTABLE_EMULATOR_HOST"] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ["BIGTABLE_EMULATOR_HOST"]
        else:
            os.environ["BIGTABLE_EMULATOR_HOST"] = before


def set_cell(family, qualifier, timestamp, value):
    return Mutation(
        set_cell=Mutation.SetCell(
            family_name=family, column_qualifier=qualifier, timestamp_micros=timestamp, value=value
        )
    )


def delete_column(family, qualifier, start=0, end=0):
    deleted = Mutation.DeleteFromColumn(
        family_name=family,
        column_qualifier=qualifier,
        time_range={"start_timestamp_micros": start, "end_timestamp_micros": end},
    )
    return Mutation(delete_from_column=deleted)


def delete_family(family):
    return Mutation(delete_from_family=Mutation.DeleteFromFamily(family_name=family))


def delete_row():
    return Mutation(delete_from_row=Mutation.DeleteFromRow())


class Bigtable:
    """The three gapic clients over one channel in clear, retries off where a test looks at one request."""

    def __init__(self, address, project, channel=None):
        self.address = address
        self.project = project
        self.channel = channel or grpc.insecure_channel(address, options=OPTIONS)
        self.instances = BigtableInstanceAdminClient(
            transport=BigtableInstanceAdminGrpcTransport(channel=self.channel)
        )
        self.tables = BaseBigtableTableAdminClient(transport=BigtableTableAdminGrpcTransport(channel=self.channel))
        self.data = BigtableClient(transport=BigtableGrpcTransport(channel=self.channel))

    @property
    def project_name(self):
        return f"projects/{self.project}"

    def create_instance(self, instance, zone=ZONE, key=None, cluster=None, **fields):
        """Makes an instance with one cluster, waits for it; its name."""
        spec = {"location": f"{self.project_name}/locations/{zone}", "serve_nodes": 1}
        if key is not None:
            spec["encryption_config"] = {"kms_key_name": key}
        operation = self.instances.create_instance(
            parent=self.project_name,
            instance_id=instance,
            instance={"display_name": instance, **fields},
            clusters={cluster or f"{instance}-c1": spec},
        )
        return operation.result(timeout=20).name

    def create_table(self, instance, table, families=("f",), **fields):
        """Makes a table; its name. `families` are names, or names with their GC rules."""
        rules = families if isinstance(families, dict) else dict.fromkeys(families)
        spec = {name: {} if rule is None else {"gc_rule": rule} for name, rule in rules.items()}
        request = {"parent": instance, "table_id": table, "table": {"column_families": spec, **fields}}
        return self.tables.create_table(request=request).name

    def write(self, table, key, *mutations):
        return self.data.mutate_row(table_name=table, row_key=key, mutations=list(mutations), retry=None)

    def write_many(self, table, entries):
        """MutateRows of (key, mutations) pairs; the status code of each."""
        request = {
            "table_name": table,
            "entries": [{"row_key": key, "mutations": list(mutations)} for key, mutations in entries],
        }
        codes = {}
        for response in self.data.mutate_rows(request=request, retry=None):
            for entry in response.entries:
                assert entry.index not in codes, "an entry was answered twice"
                codes[entry.index] = entry.status.code
        assert sorted(codes) == list(range(len(codes)))
        return [codes[index] for index in range(len(codes))]

    def put(self, table, key, value=b"v", family="f", qualifier=b"q", timestamp=1000):
        return self.write(table, key, set_cell(family, qualifier, timestamp, value))

    def read(self, table, metadata=(), **request):
        """ReadRows, its chunks checked strictly: (key, cells) of every row, cells as tuples."""
        request = {"table_name": table, **request}
        stream = self.data.read_rows(request=request, retry=None, metadata=metadata)
        return list(decode(stream, reverse=request.get("reversed", False)))

    def read_row(self, table, key, **request):
        """The cells of one row, or nothing."""
        rows = self.read(table, rows={"row_keys": [key]}, **request)
        assert len(rows) <= 1
        return rows[0][1] if rows else []

    def keys(self, table, **request):
        return [key for key, _ in self.read(table, **request)]
