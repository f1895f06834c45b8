"""Organization policies by the official client over gRPC and REST, and what they refuse and let pass in every
service. K9."""

import grpc
import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1, orgpolicy_v2
from google.cloud.bigtable_admin_v2.types import Cluster, Instance
from google.cloud.orgpolicy_v2.services.org_policy.transports import OrgPolicyGrpcTransport
from google.cloud.orgpolicy_v2.types import Policy, PolicySpec
from google.protobuf import duration_pb2, field_mask_pb2
from google.type import expr_pb2
from harness import storage
from harness.bigtable import ZONE, Bigtable
from harness.errors import refused
from harness.kms import Keys
from harness.policies import (
    DISABLE,
    DURATION,
    ENFORCE,
    LEVELS,
    PROJECTS,
    SERVICES,
    Policies,
    allow,
    deny,
    violates,
)

Rule = PolicySpec.PolicyRule
Values = Rule.StringValues
DAY = 24 * 3600


def grpc_client(server):
    transport = OrgPolicyGrpcTransport(channel=grpc.insecure_channel(server.address))
    return orgpolicy_v2.OrgPolicyClient(transport=transport)


def rest_client(server):
    return orgpolicy_v2.OrgPolicyClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )


@pytest.fixture(params=["grpc", "rest"])
def client(request, server):
    return (grpc_client if request.param == "grpc" else rest_client)(server)


@pytest.fixture
def parent(project):
    return f"projects/{project}"


@pytest.fixture
def policies(server, project):
    return Policies(server, project)


def denied(parent, *services):
    rule = Rule(values=Values(denied_values=services or ["is:storage.googleapis.com"]))
    return Policy(name=f"{parent}/policies/{SERVICES}", spec=PolicySpec(rules=[rule]))


def mask(*paths):
    return field_mask_pb2.FieldMask(paths=paths)


# The service itself.


def test_constraints_are_listed_with_their_kinds(client, parent):
    found = {item.name.rpartition("/")[2]: item for item in client.list_constraints({"parent": parent, "page_size": 2})}
    assert sorted(found) == sorted([SERVICES, PROJECTS, LEVELS, DURATION, DISABLE])
    assert all(item.name.startswith(f"{parent}/constraints/") for item in found.values())
    assert "boolean_constraint" in found[DISABLE] and "list_constraint" not in found[DISABLE]
    assert found[DURATION].list_constraint.supports_in and not found[DURATION].list_constraint.supports_under
    assert found[PROJECTS].list_constraint.supports_under
    assert all(item.supports_dry_run and item.constraint_default == 1 for item in found.values())


def test_k9_a_policy_is_set_read_changed_and_removed(client, parent):
    name = f"{parent}/policies/{SERVICES}"
    with refused("NOT_FOUND"):
        client.get_policy(name=name)
    assert list(client.list_policies(parent=parent)) == []
    effective = client.get_effective_policy(name=name)
    assert (effective.name, list(effective.spec.rules)) == (name, [Rule(allow_all=True)])

    made = client.create_policy(parent=parent, policy=denied(parent))
    assert made.spec.rules == denied(parent).spec.rules
    assert made.etag and made.spec.etag and made.spec.update_time.timestamp() > 1_700_000_000
    with refused("ALREADY_EXISTS"):
        client.create_policy(parent=parent, policy=denied(parent))
    assert client.get_policy(name=name) == made
    assert list(client.list_policies(parent=parent)) == [made]
    effective = client.get_effective_policy(name=name)
    assert list(effective.spec.rules[0].values.denied_values) == ["storage.googleapis.com"]
    assert not effective.etag and not effective.spec.etag

    tried = Policy(name=name, dry_run_spec=PolicySpec(rules=[Rule(deny_all=True)]))
    with refused("INVALID_ARGUMENT", "update_mask"):
        client.update_policy(policy=tried)
    both = client.update_policy(request={"policy": tried, "update_mask": mask("policy.dry_run_spec")})
    assert both.spec == made.spec and both.dry_run_spec.rules == tried.dry_run_spec.rules
    whole = client.update_policy(request={"policy": denied(parent), "update_mask": mask("*")})
    assert "dry_run_spec" not in whole
    reset = Policy(name=name, spec=PolicySpec(reset=True))
    assert client.update_policy(policy=reset).spec.reset
    assert list(client.get_effective_policy(name=name).spec.rules) == [Rule(allow_all=True)]
    client.delete_policy(name=name)
    with refused("NOT_FOUND"):
        client.delete_policy(name=name)
    with refused("NOT_FOUND"):
        client.update_policy(policy=denied(parent))


def test_k9_an_old_etag_changes_nothing(client, parent):
    first = client.create_policy(parent=parent, policy=denied(parent))
    second = client.update_policy(policy=first)
    assert second.etag != first.etag and second.spec.etag != first.spec.etag
    with refused("ABORTED", "etag"):
        client.update_policy(policy=first)
    with refused("ABORTED", "etag"):
        client.update_policy(policy=Policy(name=first.name, spec=first.spec))
    with refused("ABORTED", "etag"):
        client.delete_policy(request={"name": first.name, "etag": first.etag})
    assert client.get_policy(name=first.name) == second
    client.delete_policy(request={"name": first.name, "etag": second.etag})


def test_effective_policies_open_groups(client, parent):
    name = f"{parent}/policies/{DURATION}"
    spec = PolicySpec(rules=[Rule(values=Values(allowed_values=["in:30d"]))], inherit_from_parent=True)
    client.create_policy(parent=parent, policy=Policy(name=name, spec=spec))
    [rule] = client.get_effective_policy(name=name).spec.rules
    assert list(rule.values.allowed_values) == ["30d", "60d", "90d", "120d"]
    assert client.get_policy(name=name).spec.inherit_from_parent


def test_wrong_requests_are_refused_each_in_its_way(client, parent):
    condition = Rule(deny_all=True, condition=expr_pb2.Expr(expression="resource.matchTag('a', 'b')"))
    for rule, code, text in [
        (condition, "UNIMPLEMENTED", "Conditions"),
        (Rule(), "INVALID_ARGUMENT", "a rule needs"),
        (Rule(enforce=True), "INVALID_ARGUMENT", "list constraint"),
        (Rule(values=Values(denied_values=["bigtabel.googleapis.com"])), "INVALID_ARGUMENT", "bigtabel"),
    ]:
        policy = Policy(name=f"{parent}/policies/{SERVICES}", spec=PolicySpec(rules=[rule]))
        with refused(code, text):
            client.create_policy(parent=parent, policy=policy)
    for other in ("gcp.resourceLocations", "iam.disableServiceAccountKeyCreation"):
        with refused("NOT_FOUND", other):
            client.get_policy(name=f"{parent}/policies/{other}")
    with refused("UNIMPLEMENTED", "Custom"):
        client.get_policy(name=f"{parent}/policies/custom.mine")
    for elsewhere in ("folders/123", "organizations/123"):
        with refused("UNIMPLEMENTED", "projects only"):
            list(client.list_policies(parent=elsewhere))
        with refused("UNIMPLEMENTED", "projects only"):
            list(client.list_constraints(parent=elsewhere))
        with refused("UNIMPLEMENTED", "projects only"):
            client.get_effective_policy(name=f"{elsewhere}/policies/{SERVICES}")
        with refused("UNIMPLEMENTED", "projects only"):
            client.create_policy(parent=elsewhere, policy=denied(elsewhere))
        with refused("UNIMPLEMENTED", "projects only"):
            client.update_policy(policy=denied(elsewhere))
        with refused("UNIMPLEMENTED", "projects only"):
            client.delete_policy(name=f"{elsewhere}/policies/{SERVICES}")
    assert list(client.list_policies(parent=parent)) == []


@pytest.mark.parametrize("kill", [False, True])
def test_k9_policies_survive_a_restart_and_a_crash(own_server, project, kill):
    policies = Policies(own_server, project)
    policies.set(SERVICES, deny("is:storage.googleapis.com"))
    policies.set(DISABLE, ENFORCE)
    policies.delete(DISABLE)
    own_server.restart(kill=kill)
    client = grpc_client(own_server)
    assert [policy.name for policy in client.list_policies(parent=f"projects/{project}")] == [policies.name(SERVICES)]
    with storage.refused(412):
        storage.client(own_server, project).create_bucket(f"{project}-b", location="us-east1")


def test_k9_a_server_of_keys_alone_has_policies(start_server, project):
    server = start_server("--services", "kms")
    Policies(server, project).set(LEVELS, allow("HSM"))
    with refused("FAILED_PRECONDITION") as caught:
        Keys(server, project).key("k", grant=False)
    violates(caught, LEVELS, project)
    server.restart()
    with refused("FAILED_PRECONDITION"):
        Keys(server, project).key("k", grant=False)


# Keys for resources.


@pytest.fixture
def key(keys, server, project):
    """A key that Bigtable and Cloud Storage may use."""
    made = keys.key("k")
    keys.grant(made, storage.storage_agent(server, project))
    return made


@pytest.fixture
def foreign(server, project, unique):
    """A key of another project that this project's services may use."""
    other = Keys(server, unique("other"))
    made = other.key("k", grant=False)
    mine = Keys(server, project)
    for member in (storage.storage_agent(server, project), None):
        mine.grant(made, member)
    return made


@pytest.mark.parametrize("service", ["bigtable.googleapis.com", "is:bigtableadmin.googleapis.com"])
def test_k9_bigtable_makes_nothing_without_a_key(server, project, policies, bigtable, key, unique, service):
    before = bigtable.create_instance(unique("i"))
    table = bigtable.create_table(before, "there")
    policies.set(SERVICES, deny(service))
    with refused("FAILED_PRECONDITION") as caught:
        bigtable.create_instance(unique("i"))
    violates(caught, SERVICES, project)
    assert "'CreateInstance'" in caught.message and service.removeprefix("is:") in caught.message
    with refused("FAILED_PRECONDITION") as caught:
        bigtable.create_table(before, "new")
    violates(caught, SERVICES, project)
    with refused("FAILED_PRECONDITION") as caught:
        cluster = Cluster(location=f"projects/{project}/locations/us-east1-c", serve_nodes=1)
        bigtable.instances.create_cluster(parent=before, cluster_id="c2", cluster=cluster)
    violates(caught, SERVICES, project)
    # What was there goes on.
    bigtable.put(table, b"r")
    assert bigtable.keys(table) == [b"r"]
    protected = bigtable.create_instance(unique("i"), key=key)
    bigtable.create_table(protected, "t")
    # Another project's resources are its own affair.
    other = Bigtable(server.address, unique("q"))
    other.create_table(other.create_instance(unique("i")), "t")


def test_k9_bigtable_takes_keys_of_allowed_projects_alone(project, policies, bigtable, key, foreign, unique):
    before = bigtable.create_instance(unique("i"), key=foreign)
    policies.set(PROJECTS, allow(f"under:projects/{project}"))
    with refused("FAILED_PRECONDITION") as caught:
        bigtable.create_instance(unique("i"), key=foreign)
    violates(caught, PROJECTS, project)
    assert f"'projects/{foreign.split('/')[1]}'" in caught.message
    with refused("FAILED_PRECONDITION") as caught:
        bigtable.create_table(before, "t")
    violates(caught, PROJECTS, project)
    bigtable.create_table(bigtable.create_instance(unique("i"), key=key), "t")
    bigtable.create_table(bigtable.create_instance(unique("i")), "t")


def test_k9_the_rest_admin_is_held_to_the_same(server, project, policies, unique):
    from google.cloud.bigtable_admin_v2 import BigtableInstanceAdminClient

    rest = BigtableInstanceAdminClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )
    policies.set(SERVICES, deny("bigtable.googleapis.com"))
    with refused("FAILED_PRECONDITION") as caught:
        rest.create_instance(
            parent=f"projects/{project}",
            instance_id=unique("i"),
            instance=Instance(display_name="x"),
            clusters={"c": Cluster(location=f"projects/{project}/locations/{ZONE}", serve_nodes=1)},
        )
    violates(caught, SERVICES, project)


def conflict(constraint):
    """Cloud Storage's way to tell a violation."""
    return storage.refused(412, f"Request violates constraint 'constraints/{constraint}'", reason="conditionNotMet")


def test_k9_storage_makes_nothing_without_a_key(server, project, policies, key, unique):
    gcs = storage.client(server, project)
    before = gcs.create_bucket(unique("b"), location="us-east1")
    before.blob("there").upload_from_string(b"x")
    policies.set(SERVICES, deny("is:storage.googleapis.com"))
    with conflict(SERVICES):
        gcs.create_bucket(unique("b"), location="us-east1")
    with conflict(SERVICES):
        before.blob("new").upload_from_string(b"x")
    with conflict(SERVICES):
        before.blob("new").create_resumable_upload_session(client=gcs)
    with conflict(SERVICES):
        before.copy_blob(before.blob("there"), before, "copy")
    with conflict(SERVICES):
        before.blob("both").compose([before.blob("there"), before.blob("there")])
    # What was there goes on.
    assert before.blob("there").download_as_bytes() == b"x"
    changed = before.get_blob("there")
    changed.metadata = {"a": "b"}
    changed.patch()
    # A key in the request, or of the bucket, is a key.
    gcs.bucket(before.name).blob("under", kms_key_name=key).upload_from_string(b"y")
    made = gcs.bucket(unique("b"))
    made.default_kms_key_name = key
    made.create(location="us-east1")
    made.blob("o").upload_from_string(b"z")
    assert made.get_blob("o").kms_key_name.startswith(key)
    # Protection is not taken away.
    made.default_kms_key_name = None
    with conflict(SERVICES):
        made.patch()
    policies.delete(SERVICES)
    made.patch()
    before.blob("new").upload_from_string(b"x")


def test_k9_storage_takes_keys_of_allowed_projects_alone(server, project, policies, key, foreign, unique):
    gcs = storage.client(server, project)
    policies.set(PROJECTS, allow(f"projects/{project}"))
    bucket = gcs.bucket(unique("b"))
    bucket.default_kms_key_name = foreign
    with conflict(PROJECTS):
        bucket.create(location="us-east1")
    bucket.default_kms_key_name = key
    bucket.create(location="us-east1")
    bucket.default_kms_key_name = foreign
    with conflict(PROJECTS):
        bucket.patch()
    with conflict(PROJECTS):
        gcs.bucket(bucket.name).blob("o", kms_key_name=foreign).upload_from_string(b"x")
    gcs.bucket(bucket.name).blob("o").upload_from_string(b"x")
    policies.delete(PROJECTS)
    bucket.patch()
    assert gcs.get_bucket(bucket.name).default_kms_key_name == foreign


def test_k9_a_dry_run_refuses_nothing_and_is_told_in_the_log(own_server, project):
    Policies(own_server, project).set(SERVICES, {"rules": [{"denyAll": True}]}, part="dryRunSpec")
    bucket = storage.client(own_server, project).create_bucket(f"{project}-b", location="us-east1")
    bucket.blob("o").upload_from_string(b"x")
    own_server.stop()
    log = own_server.log_file.read_text()
    told = [line for line in log.splitlines() if "dry run" in line]
    assert any(SERVICES in line and "storage.buckets.create" in line for line in told), log
    assert any("storage.objects.create" in line for line in told), log


# Keys themselves.


def test_k9_new_keys_have_an_allowed_protection_level(kms, project, policies):
    before = kms.key("before", grant=False)
    policies.set(LEVELS, allow("is:HSM", "EXTERNAL"))
    with refused("FAILED_PRECONDITION") as caught:
        kms.key("software", grant=False)
    violates(caught, LEVELS, project)
    assert "'SOFTWARE'" in caught.message
    with refused("FAILED_PRECONDITION") as caught:
        kms.client.create_crypto_key_version(parent=before, crypto_key_version={})
    violates(caught, LEVELS, project)
    with refused("FAILED_PRECONDITION") as caught:
        template = {"protection_level": kms_v1.ProtectionLevel.SOFTWARE, "algorithm": 1}
        kms.client.update_crypto_key(
            crypto_key={"name": before, "version_template": template}, update_mask=mask("version_template")
        )
    violates(caught, LEVELS, project)
    with refused("FAILED_PRECONDITION") as caught:
        method = kms_v1.ImportJob.ImportMethod.RSA_OAEP_3072_SHA256_AES_256
        job = {"import_method": method, "protection_level": kms_v1.ProtectionLevel.SOFTWARE}
        kms.client.create_import_job(parent=kms.ring(), import_job_id="j", import_job=job)
    violates(caught, LEVELS, project)
    # What was there can be used.
    sealed = kms.client.encrypt(name=before, plaintext=b"x")
    assert kms.client.decrypt(name=before, ciphertext=sealed.ciphertext).plaintext == b"x"
    policies.delete(LEVELS)
    policies.set(LEVELS, allow("SOFTWARE"))
    kms.key("software", grant=False)
    kms.client.create_crypto_key_version(parent=before, crypto_key_version={})


def test_k9_new_keys_have_the_shortest_time_before_destruction(kms, project, policies):
    policies.set(DURATION, allow("in:30d"))
    for name, days in (("short", 29), ("default", None), ("long", 90)):
        fields = {} if days is None else {"destroy_scheduled_duration": duration_pb2.Duration(seconds=days * DAY)}
        if name == "short":
            with refused("FAILED_PRECONDITION") as caught:
                kms.key(name, grant=False, **fields)
            violates(caught, DURATION, project)
            assert f"'{29 * DAY}s'" in caught.message
        else:
            kms.key(name, grant=False, **fields)
    policies.delete(DURATION)
    policies.set(DURATION, allow("in:60d"))
    with refused("FAILED_PRECONDITION") as caught:
        kms.key("another", grant=False)
    violates(caught, DURATION, project)


def test_k9_a_version_is_disabled_before_it_is_destroyed(kms, project, policies):
    key = kms.key("k", grant=False)
    policies.set(DISABLE, ENFORCE)
    version = f"{key}/cryptoKeyVersions/1"
    with refused("FAILED_PRECONDITION") as caught:
        kms.client.destroy_crypto_key_version(name=version)
    violates(caught, DISABLE, project)
    assert "'ENABLED'" in caught.message
    kms.disable(key)
    kms.client.destroy_crypto_key_version(name=version)
    policies.delete(DISABLE)
    assert kms.client.create_crypto_key_version(parent=key, crypto_key_version={}).name.endswith("/2")
    kms.client.destroy_crypto_key_version(name=f"{key}/cryptoKeyVersions/2")
