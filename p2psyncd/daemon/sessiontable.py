"""The sessions with one peer: opened, fed and ended, whatever connection carries them.

A share that both sides hold has one session. What goes wrong in it ends neither the other sessions
nor the connection; it is tried again after a rest. A session also ends, and begins anew at once, when
the replica goes on as another actor: what was said in it is not true then.

Both sides may end a session at any moment, while a hello to the next one is under way. The rules:
whoever ends a session says `Closed`; that ends whatever session the other side has, which begins
another at once if it can. A hello says how many `Closed` its sender had seen; one that was sent
before our last `Closed` came is void, because the other side begins another. So both sides always
agree on which two hellos belong together.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.sessions import ANEW, MessageLink, SessionDriver
from p2psyncd.errors import P2psyncError, RemoteProtocolError, ShareHeld, StateForked
from p2psyncd.wire.messages import Closed, Hello, ShareMessage

__all__ = ["SessionEvents", "SessionTable", "first_of_group"]

log = logging.getLogger(__name__)

# A session that failed is tried again after this long; both sides may have got further by then.
SESSION_RETRY_S = 30.0
SHARES_MAX = 10_000


class SessionEvents(Protocol):
    """What the sessions with a peer need of whoever looks after all peers."""

    def replicas_for(self, device: DeviceId) -> Sequence[Replica]:
        """Return the replicas that this device shares with a peer and that can exchange now."""
        ...

    def session_failed(self, device: DeviceId, share: ShareId, trouble: str) -> None:
        """Note that the session of a share ended by an error."""
        ...

    def member(self, share: ShareId, device: DeviceId) -> None:
        """Note that a peer holds a share."""
        ...


class SessionTable:
    """See the top of the file."""

    def __init__(
        self,
        link: MessageLink,
        events: SessionEvents,
        *,
        ours: DeviceId,
        peer: DeviceId,
        offered: Callable[[ShareId], bool],
        on_progress: Callable[[], None],
    ) -> None:
        """Begin without sessions.

        Args:
            link: The connection.
            events: Who knows the replicas.
            ours: This device.
            peer: The device at the other end.
            offered: Whether the peer offers a share now.
            on_progress: Called when any session got further or ended.
        """
        self.link = link
        self.events = events
        self.ours = ours
        self.peer = peer
        self.offered = offered
        self.on_progress = on_progress
        self.drivers: dict[ShareId, SessionDriver] = {}
        self.failures: dict[ShareId, str] = {}
        """Why the last session of a share failed."""
        self.early: dict[ShareId, Hello] = {}
        """Hellos of the peer for which our side was not ready."""
        self.greeted: set[SessionDriver] = set()
        """Sessions that have been handed the peer's hello."""
        self.resting: dict[ShareId, Replica] = {}
        """Replicas whose session failed a moment ago; one that was started anew is none of them."""
        self.closings_sent: Counter[ShareId] = Counter()
        self.closings_seen: Counter[ShareId] = Counter()
        self.handing_over = False
        """Whether a message waits for a session to take it in."""

    async def dispatch(self, message: ShareMessage, nursery: trio.Nursery) -> None:
        """Hand a message to its share's session."""
        share = message.share
        match message:
            case Closed():
                await self.closed(message, nursery)
                return
            case Hello():
                if message.closings < self.closings_sent[share]:
                    return  # sent before our last `Closed` came
                if not self.offered(share):
                    return
                self.early[share] = message
                self.closings_seen[share] += 0
                if len(self.closings_seen) > SHARES_MAX:
                    raise RemoteProtocolError("The other device begins sessions of too many shares")
                self.open(nursery)
            case _:
                pass
        driver = self.drivers.get(share)
        if driver is None:
            return  # what was under way when a session ended here; a hello is kept until our side is ready
        if isinstance(message, Hello):
            if self.early.pop(share, None) is None:
                return  # the session began with it just now
            if driver in self.greeted:
                # Which two hellos belong together is in doubt: both begin again.
                self.end(share, "a hello came out of turn")
                self.open(nursery)
                return
            self.greeted.add(driver)
        elif driver not in self.greeted:
            return  # on its way since a session that ended here; the peer's hello to this one is still to come
        self.handing_over = True
        try:
            await driver.outbox.send(message)
        except trio.BrokenResourceError:
            return  # the session ended while this message waited for room in its inbox
        finally:
            self.handing_over = False

    async def closed(self, message: Closed, nursery: trio.Nursery) -> None:
        """End our session, because the peer ended its own, and begin another."""
        share = message.share
        if share not in self.closings_seen:
            return  # no session of it was ever begun: nothing to be remembered
        self.closings_seen[share] += 1
        self.early.pop(share, None)
        driver = self.drivers.pop(share, None)
        if driver is not None:
            driver.abandon(message.reason)
            if message.reason == StateForked.__name__ and driver in self.greeted:
                try:
                    await driver.replica.renew("another device knows a later state of this one")
                except (OSError, StateForked) as error:
                    self.note(driver, error, nursery)
        self.open(nursery)

    def open(self, nursery: trio.Nursery) -> None:
        """Start a session for every share that both hold and none is running for; end the others."""
        for share in [share for share in self.early if not self.offered(share)]:
            del self.early[share]
        replicas = self.events.replicas_for(self.peer)
        shared = {replica.share: replica for replica in replicas}
        for share in self.drivers.keys() - shared:
            self.end(share, "not shared now")
        for share in self.failures.keys() - {s for s, r in shared.items() if self.resting.get(s, r) is r}:
            del self.failures[share]
        for replica in replicas:
            share = replica.share
            ready = replica.phase in {Phase.READY, Phase.SCANNING}
            if share in self.drivers or self.resting.get(share) is replica or not ready:
                continue
            if self.offered(share) or share in self.early:
                self.begin(replica, nursery)

    def begin(self, replica: Replica, nursery: trio.Nursery) -> None:
        """Start the session of one share."""
        share = replica.share
        self.events.member(share, self.peer)
        driver = SessionDriver(
            replica, self.link, ours=self.ours, peer=self.peer, on_progress=partial(self.advance, share)
        )
        self.drivers[share] = driver
        self.closings_seen[share] += 0
        driver.start(self.closings_seen[share])
        hello = self.early.pop(share, None)
        if hello is not None:
            self.greeted.add(driver)
            driver.outbox.send_nowait(hello)
        nursery.start_soon(self.run, driver, nursery)

    async def run(self, driver: SessionDriver, nursery: trio.Nursery) -> None:
        """Run one session to its end; what goes wrong in it ends neither the other sessions nor the link."""
        share = driver.replica.share
        reason = ""
        try:
            reason = await driver.run()
            log.debug("session_ended share=%s reason=%s", share.hex()[:8], reason)
            if reason == ANEW and self.drivers.get(share) is driver:
                self.end(share, reason)
        except* ShareHeld as group:
            self.hold(driver, first_of_group(group))
        except* (OSError, P2psyncError) as group:
            self.fail(driver, first_of_group(group), nursery)
        # The edge of the share here: its sessions run beside those of other shares, not below the share itself.
        except* Exception as group:  # noqa: BLE001
            fault = driver.replica.faults.tell(f"a session of share {share.hex()[:8]}", group)
            self.fail(driver, fault, nursery)
        finally:
            self.greeted.discard(driver)
            if self.drivers.get(share) is driver:
                del self.drivers[share]
            self.on_progress()
        if reason == ANEW:
            self.open(nursery)

    def hold(self, driver: SessionDriver, error: Exception) -> None:
        """End a session that found, before any scan did, that what is shared is not what it was."""
        replica = driver.replica
        assert isinstance(error, ShareHeld)
        if replica.phase in {Phase.READY, Phase.SCANNING}:
            replica.enter(Phase.HELD, error.detail or error.message)
        if self.drivers.get(replica.share) is driver:
            self.end(replica.share, type(error).__name__)

    def fail(self, driver: SessionDriver, error: Exception, nursery: trio.Nursery) -> None:
        """End a session for an error; it is tried again a little later."""
        share = driver.replica.share
        if self.drivers.get(share) is not driver:
            return  # it was ended already, and another may be under way
        self.end(share, type(error).__name__)
        self.note(driver, error, nursery)

    def note(self, driver: SessionDriver, error: Exception, nursery: trio.Nursery) -> None:
        """Note why a session ended, and let its replica rest."""
        share = driver.replica.share
        self.failures[share] = str(error)
        self.resting[share] = driver.replica
        self.events.session_failed(self.peer, share, str(error))
        nursery.start_soon(self.retry, driver.replica, nursery)
        self.on_progress()

    async def retry(self, replica: Replica, nursery: trio.Nursery) -> None:
        """Open a session again, after a rest."""
        await trio.sleep(SESSION_RETRY_S)
        if self.resting.get(replica.share) is replica:
            del self.resting[replica.share]
        self.open(nursery)

    def advance(self, share: ShareId) -> None:
        """Note that a session got further."""
        driver = self.drivers.get(share)
        if share in self.failures and driver is not None and driver.session.agreed_root is not None:
            del self.failures[share]  # it went well this time
        self.on_progress()

    def end(self, share: ShareId, reason: str) -> None:
        """End the session of a share, if there is one, and tell the peer."""
        driver = self.drivers.pop(share, None)
        if driver is not None:
            self.closings_sent[share] += 1
            self.link.post(Closed(share=share, reason=reason))
            driver.abandon(reason)


def first_of_group(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error in a group, however deep."""
    first = group.exceptions[0]
    return first_of_group(first) if isinstance(first, BaseExceptionGroup) else first
