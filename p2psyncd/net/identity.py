"""Who a device is: an Ed25519 key, and a certificate that is a pure function of it.

The device ID is the SHA-256 of the public key's 32 raw bytes (RFC 8032), not of its ASN.1 wrapping.

Peers pin the exact certificate, so it must never change while the key lives. Ed25519 signatures are
deterministic and every field below is fixed or comes from the key: a certificate file that got lost or
damaged is written again, byte for byte. Only the key matters, and only the key needs a backup.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2psyncd.core.ids import DeviceId, format_device_id
from p2psyncd.errors import HomeUnusable, IdentityDamaged, RemoteProtocolError

__all__ = ["CERTIFICATE_FILE", "KEY_FILE", "Identity", "device_of_certificate"]

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"
# A device whose clock is wrong by years must still be able to connect (and then to notice).
VALID_FROM = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
VALID_UNTIL = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
SERIAL_BYTES = 8
# RFC 8032
KEY_BYTES, SIGNATURE_BYTES = 32, 64
# What stands before the key in DER: subjectPublicKeyInfo of RFC 8410.
KEY_INFO = bytes.fromhex("302a300506032b6570032100")
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """This device's key and certificate."""

    device: DeviceId
    certificate: bytes
    """DER; what peers pin."""
    certificate_path: Path
    key_path: Path

    @classmethod
    def load_or_create(cls, folder: Path, now_us: int) -> Identity:
        """Return the identity kept in `folder`, making it on the first start.

        Args:
            folder: Is created if missing and kept at mode 0700, the key at 0600.
            now_us: Wall clock, microseconds since 1970; noted in a new key's file for its owner to read.

        Raises:
            IdentityDamaged: There is a key, but it cannot be read; it is left as it is.
            HomeUnusable: The folder cannot be read or written.
        """
        try:
            return load(folder) if (folder / KEY_FILE).exists() else create(folder, now_us)
        except OSError as error:
            msg = f"{folder}: {error.strerror or error}"
            raise HomeUnusable(msg) from error


def create(folder: Path, now_us: int) -> Identity:
    """Make a key; of two processes that do so at once, the first one's key stays."""
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made = dt.datetime.fromtimestamp(now_us // 1_000_000, tz=dt.UTC)
    note = (
        f"The key of a p2psyncd device, made {made:%Y-%m-%d %H:%M:%S} UTC. Whoever has it is this device.\n"
    )
    with contextlib.suppress(FileExistsError):
        write_whole(folder / KEY_FILE, note.encode("ascii") + pem, replace=False)
    return load(folder)


def load(folder: Path) -> Identity:
    """Read the key, tighten its permissions, and see that the certificate's file is right."""
    key_path, certificate_path = folder / KEY_FILE, folder / CERTIFICATE_FILE
    tighten(folder, PRIVATE_FOLDER)
    tighten(key_path, PRIVATE_FILE)
    key = read_key(key_path)
    certificate = certificate_of(key)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    if not certificate_path.is_file() or certificate_path.read_bytes() != pem:
        write_whole(certificate_path, pem, replace=True)
    return Identity(
        device=device_of_key(key.public_key()),
        certificate=certificate.public_bytes(serialization.Encoding.DER),
        certificate_path=certificate_path,
        key_path=key_path,
    )


def read_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key in a PEM file."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        msg = f"{path} holds no readable key"
        raise IdentityDamaged(msg) from error
    if not isinstance(key, Ed25519PrivateKey):
        msg = f"{path} holds a key that is not Ed25519"
        raise IdentityDamaged(msg)
    return key


def certificate_of(key: Ed25519PrivateKey) -> x509.Certificate:
    """Return the one certificate of this key."""
    return unsigned_certificate(key.public_key()).sign(key, algorithm=None)


def unsigned_certificate(key: Ed25519PublicKey) -> x509.CertificateBuilder:
    """Return all of a device's certificate but the signature."""
    device = device_of_key(key)
    # The ID as the name: OpenSSL looks trust anchors up by name, so no two devices may share one.
    # Its groups fit the 64 characters of a common name.
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, format_device_id(device))])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key)
        # The top bit cleared keeps the number positive, as RFC 5280 wants it.
        .serial_number(int.from_bytes(device[:SERIAL_BYTES], "big") >> 1 or 1)
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_UNTIL)
        # Not a CA: a peer must not be able to sign certificates for others.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )


def device_of_key(key: Ed25519PublicKey) -> DeviceId:
    """Return the device ID that a public key stands for."""
    return DeviceId(hashlib.sha256(key.public_bytes_raw()).digest())


def device_of_certificate(der: bytes) -> DeviceId:
    """Return the ID of the device that a certificate belongs to.

    A device's certificate has one form, byte for byte, which follows from its key. Another one that its key signed as
    well could bear another device's name, and OpenSSL, which looks for trust anchors by name, would then find the
    wrong one and lock that device out; or be one that OpenSSL cannot read, which would lock out everybody.

    So it is not parsed: the key is taken out of it, the form is made again, and the two are compared.

    Raises:
        RemoteProtocolError: Not the certificate that `load_or_create` makes of a key.
    """
    _, _, rest = der.partition(KEY_INFO)
    try:
        key = Ed25519PublicKey.from_public_bytes(rest[:KEY_BYTES])
        # Signed by nobody in particular: only the form counts, and the signature is what comes last.
        form = unsigned_certificate(key).sign(nobody(), algorithm=None)
        if form.public_bytes(serialization.Encoding.DER)[:-SIGNATURE_BYTES] != der[:-SIGNATURE_BYTES]:
            msg = "a certificate of another form than a device's"
            raise RemoteProtocolError(msg)
        key.verify(der[-SIGNATURE_BYTES:], form.tbs_certificate_bytes)
    except (ValueError, InvalidSignature) as error:
        msg = "something that is not the certificate of a device"
        raise RemoteProtocolError(msg) from error
    return device_of_key(key)


@cache
def nobody() -> Ed25519PrivateKey:
    """Return a key that everybody knows, and no device has."""
    return Ed25519PrivateKey.from_private_bytes(bytes(32))


def tighten(path: Path, mode: int) -> None:
    """Take from others what they should not have on `path`."""
    if stat.S_IMODE(path.stat().st_mode) & ~mode:
        path.chmod(mode)


def write_whole(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file that only its owner can read, so that it is there whole or not at all, also after a crash.

    Raises:
        FileExistsError: It is there already and `replace` is false.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
