from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.net.policy import AddressPolicy, attached_networks


@pytest.mark.parametrize(
    "ip",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.7.7", "169.254.1.1", "::1", "fe80::1", "fe80::1%eth0",
     "fd00::5", "::ffff:192.168.1.1", "::ffff:c0a8:101"],
)  # fmt: skip
def test_local_addresses_are_permitted(ip: str) -> None:
    assert AddressPolicy(attached=list).permits(ip)


@pytest.mark.parametrize(
    "ip",
    ["8.8.8.8", "172.32.0.1", "172.15.255.255", "100.64.0.1", "192.169.0.1", "11.0.0.1", "2001:db8::1", "2606:4700::1111",
     "::ffff:8.8.8.8", "::", "0.0.0.0", "255.255.255.255", "224.0.0.251", "ff02::fb", "64:ff9b::a01:203", "2002:a01:203::1",
     "not an address", "", "10.0.0.1:80", "router.local"],
)  # fmt: skip
def test_everything_else_is_not(ip: str) -> None:
    assert not AddressPolicy(attached=list).permits(ip)


def test_the_configuration_can_widen_it() -> None:
    policy = AddressPolicy(["100.64.0.0/10", "2001:db8:1::7/64"], attached=list)
    assert policy.permits("100.100.1.1")
    assert policy.permits("2001:db8:1::99")
    assert not policy.permits("2001:db8:2::99")
    policy.allow(["203.0.113.0/24"])
    assert policy.permits("203.0.113.1")
    assert not policy.permits("100.100.1.1")
    with pytest.raises(ValueError, match="nonsense"):
        AddressPolicy(["nonsense"])


def test_an_attached_network_is_local_while_it_is_attached() -> None:
    attached = [ipaddress.ip_network("203.0.113.0/24")]
    policy = AddressPolicy(attached=lambda: attached)
    assert policy.permits("203.0.113.9")
    attached.clear()
    assert not policy.permits("203.0.113.9")


def test_this_machine_s_networks_are_known() -> None:
    assert ipaddress.ip_network("127.0.0.0/8") in attached_networks()


@given(address=st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_as_the_one_inside(address: ipaddress.IPv4Address) -> None:
    policy = AddressPolicy(attached=list)
    assert policy.permits(str(address)) == policy.permits(f"::ffff:{address}")
    assert not policy.permits(str(address)) or not address.is_global
