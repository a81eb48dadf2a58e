"""What can be asked, and which call of the backend answers it.

A route reads its arguments and returns the call to make; the server checks that no argument was left
over before it makes the call, so that a misspelt one changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import get_args

from p2psyncd.control.arguments import Arguments
from p2psyncd.control.backend import Backend
from p2psyncd.control.messages import Join, Keep, Mode, ShareKind

__all__ = ["ROUTES", "Call", "Route"]

Call = Callable[[], Awaitable[object]]
Route = Callable[[Backend, Arguments], Call]

MODES: tuple[Mode, ...] = get_args(Mode)
KINDS: tuple[ShareKind, ...] = get_args(ShareKind)
JOINS: tuple[Join, ...] = get_args(Join)
KEEPS: tuple[Keep, ...] = get_args(Keep)
EVENTS_LIMIT = 1000


def pair_join(backend: Backend, given: Arguments) -> Call:
    """Join the device that shows a code."""
    return partial(
        backend.pair_join,
        given.text("code").strip(),
        at=given.text_or_none("at"),
        introduce=given.flag("introduce", default=True),
        timeout_s=given.seconds("timeout_s"),
    )


def device_remove(backend: Backend, given: Arguments) -> Call:
    """Forget a paired device."""
    return partial(
        backend.device_remove, given.text("name"), everywhere=given.flag("everywhere", default=False)
    )


def share_add(backend: Backend, given: Arguments) -> Call:
    """Share a folder or a database."""
    return partial(
        backend.share_add,
        given.path("path"),
        name=given.text_or_none("name"),
        kind=given.one_of_or_none("kind", KINDS),
        mode=given.one_of("mode", MODES, "send-receive"),
        with_devices=given.texts("with_devices"),
        without=given.texts("without"),
        counters=given.texts("counters"),
        propagate_schema=given.flag("propagate_schema", default=False),
    )


def share_accept(backend: Backend, given: Arguments) -> Call:
    """Join an offered share."""
    return partial(
        backend.share_accept,
        given.text("name"),
        given.path("path"),
        mode=given.one_of("mode", MODES, "send-receive"),
        from_device=given.text_or_none("from_device"),
        join=given.one_of_or_none("join", JOINS),
        without=given.texts("without"),
        counters=given.texts("counters"),
        propagate_schema=given.flag("propagate_schema", default=False),
    )


def share_compare(backend: Backend, given: Arguments) -> Call:
    """Compare a database with an offered share."""
    return partial(
        backend.share_compare,
        given.text("name"),
        given.path("path"),
        from_device=given.text_or_none("from_device"),
    )


def share_remove(backend: Backend, given: Arguments) -> Call:
    """Forget a share."""
    return partial(backend.share_remove, given.text("name"), force=given.flag("force", default=False))


def share_approve(backend: Backend, given: Arguments) -> Call:
    """Release a held share."""
    return partial(backend.share_approve, given.text("name"), catch_up=given.flag("catch_up", default=False))


def wait(backend: Backend, given: Arguments) -> Call:
    """Wait until devices are equal."""
    return partial(
        backend.wait,
        given.text_or_none("share"),
        timeout_s=given.seconds("timeout_s"),
        peers=given.whole("peers", default=1),
    )


def sync(backend: Backend, given: Arguments) -> Call:
    """Exchange until nothing is missing."""
    return partial(backend.sync_once, given.text_or_none("share"), timeout_s=given.seconds("timeout_s"))


def conflict_resolve(backend: Backend, given: Arguments) -> Call:
    """Resolve a conflict."""
    return partial(
        backend.conflict_resolve,
        given.text("id"),
        keep=given.one_of("keep", KEEPS, "winner"),
        loser=given.whole("loser", default=0),
    )


def events(backend: Backend, given: Arguments) -> Call:
    """List what happened."""
    return partial(
        backend.events,
        since=given.whole("since", default=0),
        limit=given.whole("limit", default=EVENTS_LIMIT, at_least=1),
    )


ROUTES: dict[str, dict[str, Route]] = {
    "/v1/status": {"GET": lambda backend, _: backend.status},
    "/v1/pair/join": {"POST": pair_join},
    "/v1/devices": {"GET": lambda backend, _: backend.devices},
    "/v1/devices/rename": {
        "POST": lambda backend, given: partial(
            backend.device_rename, given.text("name"), given.text("new_name")
        )
    },
    "/v1/devices/pause": {"POST": lambda backend, given: partial(backend.device_pause, given.text("name"))},
    "/v1/devices/resume": {"POST": lambda backend, given: partial(backend.device_resume, given.text("name"))},
    "/v1/devices/remove": {"POST": device_remove},
    "/v1/shares": {"GET": lambda backend, _: backend.share_list},
    "/v1/shares/offers": {"GET": lambda backend, _: backend.share_offers},
    "/v1/shares/add": {"POST": share_add},
    "/v1/shares/accept": {"POST": share_accept},
    "/v1/shares/pause": {"POST": lambda backend, given: partial(backend.share_pause, given.text("name"))},
    "/v1/shares/resume": {"POST": lambda backend, given: partial(backend.share_resume, given.text("name"))},
    "/v1/shares/rescan": {"POST": lambda backend, given: partial(backend.share_rescan, given.text("name"))},
    "/v1/shares/compare": {"POST": share_compare},
    "/v1/shares/remove": {"POST": share_remove},
    "/v1/shares/approve": {"POST": share_approve},
    "/v1/wait": {"POST": wait},
    "/v1/sync": {"POST": sync},
    "/v1/conflicts": {
        "GET": lambda backend, given: partial(
            backend.conflicts, include_resolved=given.flag("all", default=False)
        )
    },
    "/v1/conflicts/show": {"GET": lambda backend, given: partial(backend.conflict_show, given.text("id"))},
    "/v1/conflicts/resolve": {"POST": conflict_resolve},
    "/v1/history": {"GET": lambda backend, given: partial(backend.history, given.path("path"))},
    "/v1/restore": {
        "POST": lambda backend, given: partial(
            backend.restore, given.path("path"), version=given.text_or_none("version")
        )
    },
    "/v1/diff": {
        "GET": lambda backend, given: partial(backend.diff, given.text("share"), given.text_or_none("device"))
    },
    "/v1/verify": {"POST": lambda backend, given: partial(backend.verify, given.text_or_none("share"))},
    "/v1/events": {"GET": events},
    "/v1/doctor": {"GET": lambda backend, _: backend.doctor},
    "/v1/metrics": {"GET": lambda backend, _: backend.metrics},
    "/v1/reload": {"POST": lambda backend, _: backend.reload},
    "/v1/shutdown": {"POST": lambda backend, _: backend.shutdown},
}
