"""Instances, clusters and app profiles by the official admin client, over gRPC and REST: B1."""

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigtable_admin_v2 import BigtableInstanceAdminClient
from google.cloud.bigtable_admin_v2.types import AppProfile, Cluster, Instance, StorageType
from google.protobuf import field_mask_pb2
from harness.bigtable import ZONE
from harness.errors import refused


@pytest.fixture(params=["grpc", "rest"])
def admin(request, server, bigtable):
    """The instance admin client over each of its transports."""
    if request.param == "grpc":
        return bigtable.instances
    return BigtableInstanceAdminClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )


def create(admin, project, instance, clusters=1, zone=ZONE, **fields):
    spec = {"location": f"projects/{project}/locations/{zone}", "serve_nodes": 3}
    return admin.create_instance(
        parent=f"projects/{project}",
        instance_id=instance,
        instance={"display_name": "Birds", **fields},
        clusters={f"{instance}-c{n}": spec for n in range(1, clusters + 1)},
    )


def test_b1_an_instance_is_created_found_listed_and_deleted(admin, project, unique):
    operation = create(admin, project, unique("i"), labels={"team": "birds"}, type_=Instance.Type.PRODUCTION)
    made = operation.result(timeout=20)
    assert made.name.startswith(f"projects/{project}/instances/")
    assert (made.display_name, dict(made.labels), made.state) == ("Birds", {"team": "birds"}, Instance.State.READY)
    assert made.type_ == Instance.Type.PRODUCTION
    assert admin.get_instance(name=made.name).name == made.name
    assert [i.name for i in admin.list_instances(parent=f"projects/{project}").instances] == [made.name]
    admin.delete_instance(name=made.name)
    with refused("NOT_FOUND"):
        admin.get_instance(name=made.name)
    with refused("NOT_FOUND"):
        admin.delete_instance(name=made.name)
    assert list(admin.list_instances(parent=f"projects/{project}").instances) == []


def test_b1_the_operation_of_a_creation_can_be_asked_for_again(bigtable, unique):
    operation = create(bigtable.instances, bigtable.project, unique("i"))
    operation.result(timeout=20)
    again = bigtable.instances.transport.operations_client.get_operation(operation.operation.name)
    assert (again.name, again.done) == (operation.operation.name, True)
    made = Instance.pb(Instance())
    assert again.response.Unpack(made)
    assert made.name == operation.result().name
    with refused("NOT_FOUND"):
        bigtable.instances.transport.operations_client.get_operation("operations/projects/none/operations/1")


def test_b1_an_instance_that_is_there_is_not_made_again(admin, project, unique):
    name = unique("i")
    create(admin, project, name).result(timeout=20)
    with refused("ALREADY_EXISTS"):
        create(admin, project, name).result(timeout=20)


@pytest.mark.parametrize("bad", ["", "short", "Upper-case", "9-digits-first", "x" * 34, "under_score", "a b c d e f"])
def test_b1_a_bad_instance_id_is_refused(bigtable, bad):
    with refused("INVALID_ARGUMENT", "instance_id"):
        bigtable.instances.create_instance(
            parent=bigtable.project_name,
            instance_id=bad,
            instance={"display_name": "Birds"},
            clusters={"cluster-1": {"location": f"{bigtable.project_name}/locations/{ZONE}", "serve_nodes": 1}},
        ).result(timeout=20)


def test_b1_an_instance_needs_a_cluster_in_a_zone(admin, project, unique):
    with refused("INVALID_ARGUMENT", "cluster"):
        create(admin, project, unique("i"), clusters=0).result(timeout=20)
    for zone in ["us-east1", "nowhere", ""]:
        with refused("INVALID_ARGUMENT"):
            create(admin, project, unique("i"), zone=zone).result(timeout=20)


def test_b1_an_instance_is_changed_by_its_mask(admin, project, unique):
    made = create(admin, project, unique("i"), labels={"a": "1"}).result(timeout=20)
    changed = Instance(name=made.name, display_name="Other birds", labels={"b": "2"})
    operation = admin.partial_update_instance(
        instance=changed, update_mask=field_mask_pb2.FieldMask(paths=["display_name"])
    )
    operation.result(timeout=20)
    got = admin.get_instance(name=made.name)
    assert (got.display_name, dict(got.labels)) == ("Other birds", {"a": "1"})
    operation = admin.partial_update_instance(instance=changed, update_mask=field_mask_pb2.FieldMask(paths=["labels"]))
    operation.result(timeout=20)
    assert dict(admin.get_instance(name=made.name).labels) == {"b": "2"}
    with refused("INVALID_ARGUMENT"):
        admin.partial_update_instance(
            instance=changed, update_mask=field_mask_pb2.FieldMask(paths=["create_time"])
        ).result(timeout=20)


def test_b1_clusters_are_found_listed_and_resized(admin, project, unique):
    made = create(admin, project, unique("i")).result(timeout=20)
    [cluster] = admin.list_clusters(parent=made.name).clusters
    got = admin.get_cluster(name=cluster.name)
    assert got == cluster
    assert (got.location, got.serve_nodes) == (f"projects/{project}/locations/{ZONE}", 3)
    assert got.state == Cluster.State.READY
    assert got.default_storage_type == StorageType.SSD
    cluster.serve_nodes = 5
    admin.update_cluster(request=cluster).result(timeout=20)
    assert admin.get_cluster(name=cluster.name).serve_nodes == 5
    cluster.serve_nodes = 6
    admin.partial_update_cluster(
        request={"cluster": cluster, "update_mask": {"paths": ["serve_nodes"]}}
    ).result(timeout=20)
    assert admin.get_cluster(name=cluster.name).serve_nodes == 6
    everywhere = admin.list_clusters(parent=f"projects/{project}/instances/-").clusters
    assert cluster.name in [c.name for c in everywhere]
    with refused("NOT_FOUND"):
        admin.get_cluster(name=f"{cluster.name}x")


def test_b1_the_last_cluster_stays(admin, project, unique):
    made = create(admin, project, unique("i")).result(timeout=20)
    [cluster] = admin.list_clusters(parent=made.name).clusters
    with refused("FAILED_PRECONDITION"):
        admin.delete_cluster(name=cluster.name)
    assert admin.get_cluster(name=cluster.name)


def test_b1_a_second_cluster_is_not_built_yet_and_says_so(admin, project, unique):
    with refused("UNIMPLEMENTED", "replication"):
        create(admin, project, unique("i"), clusters=2).result(timeout=20)


def test_b1_app_profiles_are_created_changed_listed_and_deleted(admin, project, unique):
    made = create(admin, project, unique("i")).result(timeout=20)
    assert [p.name.rpartition("/")[2] for p in admin.list_app_profiles(parent=made.name)] == ["default"]
    profile = admin.create_app_profile(
        parent=made.name,
        app_profile_id="batch",
        app_profile={"description": "nightly", "multi_cluster_routing_use_any": {}},
    )
    assert profile.name == f"{made.name}/appProfiles/batch"
    got = admin.get_app_profile(name=profile.name)
    assert (got.description, got._pb.WhichOneof("routing_policy")) == ("nightly", "multi_cluster_routing_use_any")
    assert got.etag
    changed = AppProfile(name=profile.name, description="weekly")
    admin.update_app_profile(
        app_profile=changed, update_mask=field_mask_pb2.FieldMask(paths=["description"])
    ).result(timeout=20)
    assert admin.get_app_profile(name=profile.name).description == "weekly"
    with refused("ALREADY_EXISTS"):
        admin.create_app_profile(
            parent=made.name, app_profile_id="batch", app_profile={"multi_cluster_routing_use_any": {}}
        )
    single = {"single_cluster_routing": {"cluster_id": "no-such-cluster"}}
    with refused(("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")):
        admin.create_app_profile(parent=made.name, app_profile_id="lost", app_profile=single)
    admin.delete_app_profile(request={"name": profile.name, "ignore_warnings": True})
    with refused("NOT_FOUND"):
        admin.get_app_profile(name=profile.name)


@pytest.mark.parametrize(
    "call",
    [
        lambda admin, instance: admin.get_iam_policy(request={"resource": instance}),
        lambda admin, instance: admin.list_hot_tablets(parent=f"{instance}/clusters/c-1"),
        lambda admin, instance: admin.list_logical_views(parent=instance),
        lambda admin, instance: admin.list_materialized_views(parent=instance),
        lambda admin, instance: admin.create_logical_view(
            parent=instance, logical_view_id="v", logical_view={"query": "SELECT 1"}
        ),
    ],
    ids=["iam", "hot tablets", "logical views", "materialized views", "create view"],
)
def test_b1_what_is_not_built_says_so(admin, project, unique, call):
    """Over REST there is no path for it."""
    made = create(admin, project, unique("i")).result(timeout=20)
    with refused(("UNIMPLEMENTED", "NOT_FOUND") if admin.transport.kind == "rest" else "UNIMPLEMENTED") as caught:
        call(admin, made.name)
    assert caught.message
