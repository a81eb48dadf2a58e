"""What a person can ask of the control API about shares: what comes, goes, rests and is released."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from p2psyncd.control.messages import Comparison, Join, Mode, Offer, ShareKind, ShareStatus
from p2psyncd.daemon import health
from p2psyncd.daemon.joining import compare
from p2psyncd.daemon.kinds import COUNTERS, PROPAGATE, WITHOUT
from p2psyncd.daemon.mesh import PeerState
from p2psyncd.daemon.peer_requests import PeerRequests
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.report import Rates, share_status
from p2psyncd.daemon.share import RunningShare
from p2psyncd.errors import AlreadyShared, BadRequest, NoSuchOffer, NotHeld
from p2psyncd.wire import messages as wire

if TYPE_CHECKING:
    from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["ShareRequests"]


class ShareRequests(PeerRequests):
    """See `control.backend.Backend` for what each method promises."""

    def __init__(self, daemon: Supervisor) -> None:
        super().__init__(daemon)
        self.rates: dict[bytes, Rates] = {}

    def share_row(self, share: RunningShare) -> ShareStatus:
        """Return a share as `status` shows it."""
        rates = self.rates.setdefault(share.record.id, Rates())
        applier = share.applier
        now = self.daemon.clock.monotonic_s()
        return share_status(
            share, self.daemon.mesh, rates.note(now, applier.received_items, applier.received_bytes)
        )

    async def share_add(
        self,
        path: str,
        *,
        name: str | None,
        kind: ShareKind | None,
        mode: Mode,
        with_devices: list[str],
        without: list[str] | None = None,
        counters: list[str] | None = None,
        propagate_schema: bool = False,
    ) -> ShareStatus:
        """Share a folder or a database."""
        chosen = [self.device(one).record.device for one in with_devices] if with_devices else None
        share = await self.daemon.admission.add(
            Path(path),
            name=name,
            kind=kind,
            mode=mode,
            with_devices=chosen,
            settings=database_settings(without, counters, propagate_schema=propagate_schema),
        )
        self.daemon.journal.tell(
            "share_added", share=share.record.name, message=f"shares {share.record.path}"
        )
        return self.share_row(share)

    async def share_list(self) -> list[ShareStatus]:
        """Return the shares of this device."""
        shares = self.daemon.shares
        rows = [self.share_row(share) for share in shares.all()]
        rows += [health.broken_row(record, reason) for record, reason in shares.broken.values()]
        return sorted(rows, key=lambda row: row["name"])

    def offers(self) -> list[tuple[PeerState, wire.Offer]]:
        """Return what connected peers offer and this device has not accepted."""
        known = {*self.daemon.shares.running, *self.daemon.shares.broken}
        return [
            (state, offer)
            for state in self.peers()
            if state.link is not None
            for offer in state.link.offers.values()
            if offer.share not in known
        ]

    async def share_offers(self) -> list[Offer]:
        """Return what is offered."""
        return [
            Offer(
                name=offer.name,
                id=offer.share.hex(),
                kind="database" if offer.kind == "database" else "folder",
                device=state.record.name,
                items=offer.items,
                bytes=offer.size,
            )
            for state, offer in self.offers()
        ]

    def offered(self, name: str, from_device: str | None) -> tuple[PeerState, wire.Offer]:
        """Return an offered share by its name or ID, and who offers it.

        Raises:
            AlreadyShared: It is here.
            NoSuchOffer: Nobody does.
            BadRequest: Several different ones go by the name.
        """
        wanted = self.device(from_device).record.device if from_device is not None else None
        found = {
            offer.share: (state, offer)
            for state, offer in self.offers()
            if name in {offer.name, offer.share.hex()} and wanted in {None, state.record.device}
        }
        if len(found) > 1:
            raise BadRequest(f"Several shares called {name} are offered; choose one with --from DEVICE")
        if not found:
            here = [share.record for share in self.daemon.shares.all()]
            here += [record for record, _ in self.daemon.shares.broken.values()]
            links = [state.link for state in self.peers() if state.link is not None]
            for record in here:
                # Another one of that name may be meant, whose device is away.
                offered = any(record.id in link.offers for link in links)
                if name == record.id.hex() or (name == record.name and offered):
                    raise AlreadyShared(f"{record.name} is at {record.path}")
            raise NoSuchOffer(name)
        ((state, offer),) = found.values()
        return state, offer

    async def share_accept(
        self,
        name: str,
        path: str,
        *,
        mode: Mode,
        from_device: str | None,
        join: Join | None = None,
        without: list[str] | None = None,
        counters: list[str] | None = None,
        propagate_schema: bool = False,
    ) -> ShareStatus:
        """Join an offered share."""
        state, offer = self.offered(name, from_device)
        # What adds up on one device must on all: what the others said needs not be said again.
        theirs = [
            one.counters for _, one in self.offers() if one.share == offer.share and one.kind == "database"
        ]
        together = sorted({*(counters or ()), *chain.from_iterable(known or () for known in theirs)})
        share = await self.daemon.admission.accept(
            offer,
            Path(path),
            mode=mode,
            member=state.record.device,
            choice=join,
            settings=database_settings(without, together, propagate_schema=propagate_schema),
        )
        self.daemon.journal.tell(
            "share_accepted", share=share.record.name, device=state.record.name, message=f"at {path}"
        )
        return self.share_row(share)

    async def share_compare(self, name: str, path: str, *, from_device: str | None) -> Comparison:
        """Compare a database here with an offered share."""
        state, offer = self.offered(name, from_device)
        if offer.kind != "database":
            raise BadRequest(
                f"{name} is a folder: `p2psync share accept` keeps both versions of what differs"
            )
        return await compare(self.daemon, state, offer, Path(path))

    async def share_pause(self, name: str) -> ShareStatus:
        """Stop watching and exchanging a share."""
        return await self.set_paused(name, paused=True)

    async def share_resume(self, name: str) -> ShareStatus:
        """Undo `share_pause`."""
        return await self.set_paused(name, paused=False)

    async def set_paused(self, name: str, *, paused: bool) -> ShareStatus:
        """Start a share anew, paused or not."""
        share = await self.daemon.shares.set_paused(self.daemon.shares.named(name), paused=paused)
        return self.share_row(share if share is not None else self.daemon.shares.named(name))

    async def share_rescan(self, name: str) -> ShareStatus:
        """Scan a share in full."""
        share = self.daemon.shares.named(name)
        if share.replica.phase is Phase.PAUSED:
            raise BadRequest(f"{name} is paused; `p2psync share resume {name}` looks for changes as well")
        await share.detect()
        return self.share_row(share)

    async def share_remove(self, name: str, *, force: bool = False) -> ShareStatus:
        """Forget a share and leave its data."""
        for record, reason in self.daemon.shares.broken.values():
            if name in {record.name, record.id.hex()}:
                await self.daemon.admission.remove_broken(record)
                return health.broken_row(record, reason)
        share = self.daemon.shares.named(name)
        row = self.share_row(share)
        await self.daemon.admission.remove(share, force=force)
        self.daemon.journal.tell("share_removed", share=name, message="its data stays")
        return row

    async def share_approve(self, name: str, *, catch_up: bool = False) -> ShareStatus:
        """Release a held share."""
        share = self.daemon.shares.named(name)
        if share.replica.phase is not Phase.HELD:
            raise NotHeld(f"{name} is not held")
        await share.approve(catch_up=catch_up)
        return self.share_row(share)


def database_settings(
    without: list[str] | None, counters: list[str] | None, *, propagate_schema: bool
) -> Mapping[str, object]:
    """Return what a share's record says of how its database is synced; nothing for what is the default.

    Raises:
        BadRequest: A counter is not named as TABLE.COLUMN, or there are too many.
    """
    settings: dict[str, object] = {}
    if without:
        settings[WITHOUT] = without
    for counter in counters or ():
        if not all(counter.rpartition(".")) or len(counter) > wire.COUNTER_MAX:
            raise BadRequest(f"A counter is named as TABLE.COLUMN, such as item.stock; {counter!r} is not")
    if len(counters or ()) > wire.COUNTERS_MAX:
        raise BadRequest(f"At most {wire.COUNTERS_MAX} columns of a share can be counters")
    if counters:
        settings[COUNTERS] = counters
    if propagate_schema:
        settings[PROPAGATE] = True
    return settings
