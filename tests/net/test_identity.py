from __future__ import annotations

import datetime as dt
import hashlib
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2psyncd.core.ids import format_device_id
from p2psyncd.errors import HomeUnusable, IdentityDamaged, RemoteProtocolError
from p2psyncd.net import identity as identity_module
from p2psyncd.net.identity import Identity, device_of_certificate
from p2psyncd.net.tls import MAIN_ALPN, client_context, server_context

NOW_US = 1_760_000_000_000_000


def test_a_new_identity_is_kept(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path / "home" / "identity", NOW_US)
    assert Identity.load_or_create(tmp_path / "home" / "identity", NOW_US + 1) == made
    assert b"2025-10-09" in made.key_path.read_bytes()


def test_the_device_is_the_hash_of_the_raw_public_key(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path, NOW_US)
    certificate = x509.load_der_x509_certificate(made.certificate)
    raw = certificate.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert made.device == hashlib.sha256(raw).digest()
    assert device_of_certificate(made.certificate) == made.device
    assert certificate.subject.rfc4514_string() == f"CN={format_device_id(made.device)}"


def test_a_wrong_clock_does_not_matter_to_the_certificate(tmp_path: Path) -> None:
    certificate = x509.load_der_x509_certificate(Identity.load_or_create(tmp_path, 0).certificate)
    assert certificate.not_valid_before_utc == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert certificate.not_valid_after_utc.year == 9999


def test_only_the_owner_can_read_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    made = Identity.load_or_create(folder, NOW_US)
    folder.chmod(0o755)
    made.key_path.chmod(0o644)
    Identity.load_or_create(folder, NOW_US)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.key_path.stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.pem", "key.pem"]


@pytest.mark.parametrize("damage", [None, b"", b"nonsense"])
def test_a_lost_certificate_is_made_again_byte_for_byte(tmp_path: Path, damage: bytes | None) -> None:
    made = Identity.load_or_create(tmp_path, NOW_US)
    before = made.certificate_path.read_bytes()
    if damage is None:
        made.certificate_path.unlink()
    else:
        made.certificate_path.write_bytes(damage)
    assert Identity.load_or_create(tmp_path, NOW_US) == made
    assert made.certificate_path.read_bytes() == before


@pytest.mark.parametrize(
    "damage", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", bytes(100)]
)
def test_a_damaged_key_is_named_and_left_alone(tmp_path: Path, damage: bytes) -> None:
    made = Identity.load_or_create(tmp_path, NOW_US)
    made.key_path.write_bytes(damage)
    with pytest.raises(IdentityDamaged, match=r"key\.pem"):
        Identity.load_or_create(tmp_path, NOW_US)
    assert made.key_path.read_bytes() == damage


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path, NOW_US)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made.key_path.write_bytes(pem)
    with pytest.raises(IdentityDamaged, match="Ed25519"):
        Identity.load_or_create(tmp_path, NOW_US)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeUnusable, match="file"):
        Identity.load_or_create(tmp_path / "file" / "identity", NOW_US)


def test_of_two_that_create_at_once_the_first_key_stays(tmp_path: Path) -> None:
    first = Identity.load_or_create(tmp_path, NOW_US)
    assert identity_module.create(tmp_path, NOW_US) == first


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def certificate(
    key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey, signer: Ed25519PrivateKey | None = None
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("a"))
        .issuer_name(name("a"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2040, 1, 1, tzinfo=dt.UTC))
    )
    with_hash = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) and signer is None else None
    return builder.sign(signer or key, with_hash).public_bytes(serialization.Encoding.DER)


def with_another_name(device: str) -> bytes:
    """Return a certificate in the right form, but for the name, rightly signed by its own key."""
    key = Ed25519PrivateKey.generate()
    right = identity_module.certificate_of(key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(device))
        .issuer_name(name(device))
        .public_key(key.public_key())
        .serial_number(right.serial_number)
        .not_valid_before(right.not_valid_before_utc)
        .not_valid_after(right.not_valid_after_utc)
    )
    for extension in right.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(key, None).public_bytes(serialization.Encoding.DER)


def with_version(number: int) -> bytes:
    """Return a device's certificate that claims another version of X.509."""
    key = Ed25519PrivateKey.generate()
    right = identity_module.certificate_of(key).public_bytes(serialization.Encoding.DER)
    return right.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([number]), 1)


def test_a_certificate_in_the_name_of_another_device_would_lock_that_device_out(tmp_path: Path) -> None:
    """Why `device_of_certificate` takes one form only: OpenSSL looks for trust anchors by their names."""
    victim = Identity.load_or_create(tmp_path / "victim", NOW_US)
    us = Identity.load_or_create(tmp_path / "us", NOW_US)
    false = with_another_name(format_device_id(victim.device))
    assert handshake(us, victim, trusted=[victim.certificate]) is None
    assert handshake(us, victim, trusted=[false, victim.certificate]) is not None
    with pytest.raises(RemoteProtocolError):
        device_of_certificate(false)


def handshake(server: Identity, client: Identity, *, trusted: list[bytes]) -> ssl.SSLError | None:
    """Return why TLS fails between two devices in memory; None if it does not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(client, server.certificate, MAIN_ALPN)
    ours = server_context(server, trusted).wrap_bio(to_server, to_client, server_side=True)
    theirs = context.wrap_bio(to_client, to_server)
    for side in (theirs, ours) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            return error
    return None


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_another_name("somebody else"),
        lambda: with_version(6),
        lambda: with_version(0),
        lambda: (
            identity_module.certificate_of(Ed25519PrivateKey.generate()).public_bytes(
                serialization.Encoding.DER
            )
            + b"x"
        ),
        lambda: b"",
        lambda: b"nonsense",
        lambda: certificate(ec.generate_private_key(ec.SECP256R1())),
        lambda: certificate(Ed25519PrivateKey.generate(), signer=Ed25519PrivateKey.generate()),
    ],
    ids=[
        "another name",
        "unknown version",
        "version 1",
        "and more",
        "empty",
        "garbage",
        "elliptic curve",
        "signed by another",
    ],
)
def test_what_is_not_a_device_s_certificate_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        device_of_certificate(make())
