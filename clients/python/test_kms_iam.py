"""Policies of key rings and keys by the official KMS client, over gRPC and REST: K3."""

import pytest
from google.iam.v1 import policy_pb2
from google.type import expr_pb2
from harness.errors import refused
from harness.kms import USE

ADA = "user:ada@example.com"
VIEWER = "roles/cloudkms.viewer"


@pytest.fixture(params=["key ring", "key"])
def resource(request, kms):
    return kms.ring() if request.param == "key ring" else kms.key("k", grant=False)


def get(kms, resource):
    return kms.client.get_iam_policy(request={"resource": resource})


def put(kms, resource, *bindings, etag=b"", **fields):
    policy = policy_pb2.Policy(bindings=bindings, etag=etag, **fields)
    return kms.client.set_iam_policy(request={"resource": resource, "policy": policy})


def binding(role=USE, *members):
    return policy_pb2.Binding(role=role, members=members or (ADA,))


def test_k3_a_policy_starts_empty_and_is_kept(kms, resource):
    first = get(kms, resource)
    assert list(first.bindings) == []
    assert first.etag
    put(kms, resource, binding(USE, ADA, "serviceAccount:s@p.iam.gserviceaccount.com"), binding(VIEWER, "allUsers"))
    got = get(kms, resource)
    assert {b.role: set(b.members) for b in got.bindings} == {
        USE: {ADA, "serviceAccount:s@p.iam.gserviceaccount.com"},
        VIEWER: {"allUsers"},
    }
    assert got.etag != first.etag
    put(kms, resource)
    assert list(get(kms, resource).bindings) == []


def test_k3_a_policy_that_was_changed_meanwhile_is_not_overwritten(kms, resource):
    first = get(kms, resource)
    put(kms, resource, binding(), etag=first.etag)
    with refused("ABORTED", "There were concurrent policy changes"):
        put(kms, resource, binding(VIEWER), etag=first.etag)
    assert [b.role for b in get(kms, resource).bindings] == [USE]
    put(kms, resource, binding(VIEWER))
    assert [b.role for b in get(kms, resource).bindings] == [VIEWER]


@pytest.mark.parametrize(
    "bad, code",
    [
        (binding("roles/unheard.of"), "INVALID_ARGUMENT"),
        (binding("owner"), "INVALID_ARGUMENT"),
        (binding(USE, "ada"), "INVALID_ARGUMENT"),
        (binding(USE, "user:ada"), "INVALID_ARGUMENT"),
        (binding(USE, "robot:a@b.c"), "INVALID_ARGUMENT"),
        (binding(USE, "group:g@example.com"), "UNIMPLEMENTED"),
        (
            policy_pb2.Binding(role=USE, members=[ADA], condition=expr_pb2.Expr(expression="true", title="t")),
            "UNIMPLEMENTED",
        ),
    ],
    ids=["role", "no role", "member", "user", "kind", "group", "condition"],
)
def test_k3_a_binding_that_could_not_be_honoured_is_refused(kms, resource, bad, code):
    put(kms, resource, binding())
    with refused(code) as caught:
        put(kms, resource, bad)
    assert len(caught.message.split()) > 2
    assert [b.role for b in get(kms, resource).bindings] == [USE]


def test_k3_permissions_can_be_tested(kms, resource):
    asked = ["cloudkms.cryptoKeys.get", "cloudkms.cryptoKeyVersions.useToEncrypt"]
    got = kms.client.test_iam_permissions(request={"resource": resource, "permissions": asked})
    assert list(got.permissions) == asked
    got = kms.client.test_iam_permissions(request={"resource": resource, "permissions": []})
    assert list(got.permissions) == []
    with refused("INVALID_ARGUMENT"):
        kms.client.test_iam_permissions(request={"resource": resource, "permissions": ["cloudkms.*"]})


def test_k3_a_resource_that_is_not_there_has_no_policy(kms):
    for resource in [f"{kms.ring()}x", f"{kms.ring()}/cryptoKeys/none"]:
        with refused("NOT_FOUND"):
            get(kms, resource)
        with refused("NOT_FOUND"):
            put(kms, resource, binding())


def test_k3_keys_that_claviger_manages_are_out_of_reach(kms):
    """E1's keys live in a reserved project that no user may name."""
    parent = "projects/claviger-managed/locations/us-east1"
    refusals = ("PERMISSION_DENIED", "NOT_FOUND", "INVALID_ARGUMENT")
    with refused(refusals):
        list(kms.client.list_key_rings(parent=parent))
    with refused(refusals):
        kms.client.create_key_ring(parent=parent, key_ring_id="r", key_ring={})
    with refused(refusals):
        get(kms, f"{parent}/keyRings/bigtable")
