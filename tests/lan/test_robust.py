"""Cables, crashes and strangers."""

from __future__ import annotations

import datetime as dt
import random
import shutil
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from p2plab.device import Device, pair
from p2plab.trees import describe, differences, leftovers, small_files
from p2plab.waiting import eventually, pause

pytestmark = pytest.mark.lan

KILLS = 20

# Runs on another host: says something to the port and prints what comes back, in hex.
STRANGER = """
import os, socket, ssl, sys
host, port, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with socket.create_connection((host, port), timeout=10) as raw:
    got = b""
    try:
        if what == "garbage":
            raw.sendall(os.urandom(20_000))
            got = raw.recv(65536)
        elif what == "http":
            raw.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            got = raw.recv(65536)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["p2psync/1"])
            if what == "tls-with-certificate":
                context.load_cert_chain(sys.argv[4], sys.argv[5])
            with context.wrap_socket(raw) as tls:
                tls.sendall(b"\\x00\\x00\\x00\\x05hello" * 1000)
                while chunk := tls.recv(65536):
                    got += chunk
    except OSError as error:
        got += repr(error).encode()
print(got.hex())
"""


@pytest.fixture
def synced(two: tuple[Device, Device]) -> tuple[Device, Device, Path, Path]:
    """Two connected devices with an equal share `secret-plans` of a few files."""
    a, b = two
    pair(a, b)
    ours, theirs = a.folder / "secret-plans", b.folder / "secret-plans"
    small_files(ours, folders=2, files=20, least=10, most=3000)
    a.share_folder(ours, "secret-plans", b)
    a.wait()
    return a, b, ours, theirs


def test_a_cable_pulled_for_a_moment_is_made_up_for(synced: tuple[Device, Device, Path, Path]) -> None:
    a, b, ours, theirs = synced
    b.host.cut()
    (ours / "from-a").write_text("a")
    (theirs / "from-b").write_text("b")
    b.host.join()
    eventually(
        "both have both", lambda: (ours / "from-b").exists() and (theirs / "from-a").exists(), within_s=60
    )
    a.wait()
    b.wait()
    assert differences(ours, theirs) == []


def test_a_peer_that_went_silent_is_noticed_and_found_again(
    synced: tuple[Device, Device, Path, Path],
) -> None:
    a, b, ours, theirs = synced
    b.host.cut()
    eventually("both notice", lambda: not a.connected_to(b) and not b.connected_to(a), within_s=90)
    (ours / "from-a").write_text("a")
    b.host.join()
    eventually("connected again", lambda: a.connected_to(b) and b.connected_to(a), within_s=60)
    a.wait()
    assert (theirs / "from-a").read_text() == "a"


def test_a_device_with_a_new_address_is_found_again(synced: tuple[Device, Device, Path, Path]) -> None:
    a, b, ours, theirs = synced
    b.host.run(["ip", "address", "flush", "dev", "eth0"], check=True)
    b.host.run(["ip", "address", "add", "10.77.0.200/24", "broadcast", "+", "dev", "eth0"], check=True)
    b.host.run(["ip", "route", "replace", "224.0.0.0/4", "dev", "eth0"], check=True)
    (ours / "from-a").write_text("a")
    eventually("b has it", (theirs / "from-a").exists, within_s=90)
    a.wait()
    assert "10.77.0.200" in (a.peer("b")["address"] or "")


def test_a_restarted_peer_is_connected_again_at_once(synced: tuple[Device, Device, Path, Path]) -> None:
    a, b, ours, theirs = synced
    for device, other in ((b, a), (a, b)):
        assert device.stop() == 0
        eventually(
            "the other one sees it go", lambda device=device, other=other: not other.connected_to(device)
        )
        device.start()
        eventually("connected again", lambda device=device, other=other: other.connected_to(device))
    (ours / "x").write_text("x")
    a.wait()
    assert (theirs / "x").read_text() == "x"


def test_kill_nine_at_random_moments_leaves_only_whole_files_and_then_equal_trees(
    synced: tuple[Device, Device, Path, Path],
) -> None:
    a, b, ours, theirs = synced
    rng = random.Random(46)
    known = {path.relative_to(ours): {path.read_bytes()} for path in ours.rglob("*.bin")}

    def write(path: Path, data: bytes) -> None:
        """Replace a file as an editor does, so that it is whole at every moment on this side too."""
        known.setdefault(path.relative_to(ours), set()).add(data)
        temporary = a.folder / "being-written"
        temporary.write_bytes(data)
        temporary.replace(path)

    for turn in range(KILLS):
        for k in range(20):
            write(
                ours / f"dir00{k % 2}" / f"new{turn:02d}-{k:02d}.bin", rng.randbytes(rng.randint(0, 60_000))
            )
        for path in rng.sample(sorted(ours.rglob("file*.bin")), 10):
            write(path, rng.randbytes(rng.randint(1, 30_000)))
        write(ours / f"big{turn % 3}.bin", rng.randbytes(1_500_000))
        victim = rng.choice([a, b])
        # Not a synchronisation: the moment is what is being drawn.
        pause(rng.uniform(0.0, 0.6))
        victim.kill()
        for path in theirs.rglob("*.bin"):
            if ".p2psync" not in path.parts:
                whole = path.read_bytes() in known[path.relative_to(theirs)]
                assert whole, f"turn {turn}: {path} is a mixture"
        victim.start()
    eventually("connected", lambda: a.connected_to(b) and b.connected_to(a), within_s=60)
    a.wait(within_s=120)
    b.wait(within_s=120)
    assert differences(ours, theirs) == []
    assert a.root("secret-plans") == b.root("secret-plans")
    assert leftovers(ours) == []
    assert leftovers(theirs) == []
    for device in (a, b):
        assert device.cli("conflict", "list", "--json").ok().json == []
        device.cli("verify").ok()


@pytest.mark.parametrize("what", ["garbage", "http", "tls", "tls-with-certificate"])
def test_a_stranger_gets_nothing_and_the_daemon_goes_on(
    synced: tuple[Device, Device, Path, Path], what: str, tmp_path: Path
) -> None:
    a, _, ours, theirs = synced
    certificate, key = stranger_identity(tmp_path)
    address, port = a.address.rsplit(":", 1)
    stranger = a.host.lab.host(7)
    done = stranger.run([sys.executable, "-c", STRANGER, address, port, what, str(certificate), str(key)])
    assert done.returncode == 0, done.stderr
    heard = bytes.fromhex(done.stdout.strip())
    assert b"secret-plans" not in heard
    assert len(heard) < 3000
    (ours / "after").write_text(what)
    a.wait()
    assert (theirs / "after").read_text() == what
    assert [peer["name"] for peer in a.status()["peers"]] == ["b"]


def stranger_identity(folder: Path) -> tuple[Path, Path]:
    """Return certificate and key files that nobody knows."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stranger")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36500))
        .sign(key, None)
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def test_many_silent_connections_do_not_keep_a_peer_out(synced: tuple[Device, Device, Path, Path]) -> None:
    a, b, _, _ = synced
    address, port = a.address.rsplit(":", 1)
    hold = (
        "import socket, sys\n"
        "held = [socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) for _ in range(50)]\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    stranger = a.host.lab.host(7).spawn([sys.executable, "-c", hold, address, port], stdin=-1, stdout=-1)
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == b"held\n"
    b.stop()
    b.start()
    eventually("b is connected in spite of them", lambda: a.connected_to(b), within_s=60)


def test_the_state_database_deleted_merges_again_without_loss(
    synced: tuple[Device, Device, Path, Path],
) -> None:
    _, b, ours, theirs = synced
    before = describe(ours)
    assert b.stop() == 0
    shutil.rmtree(b.home / "state")
    b.start()
    eventually("b answers", lambda: b.status()["device"]["name"] == "b")
    assert describe(ours) == before
    assert describe(theirs) == before
