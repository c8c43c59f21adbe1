"""Roles and what they permit, as the protos say."""

from functools import cache

from icto.policy.v1 import policy_pb2 as policy


@cache
def permission_holders(permission: str) -> frozenset[str]:
    """Names of the roles that hold a permission, the super-admin among them."""
    value = policy.Permission.DESCRIPTOR.values_by_name[f"PERMISSION_{permission}"]
    grant = value.GetOptions().Extensions[policy.grant]
    return frozenset(role_name(role) for role in (*grant.roles, policy.ROLE_SUPER_ADMIN))


@cache
def permissions_of(roles: frozenset[str]) -> frozenset[str]:
    """What people with these roles may do, for instance "MANAGE_USERS"."""
    names = (name.removeprefix("PERMISSION_") for name in policy.Permission.keys()[1:])
    return frozenset(name for name in names if roles & permission_holders(name))


def role_name(role: "policy.Role.ValueType") -> str:
    """A role as it stands in tokens, for instance "SUPER_ADMIN"."""
    return policy.Role.Name(role).removeprefix("ROLE_")
