from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.net.addresses import Address, format_address, parse_address, plain_ip, resolve


@given(ip=st.ip_addresses().map(str), port=st.integers(0, 65535))
def test_an_address_survives_being_written(ip: str, port: int) -> None:
    assert parse_address(str(Address(ip=ip, port=port))) == Address(ip=ip, port=port)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.1", "10.0.0.1:", ":80", "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:\uff180", "fe80::1:80", "[fe80::1]", "host:80",
     "[host]:80", "10.0.0.1:80:90"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


def test_a_link_local_address_knows_its_interface() -> None:
    index = socket.if_nametoindex("lo")
    address = parse_address("[fe80::1%lo]:22600")
    assert address.sockaddr == ("fe80::1", 22600, 0, index)
    assert parse_address(f"[fe80::1%{index}]:22600").sockaddr == address.sockaddr
    assert format_address(("fe80::1", 22600, 0, index)) == "[fe80::1%lo]:22600"
    assert format_address(("fe80::1%lo", 22600, 0, index)) == "[fe80::1%lo]:22600"
    assert format_address(("fe80::1", 22600, 0, 99999)) == "[fe80::1%99999]:22600"


def test_other_addresses_have_none() -> None:
    assert parse_address("[::1]:1").sockaddr == ("::1", 1, 0, 0)
    assert parse_address("127.0.0.1:1").sockaddr == ("127.0.0.1", 1)
    assert format_address(("::1", 1, 0, 0)) == "[::1]:1"
    assert format_address(("::ffff:10.0.0.1", 1, 0, 0)) == "10.0.0.1:1"
    assert str(plain_ip("::ffff:10.0.0.1")) == "10.0.0.1"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("127.0.0.1", "127.0.0.1:22600"), ("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:80", "[::1]:80"), ("::1", "[::1]:22600"),
     ("[::1]", "[::1]:22600"), (" 127.0.0.1:80 ", "127.0.0.1:80"), ("[fe80::1%lo]:80", "[fe80::1%lo]:80")],
)  # fmt: skip
async def test_what_a_person_types_becomes_an_address(text: str, wanted: str) -> None:
    assert await resolve(text) == [wanted]


async def test_a_name_is_looked_up() -> None:
    assert "127.0.0.1:80" in await resolve("localhost:80")


@pytest.mark.parametrize("text", ["", "host:port", "host:99999", ":80"])
async def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host and a port"):
        await resolve(text)
