"""HTTP/1.1 on one stream: requests in, answers out. What they mean is the server's business.

h11 keeps the protocol's rules and this file does the reading and writing. See
docs/decisions/0002-h11-on-the-control-socket.md for why there is no framework.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11
import trio

__all__ = ["ClientGone", "HttpConnection", "MalformedRequest", "Request"]

READ_BYTES = 65_536
HEAD_BYTES_MAX = 16_384
BODY_BYTES_MAX = 1_048_576
# What a client may send ahead while its request is being answered; nobody needs more.
AHEAD_BYTES_MAX = 65_536


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


class MalformedRequest(Exception):
    """The client broke the rules of HTTP, or sent too much."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, read in full."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class HttpConnection:
    """The server's side of one HTTP connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def next_request(self) -> Request | None:
        """Return the next request; None when the client has no more.

        Raises:
            MalformedRequest: It cannot be read; answer and close.
            ClientGone: The client left in the middle of it.
        """
        try:
            event = await self.next_event()
            if not isinstance(event, h11.Request):
                return None
            body = bytearray()
            while isinstance(part := await self.next_event(), h11.Data):
                body += part.data
                if len(body) > BODY_BYTES_MAX:
                    raise MalformedRequest("the request is too large", 413)
        except h11.RemoteProtocolError as error:
            raise MalformedRequest(str(error), error.error_status_hint) from error
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        return Request(
            method=event.method.decode("ascii"),
            target=event.target.decode("ascii"),
            headers=headers,
            body=bytes(body),
        )

    async def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """Return what the client sent next, reading as much as it takes."""
        while True:
            event = self.protocol.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self.protocol.they_are_waiting_for_100_continue:
                await self.write(h11.InformationalResponse(status_code=100, headers=[]))
            self.protocol.receive_data(await self.read())

    async def read(self) -> bytes:
        """Return some bytes; none at the end."""
        try:
            return bytes(await self.stream.receive_some(READ_BYTES))
        except trio.BrokenResourceError as error:
            raise ClientGone from error

    async def write(self, event: h11.Event) -> None:
        """Send one event."""
        data = self.protocol.send(event)
        if data:
            try:
                await self.stream.send_all(data)
            except trio.BrokenResourceError as error:
                raise ClientGone from error

    async def until_gone(self) -> None:
        """Return when the client has closed its side (or sends far more than it should).

        Bytes that come meanwhile are its next request and are kept for it.
        """
        ahead = 0
        while ahead <= AHEAD_BYTES_MAX:
            try:
                data = await self.read()
            except ClientGone:
                return
            if not data:
                return
            ahead += len(data)
            self.protocol.receive_data(data)

    @property
    def may_answer(self) -> bool:
        """Whether the head of the answer is still to be sent."""
        return self.protocol.our_state in {h11.IDLE, h11.SEND_RESPONSE}

    async def answer(self, status: int, body: bytes, content_type: str, *, close: bool = False) -> None:
        """Send a whole answer."""
        headers = [("content-type", content_type), ("content-length", str(len(body)))]
        if close:
            headers.append(("connection", "close"))
        await self.write(h11.Response(status_code=status, headers=headers))
        await self.send(body)
        await self.end()

    async def begin(self, content_type: str) -> None:
        """Send the head of an answer that comes in parts."""
        headers = [("content-type", content_type), ("cache-control", "no-store")]
        await self.write(h11.Response(status_code=200, headers=headers))

    async def send(self, data: bytes) -> None:
        """Send a part of the answer."""
        await self.write(h11.Data(data=data))

    async def end(self) -> None:
        """Finish the answer."""
        await self.write(h11.EndOfMessage())

    def next_cycle(self) -> bool:
        """Make ready for the next request; return False if the connection is to be closed."""
        if self.protocol.our_state is h11.DONE and self.protocol.their_state is h11.DONE:
            self.protocol.start_next_cycle()
            return True
        return False
