"""Writes the official descriptors of Apache Beam's portability APIs to a file.

    python dump_beam.py apache_beam-2.77.0-*.whl official.binpb

The file is a serialized google.protobuf.FileDescriptorSet. The wheel named in beam.txt carries the modules
that protoc made; they are imported right out of it, so that nothing but protobuf must be installed.
The test `official_descriptors` of the crate claviger-beam-proto compares ours with it.
"""

import importlib
import sys
import types

from google.protobuf import descriptor_pb2

API = "apache_beam/portability/api"
MODEL = "org.apache.beam.model"
MODULES = [
    "fn_execution.v1.beam_fn_api_pb2",
    "fn_execution.v1.beam_provision_api_pb2",
    "job_management.v1.beam_artifact_api_pb2",
    "job_management.v1.beam_job_api_pb2",
    "pipeline.v1.beam_runner_api_pb2",
    "pipeline.v1.endpoints_pb2",
    "pipeline.v1.external_transforms_pb2",
    "pipeline.v1.metrics_pb2",
    "pipeline.v1.schema_pb2",
    "pipeline.v1.standard_window_fns_pb2",
]


def make_packages(wheel):
    """Puts packages in place of Beam's own, whose `__init__` would import all of Beam."""
    names = {module.rsplit(".", depth)[0] for module in MODULES for depth in (1, 2)}
    names = {f"{MODEL}.{name}" for name in names}
    parts = MODEL.split(".")
    names |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    for name in sorted(names):
        package = types.ModuleType(name)
        package.__path__ = [f"{wheel}/{API}/{name.replace('.', '/')}"]
        sys.modules[name] = package


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    make_packages(sys.argv[1])
    out = descriptor_pb2.FileDescriptorSet()
    for name in MODULES:
        importlib.import_module(f"{MODEL}.{name}").DESCRIPTOR.CopyToProto(out.file.add())
    with open(sys.argv[2], "wb") as file:
        file.write(out.SerializeToString())
    methods = sum(len(service.method) for described in out.file for service in described.service)
    print(f"{len(out.file)} files, {methods} methods -> {sys.argv[2]}")


if __name__ == "__main__":
    main()
