"""Every field of every request is bounded: checked once for the contract, not per call.

A service checks requests against `buf.validate`; a field without a bound there would let a caller
decide how much we read. Messages that are only ever answered are left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from buf.validate import validate_pb2
from google.api.field_behavior_pb2 import OUTPUT_ONLY, field_behavior
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

from contract.descriptors import messages
from contract.model import Contract, ContractError
from icto.policy.v1 import policy_pb2

Field = FieldDescriptorProto
_BOUNDED_STRING: Final = ("max_len", "max_bytes", "len", "len_bytes", "uuid", "const")
_BOUNDED_BYTES: Final = ("max_len", "len", "const")


def check(contract: Contract) -> None:
    """Passes when every request is bounded.

    Raises:
        ContractError: a field is not, and which.
    """
    known = messages(contract.descriptors)
    problems = [
        f"{method.full_name}: {path} has no bound"
        for method in contract.methods()
        if method.request_type.startswith("icto.")
        for path in _unbounded(known, f".{method.request_type}", "", ())
    ]
    if problems:
        raise ContractError(problems)


def _unbounded(
    known: Mapping[str, DescriptorProto], name: str, prefix: str, above: tuple[str, ...]
) -> Iterator[str]:
    if not name.startswith(".icto.") or name in above:
        return
    for field in known[name].field:
        extensions: Any = field.options.Extensions
        if OUTPUT_ONLY in extensions[field_behavior]:
            continue
        path = prefix + field.name
        if not _is_bounded(known, field):
            yield path
        if field.type == Field.TYPE_MESSAGE and not _is_map(known, field):
            yield from _unbounded(known, field.type_name, f"{path}.", (*above, name))


def _is_bounded(known: Mapping[str, DescriptorProto], field: FieldDescriptorProto) -> bool:
    rules = field.options.Extensions[validate_pb2.field]
    if _is_map(known, field):
        return rules.map.HasField("max_pairs")
    if field.label == Field.LABEL_REPEATED:
        # Its service counts the field that says what to do instead of many, so that it tells this.
        instead = field.options.Extensions[policy_pb2.instead_of_many]
        return rules.repeated.HasField("max_items") or bool(instead)
    if field.type == Field.TYPE_STRING:
        return any(rules.string.HasField(name) for name in _BOUNDED_STRING)
    if field.type == Field.TYPE_BYTES:
        return any(rules.bytes.HasField(name) for name in _BOUNDED_BYTES)
    return True


def _is_map(known: Mapping[str, DescriptorProto], field: FieldDescriptorProto) -> bool:
    target = known.get(field.type_name)
    return target is not None and target.options.map_entry
