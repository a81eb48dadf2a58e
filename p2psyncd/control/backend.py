"""Everything the control API may ask of the daemon; the daemon implements it, tests script it.

Rules that hold for every method:

- Arguments are checked for type by the server; paths are absolute and otherwise as the user gave them.
- What goes wrong is raised as a `P2psyncError`; anything else is logged and answered as an internal error.
- A client that goes away cancels the call. What must be undone then is undone by the method itself,
  except a shown pairing code, which the server withdraws with `pair_cancel`.
- Names of shares and devices are matched exactly; a device may also be named by its ID or by a unique
  beginning of it (at least seven characters).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from p2psyncd.control.messages import (
    Check,
    Comparison,
    Conflict,
    ConflictDetail,
    Device,
    Diff,
    Event,
    Join,
    Keep,
    Metric,
    Mode,
    Offer,
    PairCode,
    RemoveReport,
    Restored,
    ShareKind,
    ShareStatus,
    Status,
    SyncReport,
    Verified,
    Version,
    WaitReport,
)

__all__ = ["Backend"]


class Backend(Protocol):
    """The daemon as the control API sees it."""

    # This device and its peers

    async def status(self) -> Status:
        """Return the whole picture; cheap enough to be asked ten times a second."""
        ...

    async def pair_show(self, *, introduce: bool) -> PairCode:
        """Begin to show a code, in place of one shown before by the same user or another.

        Args:
            introduce: Whether to introduce the joining device to the others and learn of its peers.
        """
        ...

    async def pair_wait(self, code: str, *, timeout_s: float | None) -> Device:
        """Return the device that joined with this code.

        Args:
            code: What `pair_show` returned.
            timeout_s: Seconds to wait; None: as long as the code is valid.

        Raises:
            CodeExpired: Its five minutes are over, or another code took its place.
            WrongCode: Someone tried a wrong code, which burned this one.
            TimedOut: Nobody came within `timeout_s`.
        """
        ...

    async def pair_cancel(self, code: str) -> None:
        """Withdraw a code; nothing happens if it is not shown (any more). The server calls it shielded."""
        ...

    async def pair_join(
        self, code: str, *, at: str | None, introduce: bool, timeout_s: float | None
    ) -> Device:
        """Join the device that shows `code` and return it.

        Args:
            code: As the user typed it, stripped; the words may be in any case.
            at: `host:port` to dial; None: find the device by mDNS.
            introduce: As in `pair_show`.
            timeout_s: Seconds to look for the device; None: the daemon's own patience.

        Raises:
            WrongCode: No match; the code is burned.
            PairingFailed: The device was not found or went away.
            BadRequest: `code` or `at` cannot be read.
            AddressNotAllowed: `at` is outside the allowed networks.
            TimedOut: Not done within `timeout_s`.
        """
        ...

    async def devices(self) -> list[Device]:
        """Return the paired devices by name."""
        ...

    async def device_rename(self, name: str, new_name: str) -> Device:
        """Call a paired device by another name on this device."""
        ...

    async def device_pause(self, name: str) -> Device:
        """Disconnect a device and do not connect again until `device_resume`."""
        ...

    async def device_resume(self, name: str) -> Device:
        """Undo `device_pause`."""
        ...

    async def device_remove(self, name: str, *, everywhere: bool) -> RemoveReport:
        """Forget a paired device.

        Args:
            name: The device.
            everywhere: Ask the devices it was introduced to as well.
        """
        ...

    # Shares

    async def share_add(
        self,
        path: str,
        *,
        name: str | None,
        kind: ShareKind | None,
        mode: Mode,
        with_devices: list[str],
        without: list[str],
        counters: list[str],
        propagate_schema: bool,
    ) -> ShareStatus:
        """Share a folder or a database.

        Args:
            path: Absolute.
            name: None: after the path's last part.
            kind: None: found from the path.
            mode: Which way changes travel.
            with_devices: Names; empty: all paired devices, later ones included.
            without: Tables of a database that are not synced.
            counters: Columns (TABLE.COLUMN) to which devices add, instead of one write replacing the other.
            propagate_schema: Whether tables and columns that peers come to have are made here, too.
        """
        ...

    async def share_list(self) -> list[ShareStatus]:
        """Return the shares of this device by name."""
        ...

    async def share_offers(self) -> list[Offer]:
        """Return what connected peers offer and this device has not accepted."""
        ...

    async def share_accept(
        self,
        name: str,
        path: str,
        *,
        mode: Mode,
        from_device: str | None,
        join: Join | None,
        without: list[str],
        counters: list[str],
        propagate_schema: bool,
    ) -> ShareStatus:
        """Join an offered share, merging with what is at `path` (made if missing).

        Args:
            name: The offer's name, or its share ID.
            path: Absolute.
            mode: Which way changes travel.
            from_device: Whose offer, if several offer different shares of one name.
            join: What becomes of a database at `path` that holds rows: they are united with the share's, or the
                file is put aside and begins anew. None: that is refused.
            without: See `share_add`.
            counters: See `share_add`.
            propagate_schema: See `share_add`; always so where nobody but us made a table.

        Raises:
            Undecided: The database at `path` holds rows, and `join` is None.
        """
        ...

    async def share_compare(self, name: str, path: str, *, from_device: str | None) -> Comparison:
        """Compare a database here with an offered share; nothing is changed anywhere.

        Raises:
            NoSuchOffer: No connected device offers it.
            TimedOut: The device does not answer.
        """
        ...

    async def share_pause(self, name: str) -> ShareStatus:
        """Stop watching and exchanging a share until `share_resume`."""
        ...

    async def share_resume(self, name: str) -> ShareStatus:
        """Undo `share_pause`."""
        ...

    async def share_rescan(self, name: str) -> ShareStatus:
        """Scan a share in full; returns when the scan is done."""
        ...

    async def share_remove(self, name: str, *, force: bool) -> ShareStatus:
        """Forget a share, leave its data, and return its last status.

        Args:
            name: The share.
            force: Forget it even where what is ours cannot be taken out of a database now.

        Raises:
            DatabaseBusy: An app keeps the database locked; nothing was changed.
        """
        ...

    async def share_approve(self, name: str, *, catch_up: bool) -> ShareStatus:
        """Release a held share: carry out what held it.

        Args:
            name: The share.
            catch_up: Of a database that went back to an earlier state: take what the peers have again,
                where the default is that what is here now counts.
        """
        ...

    # Waiting

    async def wait(self, share: str | None, *, timeout_s: float | None, peers: int) -> WaitReport:
        """Return when everything changed before the call is detected, nothing is needed, and peers agree.

        Args:
            share: None: all.
            timeout_s: Seconds; None: for ever.
            peers: How many connected peers of each share must have the same root and all content, at least
                (all connected ones must, whatever this says).

        Raises:
            TimedOut: The detail says what is missing.
            ShareHeld: A share is held: waiting cannot end.
        """
        ...

    async def sync_once(self, share: str | None, *, timeout_s: float | None) -> SyncReport:
        """Connect, exchange until nothing is missing, and report.

        Raises:
            TimedOut: The detail says what is missing.
        """
        ...

    # Conflicts, history, comparison

    async def conflicts(self, *, include_resolved: bool) -> list[Conflict]:
        """Return the conflicts of all shares, oldest first."""
        ...

    async def conflict_show(self, conflict: str) -> ConflictDetail:
        """Return one conflict in detail.

        Args:
            conflict: Its ID, or a unique beginning of it.

        Raises:
            NoSuchConflict: There is none.
            BadRequest: There are several.
        """
        ...

    async def conflict_resolve(self, conflict: str, *, keep: Keep, loser: int) -> Conflict:
        """Resolve a conflict; what is given up goes to history.

        Args:
            conflict: Its ID, or a unique beginning of it.
            keep: `winner`: the copies go; `loser`: that copy takes the item's place and the others go;
                `both`: all stay as they are, and the conflict is no longer listed.
            loser: Which loser to keep, from 0; only with `loser`.
        """
        ...

    async def history(self, path: str) -> list[Version]:
        """Return the earlier versions kept of a file (of everything below, for a folder), newest first."""
        ...

    async def restore(self, path: str, *, version: str | None) -> Restored:
        """Put an earlier version back in place, as a new write; what is there goes to history.

        Args:
            path: Absolute, inside a share.
            version: None: the newest kept.

        Raises:
            NoSuchItem: Nothing (or not that version) is kept.
        """
        ...

    async def diff(self, share: str, device: str | None) -> Diff:
        """Compare a share with a connected peer (None: with each) through the Merkle summary."""
        ...

    async def verify(self, share: str | None) -> Verified:
        """Read everything again (None: of all shares) and hold it against the recorded state."""
        ...

    # The daemon itself

    async def events(self, *, since: int, limit: int) -> list[Event]:
        """Return at most the `limit` newest events with an ID above `since`, newest last."""
        ...

    def follow_events(self, since: int) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Open a stream of all events with an ID above `since`, the kept ones first, then as they happen.

        The queue behind it is bounded; a client that is too slow loses the oldest, and sees it by the IDs.
        """
        ...

    async def doctor(self) -> list[Check]:
        """Return what the daemon can say about its own health (the client adds what it sees from outside)."""
        ...

    async def metrics(self) -> list[Metric]:
        """Return the numbers for `/v1/metrics`."""
        ...

    async def reload(self) -> None:
        """Read the configuration again.

        Raises:
            ConfigError: It cannot be used; the old one stays in force.
        """
        ...

    async def shutdown(self) -> None:
        """Ask the daemon to stop; returns at once."""
        ...
