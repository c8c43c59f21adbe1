"""Recipient lists: built page by page, sealed by their root, read one proof at a time."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from typing_extensions import override

from contract import ids
from contract.errors import Code, Error, invalid, not_found
from icto.distribution.v1 import distribution_pb2 as pb
from icto.distribution.v1.distribution_handlers import RecipientListServiceHandlers
from services.distribution_deployer import lists_store as store
from services.distribution_deployer import merkle_rules, spec_rules
from services.distribution_deployer.domain import ListState, Recipient
from services.distribution_deployer.lists_store import RecipientList
from services.distribution_deployer.merkle_rules import MAX_LEAVES, Builder
from services.distribution_deployer.messages import (
    distribution_name,
    list_name,
    parse_list,
    parse_proof_name,
    parse_recipients,
)
from services.distribution_deployer.visibility import list_is_public
from services.kit.answering import paging
from services.kit.forgetting import keep_forgetting
from services.kit.money.amounts import MAX_AMOUNT
from services.kit.serving import Call, Effect, Kit

OWNED: Final = "recipient_list"
LISTS: Final = "unused_recipient_lists"
RECIPIENTS: Final = "unused_recipients"


class RecipientListService(RecipientListServiceHandlers[Call]):
    """icto.distribution.v1.RecipientListService."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._database = kit.database
        self._max_lists = kit.service.retention[LISTS].per_user
        self._max_recipients = kit.service.retention[RECIPIENTS].per_user

    async def run(self) -> None:
        """Forgets lists that nobody uses, as long as the replica lives."""
        await keep_forgetting(self._kit, LISTS, store.forget_unused)

    @override
    async def CreateRecipientList(
        self, request: pb.CreateRecipientListRequest, call: Call
    ) -> pb.RecipientList:
        """Begins a list."""
        if request.category_id > spec_rules.MAX_CATEGORY_ID:
            raise invalid("category_id", f"must be 1 to {spec_rules.MAX_CATEGORY_ID}")
        async with call.transaction() as tx:
            lists, _ = await store.count_unused(tx, call.principal)
            if lists >= self._max_lists:
                raise Error(
                    Code.RESOURCE_EXHAUSTED,
                    "TOO_MANY_LISTS",
                    f"You have {lists} lists that no distribution uses; use or delete one.",
                )
            new = ids.new_id(call.principal)
            added = await store.add(tx, new, call.principal, request.category_id)
            response = list_message(added)
            return tx.answer(response, subject=response.name)

    @override
    async def AddRecipients(self, request: pb.AddRecipientsRequest, call: Call) -> pb.RecipientList:
        """Adds the next page; one that is there already changes nothing."""
        list_id = parse_list(request.name)
        recipients = parse_recipients(request.recipients, "recipients")
        spec_rules.check_page(recipients, "recipients")
        async with call.transaction() as tx:
            found = call.owned(await store.lock(tx, list_id), OWNED, request.name)
            leaves = _leaves(found, recipients)
            if request.page < found.page_count:
                await _check_same_page(tx, found, request.page, leaves)
                return tx.answer(list_message(found), subject=request.name)
            _check_growth(found, request.page, recipients)
            await self._check_room(tx, found, len(recipients))
            grown, twice = await store.add_page(tx, found, recipients, leaves)
            if twice:
                problem = f"name {twice[0]}, who is in the list already"
                raise invalid("recipients", problem, "DUPLICATE_RECIPIENT")
            return tx.answer(list_message(grown), subject=request.name)

    async def _check_room(self, tx: Effect, found: RecipientList, more: int) -> None:
        """Passes when an owner may have so many more recipients that no distribution uses."""
        _, recipients = await store.count_unused(tx, found.owner)
        if recipients + more > self._max_recipients:
            raise Error(
                Code.RESOURCE_EXHAUSTED,
                "TOO_MANY_RECIPIENTS",
                f"Your lists that no distribution uses may have {self._max_recipients} recipients"
                f" in all, and have {recipients}; use or delete one.",
            )

    @override
    async def SealRecipientList(
        self, request: pb.SealRecipientListRequest, call: Call
    ) -> pb.RecipientList:
        """Seals a list by its root. The tree is built and kept chunk by chunk."""
        list_id = parse_list(request.name)
        async with call.transaction() as tx:
            found = call.owned(await store.lock(tx, list_id), OWNED, request.name)
            sealed = found
            if found.state is ListState.OPEN:
                if not found.recipient_count:
                    raise Error(Code.FAILED_PRECONDITION, "LIST_EMPTY", "Add recipients first.")
                root = await _built(tx, list_id)
                _check_root(root, request.root)
                sealed = await store.seal(tx, list_id, root)
            elif found.root is not None:
                _check_root(found.root, request.root)
            response = list_message(sealed)
            details = {"recipients": str(sealed.recipient_count), "amount": str(sealed.total)}
            act = call.act(details=details | {"root": request.root.hex()})
            return tx.answer(response, subject=response.name, act=act)

    @override
    async def DeleteRecipientList(
        self, request: pb.DeleteRecipientListRequest, call: Call
    ) -> pb.DeleteRecipientListResponse:
        """Deletes a list with its recipients, unless a distribution uses it."""
        list_id = parse_list(request.name)
        async with call.transaction() as tx:
            found = call.owned(await store.lock(tx, list_id), OWNED, request.name)
            if found.distribution_id is not None:
                raise Error(
                    Code.FAILED_PRECONDITION,
                    "LIST_IN_USE",
                    f"{distribution_name(found.distribution_id)} uses the list.",
                )
            await store.delete(tx, list_id)
            details = {"recipients": str(found.recipient_count)}
            response = pb.DeleteRecipientListResponse()
            return tx.answer(response, subject=request.name, act=call.act(details=details))

    @override
    async def GetRecipientList(
        self, request: pb.GetRecipientListRequest, call: Call
    ) -> pb.RecipientList:
        """One list."""
        found = await store.get(self._database, parse_list(request.name))
        return list_message(call.owned(found, OWNED, request.name))

    @override
    async def ListRecipientLists(
        self, request: pb.ListRecipientListsRequest, call: Call
    ) -> pb.ListRecipientListsResponse:
        """Lists of the caller, newest first."""
        asked = paging.by_id(request)
        rows = await store.list_owned(self._database, call.principal, asked.after, asked.limit)
        page, token = asked.page(rows, map(list_message, rows))
        return pb.ListRecipientListsResponse(recipient_lists=page, next_page_token=token)

    @override
    async def GetRecipientProof(
        self, request: pb.GetRecipientProofRequest, call: Call
    ) -> pb.RecipientProof:
        """What a recipient shows to claim: their own, or anybody's of a public list."""
        list_id, who = parse_proof_name(request.name)
        found = await store.get(self._database, list_id)
        known = await store.recipient(self._database, list_id, who)
        if found is None or found.root is None or known is None:
            raise not_found("proof", request.name)
        theirs = call.identity.is_service or call.principal == who
        if not theirs and not await list_is_public(self._database, found.distribution_id):
            raise not_found("proof", request.name)
        position, amount = known
        places = merkle_rules.siblings(found.recipient_count, position)
        return pb.RecipientProof(
            name=request.name,
            principal=who,
            category_id=found.category_id,
            amount=str(amount),
            proof=await store.hashes(self._database, list_id, places),
            leaf=merkle_rules.leaf(list_id, found.category_id, who, amount),
            root=found.root,
            distribution=distribution_name(found.distribution_id) if found.distribution_id else "",
        )


def _leaves(to: RecipientList, recipients: tuple[Recipient, ...]) -> bytes:
    return b"".join(
        merkle_rules.leaf(to.id, to.category_id, one.principal, one.amount) for one in recipients
    )


async def _check_same_page(tx: Effect, found: RecipientList, number: int, leaves: bytes) -> None:
    """A page that was added before may be sent again as it was."""
    if found.state is ListState.SEALED:
        raise _sealed()
    if await store.page(tx, found.id, number) != leaves:
        raise Error(
            Code.ALREADY_EXISTS, "PAGE_EXISTS", f"Page {number} is there, with other recipients."
        )


def _check_growth(found: RecipientList, number: int, recipients: Sequence[Recipient]) -> None:
    if found.state is ListState.SEALED:
        raise _sealed()
    if number != found.page_count:
        raise Error(
            Code.FAILED_PRECONDITION,
            "PAGE_OUT_OF_ORDER",
            f"The next page is {found.page_count}, not {number}.",
            metadata={"next_page": str(found.page_count)},
        )
    if found.recipient_count + len(recipients) > MAX_LEAVES:
        raise Error(
            Code.FAILED_PRECONDITION, "LIST_FULL", f"A list has at most {MAX_LEAVES} recipients."
        )
    if found.total + sum(recipient.amount for recipient in recipients) > MAX_AMOUNT:
        raise invalid("recipients", "make the list's total 2^128 or more", "INVALID_AMOUNT")


async def _built(tx: Effect, list_id: UUID) -> bytes:
    """Builds and keeps the tree of a list; returns its root."""
    builder = Builder()
    async for leaves in store.leaves(tx, list_id):
        await store.add_chunks(tx, list_id, builder.add(leaves))
    root, rest = builder.finish()
    await store.add_chunks(tx, list_id, rest)
    return root


def _check_root(computed: bytes, given: bytes) -> None:
    if computed != given:
        raise Error(
            Code.FAILED_PRECONDITION,
            "ROOT_MISMATCH",
            "The recipients of the list have another root; nothing was changed.",
            metadata={"root": computed.hex()},
        )


def _sealed() -> Error:
    return Error(Code.FAILED_PRECONDITION, "LIST_SEALED", "The list is sealed; it stays as it is.")


def list_message(one: RecipientList) -> pb.RecipientList:
    """A list as its message."""
    message = pb.RecipientList(
        name=list_name(one.id),
        owner=one.owner,
        category_id=one.category_id,
        state=int(one.state),  # type: ignore[arg-type]  # the same numbers
        page_count=one.page_count,
        recipient_count=one.recipient_count,
        total_amount=str(one.total),
        root=one.root or b"",
        distribution=distribution_name(one.distribution_id) if one.distribution_id else "",
    )
    message.create_time.FromDatetime(one.create_time)
    if one.seal_time is not None:
        message.seal_time.FromDatetime(one.seal_time)
    return message
