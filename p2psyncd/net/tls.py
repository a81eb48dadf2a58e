"""TLS contexts: version 1.3 only, nothing trusted but the certificates of paired devices.

One port serves three protocols (ALPN). The main and the content protocol need a paired certificate on both sides.
The pairing protocol is for strangers: the server shows its certificate, the client shows none.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

from p2psyncd.net.identity import Identity

__all__ = [
    "CONTENT_ALPN",
    "MAIN_ALPN",
    "PAIRING_ALPN",
    "ServerContexts",
    "Trust",
    "client_context",
    "is_refusal",
    "stranger_context",
]

MAIN_ALPN = "p2psync/1"
CONTENT_ALPN = "p2psync-content/1"
PAIRING_ALPN = "p2psync-pair/1"

Trust = Callable[[], Sequence[bytes]]
"""Returns the certificates (DER) of the devices that are paired at this moment."""

# What a server's TLS says to a client whose certificate it does not know. OpenSSL's names for the alerts.
REFUSALS = frozenset(
    {
        "TLSV1_ALERT_UNKNOWN_CA",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
)


def restrict(context: ssl.SSLContext) -> ssl.SSLContext:
    """Allow TLS 1.3 and nothing that outlives a connection."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    # CPython asks OpenSSL 3 to pass a cut connection off as a clean end; we want to know which it was.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return context


def client_context(identity: Identity, peer_certificate: bytes, alpn: str) -> ssl.SSLContext:
    """Return a context that connects as this device to exactly one other.

    Args:
        identity: Whose certificate is shown.
        peer_certificate: DER; the one trust anchor.
        alpn: `MAIN_ALPN` or `CONTENT_ALPN`.
    """
    context = restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    # A device is its key, not a host name; the certificate itself is pinned.
    context.check_hostname = False
    context.load_verify_locations(cadata=peer_certificate)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    context.set_alpn_protocols([alpn])
    return context


def stranger_context() -> ssl.SSLContext:
    """Return a context for pairing: it trusts anyone, because the pairing exchange is what brings trust."""
    context = restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PAIRING_ALPN])
    return context


class ServerContexts:
    """Gives the listener a context for the devices paired at this moment; made anew only when they change."""

    def __init__(self, identity: Identity, trust: Trust) -> None:
        self.identity = identity
        self.trust = trust
        self.made_for: tuple[bytes, ...] | None = None
        self.context: ssl.SSLContext | None = None

    def now(self) -> ssl.SSLContext:
        """Return the context for the next connection."""
        certificates = tuple(self.trust())
        if self.context is None or certificates != self.made_for:
            self.context = server_context(self.identity, certificates)
            self.made_for = certificates
        return self.context

    def trusts(self, certificate: bytes) -> bool:
        """Return whether exactly this certificate (DER) belongs to a paired device now."""
        return certificate in self.trust()


def server_context(identity: Identity, certificates: Sequence[bytes]) -> ssl.SSLContext:
    """Return a context that lets paired devices in, and strangers without a certificate as far as the ALPN."""
    context = restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    # A ticket would let a device that was removed since then resume.
    context.num_tickets = 0
    # Optional, not required: a joiner has nothing to show yet. A certificate that is shown must be a paired one.
    context.verify_mode = ssl.CERT_OPTIONAL
    if certificates:
        context.load_verify_locations(cadata=b"".join(certificates))
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    context.set_alpn_protocols([MAIN_ALPN, CONTENT_ALPN, PAIRING_ALPN])
    return context


def is_refusal(error: BaseException | None) -> bool:
    """Return whether a TLS error says that the other side does not accept our certificate."""
    return isinstance(error, ssl.SSLError) and error.reason in REFUSALS
