"""No address that is not public may be connected to, however it is written."""

import ipaddress

import pytest

from pipelines.steps.download.addresses import AddressPolicy

REFUSED = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::a9fe:a9fe",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("address", REFUSED)
def test_address_that_is_not_public_is_refused(address):
    assert not AddressPolicy().allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed(address):
    assert AddressPolicy().allows(address)


@pytest.mark.parametrize("address", ["64:ff9b::808:808", "2002:808:808::1", "ff0e::1"])
def test_python_alone_would_let_these_through(address):
    assert ipaddress.ip_address(address).is_global
    assert not AddressPolicy().allows(address)


def test_named_network_is_allowed_and_nothing_beside_it():
    policy = AddressPolicy(["127.0.0.0/8"])
    assert policy.allows("127.0.0.1")
    assert not policy.allows("10.0.0.1")
    assert not policy.allows("::1")


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"])
def test_naming_an_ipv4_network_does_not_open_its_ipv6_disguises(address):
    assert not AddressPolicy(["127.0.0.0/8"]).allows(address)


def test_naming_a_translation_range_opens_only_what_is_allowed_by_itself():
    policy = AddressPolicy(["64:ff9b::/96", "::ffff:0:0/96", "2002::/16", "2001::/32"])
    assert policy.allows("64:ff9b::808:808")
    assert policy.allows("::ffff:8.8.8.8")
    assert not policy.allows("64:ff9b::7f00:1")
    assert not policy.allows("::ffff:169.254.169.254")
    assert not policy.allows("2002:a9fe:a9fe::1")
    assert not policy.allows("2001:0:7f00:1:8000:63bf:3fff:fdd2")


def test_naming_both_the_disguise_and_the_network_opens_both():
    assert AddressPolicy(["::ffff:0:0/96", "127.0.0.0/8"]).allows("::ffff:127.0.0.1")


def test_what_is_no_address_is_refused():
    assert not AddressPolicy(["0.0.0.0/0", "::/0"]).allows("localhost")
