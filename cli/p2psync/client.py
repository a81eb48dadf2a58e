"""Talking to the daemon: HTTP with JSON over its Unix socket, with the standard library only."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode

from p2psyncd.control.endpoint import short_address
from p2psyncd.errors import DaemonNotRunning, P2psyncError

__all__ = ["Answer", "AnswerError", "Client"]

Answer: TypeAlias = Any
"""JSON, of the shape that `p2psyncd.control.messages` gives for the question."""

# A daemon that lives answers simple questions in milliseconds, also while it works.
QUICK_S = 30.0
OK = 200
STOPPED = "the daemon stopped before it answered"


class AnswerError(P2psyncError):
    """The daemon answered with an error; its own words are the message."""

    def __init__(self, message: str, *, code: str = "error", exit_code: int = 1) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = exit_code

    @property
    def message(self) -> str:
        """What the daemon said."""
        return self.detail


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to the first of some sockets that exists."""

    def __init__(self, sockets: list[Path], patience_s: float | None) -> None:
        super().__init__("p2psyncd", timeout=patience_s)
        self.sockets = sockets

    def connect(self) -> None:
        """Connect.

        Raises:
            DaemonNotRunning: Nobody listens.
            P2psyncError: Somebody does, but not for this user.
        """
        denied: Path | None = None
        for path in self.sockets:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.settimeout(self.timeout)
            try:
                with short_address(path) as address:
                    stream.connect(address)
            except PermissionError:
                stream.close()
                denied = denied or path
            except OSError:
                stream.close()
            else:
                self.sock = stream
                return
        if denied == self.sockets[0]:
            raise P2psyncError(f"this user may not open {denied}")
        raise DaemonNotRunning


class Client:
    """The daemon, as commands see it. Every call is a connection of its own.

    All methods raise `DaemonNotRunning` if it does not run (or stops meanwhile) and `AnswerError` if it
    answers with an error.
    """

    def __init__(self, sockets: list[Path]) -> None:
        self.sockets = sockets

    def get(self, route: str, /, *, patience_s: float | None = QUICK_S, **query: str | int) -> Answer:
        """Ask, and return the answer."""
        target = f"{route}?{encode(query)}" if query else route
        return self.call("GET", target, None, patience_s)

    def post(self, route: str, /, *, patience_s: float | None = None, **body: object) -> Answer:
        """Give a command, and return the answer; it may take its time. Values that are None are left out."""
        return self.call("POST", route, json.dumps(drop_none(body)), patience_s)

    def call(self, method: str, target: str, body: str | None, patience_s: float | None) -> Answer:
        """Send one request and read its answer."""
        with self.response(method, target, body, patience_s) as response:
            read = response.read()
        try:
            return json.loads(read)
        except ValueError as error:
            raise DaemonNotRunning(STOPPED) from error

    def shown_code(self, **body: object) -> AbstractContextManager[Iterator[Answer]]:
        """Show a pairing code: a block that gives the lines as they come, the code and then the device.

        Leaving the block closes the connection, which withdraws the code.
        """
        return self.lines("POST", "/v1/pair/show", json.dumps(drop_none(body)))

    def follow_events(self, since: int) -> AbstractContextManager[Iterator[Answer]]:
        """Follow events: a block that gives them as they happen."""
        return self.lines("GET", f"/v1/events?since={since}", None, accept="text/event-stream")

    @contextmanager
    def lines(
        self, method: str, target: str, body: str | None, accept: str = "*/*"
    ) -> Iterator[Iterator[Answer]]:
        """Send one request and give the parts of its answer."""
        with self.response(method, target, body, None, accept) as response:
            yield parts(response)

    @contextmanager
    def response(
        self, method: str, target: str, body: str | None, patience_s: float | None, accept: str = "*/*"
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request and give its answer if it is a success."""
        connection = UnixConnection(self.sockets, patience_s)
        try:
            connection.request(method, target, body, {"accept": accept})
            response = connection.getresponse()
            if response.status != OK:
                raise error_in(response)
            yield response
        except TimeoutError as error:
            raise P2psyncError("the daemon does not answer") from error
        except (http.client.HTTPException, ConnectionError) as error:
            raise DaemonNotRunning(STOPPED) from error
        finally:
            connection.close()


def drop_none(values: dict[str, object]) -> dict[str, object]:
    """Return the values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def encode(query: dict[str, str | int]) -> str:
    """Return a query string; names that are not UTF-8 keep their bytes."""
    return urlencode({name: os.fsencode(str(value)) for name, value in query.items()})


def parts(response: http.client.HTTPResponse) -> Iterator[Answer]:
    """Give each JSON value of an answer in lines, or of a stream of events.

    Raises:
        AnswerError: One of them is an error.
    """
    while line := response.readline():
        text = line.removeprefix(b"data: ").strip()
        if text.startswith(b"{"):
            value = json.loads(text)
            if isinstance(value.get("error"), dict):
                raise error_of(value)
            yield value


def error_in(response: http.client.HTTPResponse) -> P2psyncError:
    """Return the error that an answer holds."""
    try:
        return error_of(json.loads(response.read()))
    except (ValueError, KeyError, TypeError):
        return AnswerError(f"the daemon answered {response.status}; are both of one version?")


def error_of(value: Answer) -> AnswerError:
    """Return the error in a JSON value."""
    error = value["error"]
    return AnswerError(str(error["message"]), code=str(error["code"]), exit_code=int(error["exit_code"]))
