"""Writes the official descriptors of the APIs that Claviger serves to a file.

    python dump.py official.binpb

The file is a serialized google.protobuf.FileDescriptorSet. It is made from the packages named in
requirements.txt, and the test `official_descriptors` of the crate claviger-proto compares ours with it.

Where a package carries real descriptors (IAM, locations, operations, rpc, audit), they are copied. The KMS,
Bigtable, Dataflow, Logging, policy and project packages carry messages only: their services are put together here from the
gRPC transports (method names, types, streaming) and the REST transports (HTTP rules) that the packages ship; Logging
ships none of the latter.

A shared service such as google.iam.v1.IAMPolicy gets further HTTP rules from each API that mixes it in.
These are added as additional bindings, so that one descriptor shows every public path.
"""

import ast
import importlib
import importlib.util
import inspect
import sys

import proto
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

PLAIN_MODULES = [
    "google.api.annotations_pb2",
    "google.api.http_pb2",
    "google.api.monitored_resource_pb2",
    "google.cloud.audit.audit_log_pb2",
    "google.cloud.location.locations_pb2",
    "google.iam.v1.iam_policy_pb2",
    "google.iam.v1.options_pb2",
    "google.iam.v1.policy_pb2",
    "google.logging.type.log_severity_pb2",
    "google.longrunning.operations_pb2",
    "google.rpc.error_details_pb2",
    "google.rpc.status_pb2",
    "google.type.date_pb2",
    "google.type.expr_pb2",
]

TYPE_MODULES = [
    "google.cloud.kms_v1.types.ekm_service",
    "google.cloud.kms_v1.types.resources",
    "google.cloud.kms_v1.types.service",
    "google.cloud.logging_v2.types.log_entry",
    "google.cloud.logging_v2.types.logging",
    "google.cloud.orgpolicy_v2.types.constraint",
    "google.cloud.orgpolicy_v2.types.orgpolicy",
    "google.cloud.resourcemanager_v3.types.projects",
    "google.cloud.bigtable_v2.types.bigtable",
    "google.cloud.bigtable_v2.types.data",
    "google.cloud.bigtable_v2.types.feature_flags",
    "google.cloud.bigtable_v2.types.peer_info",
    "google.cloud.bigtable_v2.types.request_stats",
    "google.cloud.bigtable_v2.types.response_params",
    "google.cloud.bigtable_v2.types.session",
    "google.cloud.bigtable_v2.types.types",
    "google.cloud.bigtable_admin_v2.types.bigtable_instance_admin",
    "google.cloud.bigtable_admin_v2.types.bigtable_table_admin",
    "google.cloud.bigtable_admin_v2.types.common",
    "google.cloud.bigtable_admin_v2.types.instance",
    "google.cloud.bigtable_admin_v2.types.table",
    "google.cloud.bigtable_admin_v2.types.types",
    "google.cloud.dataflow_v1beta3.types.environment",
    "google.cloud.dataflow_v1beta3.types.jobs",
    "google.cloud.dataflow_v1beta3.types.messages",
    "google.cloud.dataflow_v1beta3.types.metrics",
    "google.cloud.dataflow_v1beta3.types.snapshots",
    "google.cloud.dataflow_v1beta3.types.templates",
]

# Where the services are: their transports, and the class names there.
SERVICES = [
    ("google.cloud.kms_v1.services.key_management_service.transports", "KeyManagementService"),
    ("google.cloud.kms_v1.services.ekm_service.transports", "EkmService"),
    ("google.cloud.logging_v2.services.logging_service_v2.transports", "LoggingServiceV2"),
    ("google.cloud.orgpolicy_v2.services.org_policy.transports", "OrgPolicy"),
    ("google.cloud.resourcemanager_v3.services.projects.transports", "Projects"),
    ("google.cloud.bigtable_v2.services.bigtable.transports", "Bigtable"),
    ("google.cloud.bigtable_admin_v2.services.bigtable_instance_admin.transports", "BigtableInstanceAdmin"),
    ("google.cloud.bigtable_admin_v2.services.bigtable_table_admin.transports", "BigtableTableAdmin"),
    ("google.cloud.dataflow_v1beta3.services.flex_templates_service.transports", "FlexTemplatesService"),
    ("google.cloud.dataflow_v1beta3.services.jobs_v1_beta3.transports", "JobsV1Beta3"),
    ("google.cloud.dataflow_v1beta3.services.messages_v1_beta3.transports", "MessagesV1Beta3"),
    ("google.cloud.dataflow_v1beta3.services.metrics_v1_beta3.transports", "MetricsV1Beta3"),
    ("google.cloud.dataflow_v1beta3.services.snapshots_v1_beta3.transports", "SnapshotsV1Beta3"),
    ("google.cloud.dataflow_v1beta3.services.templates_service.transports", "TemplatesService"),
]

# Methods of shared services that an API mixes in.
MIXED_IN = {
    "SetIamPolicy": "google.iam.v1.IAMPolicy",
    "GetIamPolicy": "google.iam.v1.IAMPolicy",
    "TestIamPermissions": "google.iam.v1.IAMPolicy",
    "GetOperation": "google.longrunning.Operations",
    "ListLocations": "google.cloud.location.Locations",
    "GetLocation": "google.cloud.location.Locations",
}


def without_python_underscores(message):
    """Names such as `type_` are `type` in the API: Python reserves the word."""
    for field in message.field:
        if field.name.endswith("_"):
            field.name = field.name.rstrip("_")
            field.ClearField("json_name")
    for nested in message.nested_type:
        without_python_underscores(nested)


def file_of(module_name):
    """The FileDescriptorProto of a module of proto-plus types."""
    module = importlib.import_module(module_name)
    for item in vars(module).values():
        if inspect.isclass(item) and issubclass(item, proto.Message) and item.__module__ == module_name:
            described = descriptor_pb2.FileDescriptorProto()
            item.pb(item()).DESCRIPTOR.file.CopyToProto(described)
            for message in described.message_type:
                without_python_underscores(message)
            return described
    raise SystemExit(f"{module_name} has no messages")


def full_name(expression, module):
    """The protobuf name of the class that an expression such as `service.Foo.serialize` is about."""
    owner = eval(ast.unparse(expression.value), vars(module))  # our own pinned packages, not user input
    if issubclass(owner, proto.Message):
        return owner.pb(owner()).DESCRIPTOR.full_name
    return owner.DESCRIPTOR.full_name


def calls(module):
    """(path, streaming kind, request type, response type) of each method in a gRPC transport."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            continue
        arguments = {keyword.arg: keyword.value for keyword in node.keywords}
        if not (node.args and isinstance(node.args[0], ast.Constant)):
            continue
        request, response = arguments["request_serializer"], arguments["response_deserializer"]
        if ast.unparse(request) == "None" or not isinstance(request, ast.Attribute):
            continue
        if not isinstance(response, ast.Attribute):
            # Empty replies are deserialized by `empty_pb2.Empty.FromString`; `None` marks mixins.
            continue
        yield node.args[0].value, node.func.attr, full_name(request, module), full_name(response, module)


def rules(base, method):
    """The HTTP rules of a method, as the REST transport knows them."""
    owner = getattr(base, f"_Base{method}", None)
    return owner._get_http_options() if owner and hasattr(owner, "_get_http_options") else []


def operation_rules(rest):
    """(method, HTTP option) of google.longrunning.Operations in a REST transport's table of its operations."""
    for node in ast.walk(ast.parse(inspect.getsource(rest))):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values):
            name = key.value if isinstance(key, ast.Constant) else None
            if isinstance(name, str) and name.startswith("google.longrunning.Operations."):
                for options in ast.literal_eval(value):
                    yield name.rsplit(".", 1)[1], options


def fill(rule, options):
    """Writes one HTTP option into a google.api.HttpRule."""
    setattr(rule, options["method"], options["uri"])
    rule.body = options.get("body", "")


def service_of(transports, name):
    """(service's full name, ServiceDescriptorProto) from the transports of a package."""
    grpc = importlib.import_module(f"{transports}.grpc")
    base = None
    if importlib.util.find_spec(f"{transports}.rest_base"):
        base = getattr(importlib.import_module(f"{transports}.rest_base"), f"_Base{name}RestTransport")
    described = descriptor_pb2.ServiceDescriptorProto(name=name)
    seen = None
    for path, kind, request, response in sorted(calls(grpc)):
        service, method = path.strip("/").split("/")
        if not service.endswith("." + name):
            continue
        seen = service
        entry = described.method.add(name=method, input_type="." + request, output_type="." + response)
        entry.client_streaming = kind.startswith("stream")
        entry.server_streaming = kind.endswith("stream")
        options = rules(base, method)
        if options:
            rule = entry.options.Extensions[annotations_pb2.http]
            fill(rule, options[0])
            for further in options[1:]:
                fill(rule.additional_bindings.add(), further)
    if seen is None:
        raise SystemExit(f"{transports} shows no method of {name}")
    return seen, described, base


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    files = {}
    for name in PLAIN_MODULES:
        described = descriptor_pb2.FileDescriptorProto()
        importlib.import_module(name).DESCRIPTOR.CopyToProto(described)
        files[name] = described
    for name in TYPE_MODULES:
        files[name] = file_of(name)
    services = {
        f"{described.package}.{service.name}": service for described in files.values() for service in described.service
    }
    for transports, name in SERVICES:
        full, service, base = service_of(transports, name)
        home = next(f for f in files.values() if f.package == full.rsplit(".", 1)[0])
        home.service.append(service)
        if base is None:
            continue
        own = {method.name for method in service.method}
        for method, shared in MIXED_IN.items():
            if method in own:
                continue
            for options in rules(base, method):
                target = next(m for m in services[shared].method if m.name == method)
                fill(target.options.Extensions[annotations_pb2.http].additional_bindings.add(), options)
        rest = importlib.import_module(f"{transports}.rest")
        for method, options in operation_rules(rest):
            target = next(m for m in services["google.longrunning.Operations"].method if m.name == method)
            fill(target.options.Extensions[annotations_pb2.http].additional_bindings.add(), options)
    out = descriptor_pb2.FileDescriptorSet(file=files.values())
    with open(sys.argv[1], "wb") as file:
        file.write(out.SerializeToString())
    methods = sum(len(service.method) for described in out.file for service in described.service)
    print(f"{len(out.file)} files, {methods} methods -> {sys.argv[1]}")


if __name__ == "__main__":
    main()
