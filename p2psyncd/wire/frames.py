"""Framing: a stream of bytes cut into payloads, each behind its length.

A frame is the payload's length, 4 bytes big-endian, and the payload. A length above the limit is refused
when the header is read, before a byte of that payload is kept.
"""

from __future__ import annotations

from p2psyncd.errors import RemoteProtocolError

__all__ = ["FRAME_BYTES_MAX", "FRAME_HEADER_BYTES", "FrameDecoder", "encode_frame", "encode_frames"]

FRAME_BYTES_MAX = 4 * 1024 * 1024
FRAME_HEADER_BYTES = 4


def encode_frame(payload: bytes) -> bytes:
    """Return the payload behind its length.

    Raises:
        ValueError: The payload is longer than `FRAME_BYTES_MAX`; a mistake of the caller.
    """
    if len(payload) > FRAME_BYTES_MAX:
        msg = f"a payload of {len(payload)} bytes does not fit a frame"
        raise ValueError(msg)
    return len(payload).to_bytes(FRAME_HEADER_BYTES, "big") + payload


def encode_frames(payloads: list[bytes]) -> bytes:
    """Return several frames one behind the other, ready for one write."""
    return b"".join(map(encode_frame, payloads))


class FrameDecoder:
    """Cuts received bytes into payloads, however the network split them.

    Args:
        limit: The longest payload that is accepted, bytes.
    """

    __slots__ = ("broken", "buffer", "limit")

    def __init__(self, limit: int = FRAME_BYTES_MAX) -> None:
        self.limit = limit
        self.buffer = bytearray()
        self.broken = False

    @property
    def midway(self) -> bool:
        """Whether a frame has begun and not ended; an end of the stream here is a cut."""
        return bool(self.buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes, in order.

        Raises:
            RemoteProtocolError: A frame is longer than the limit; the decoder takes nothing more.
        """
        if self.broken:
            msg = "the stream was given up after a frame that was too long"
            raise RemoteProtocolError(msg)
        buffer = self.buffer
        if buffer:
            # Appending and cutting once a frame keeps a 4 MiB frame in 16 KiB pieces linear.
            buffer += data
            payloads, used = self.cut(buffer)
            del buffer[:used]
        else:
            payloads, used = self.cut(data)
            if used < len(data):
                buffer += memoryview(data)[used:]
        return payloads

    def cut(self, source: bytes | bytearray) -> tuple[list[bytes], int]:
        """Return the whole payloads at the front of `source` and how many bytes they took."""
        payloads: list[bytes] = []
        at, end = 0, len(source)
        with memoryview(source) as view:
            while end - at >= FRAME_HEADER_BYTES:
                start = at + FRAME_HEADER_BYTES
                size = int.from_bytes(view[at:start], "big")
                if size > self.limit:
                    self.broken = True
                    msg = f"a frame of {size} bytes, {self.limit} are allowed"
                    raise RemoteProtocolError(msg)
                if end - start < size:
                    break
                at = start + size
                payloads.append(bytes(view[start:at]))
        return payloads, at
