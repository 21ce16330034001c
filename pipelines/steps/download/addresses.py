"""Which IP addresses may be connected to: public ones, and the networks a configuration names.

`ipaddress.is_global` is not enough: it passes multicast, the ranges that translate or tunnel to an
IPv4 address (64:ff9b::/96, 2002::/16), and a cloud's metadata service at 168.63.129.16.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

_REFUSED_V4 = [
    ip_network(cidr)
    for cidr in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; holds the metadata service 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # a metadata service on a public-looking address
        "169.254.0.0/16",  # link-local; holds the metadata service 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",  # holds the metadata service 192.0.0.192
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_GLOBAL_UNICAST_V6 = ip_network("2000::/3")
_REFUSED_V6 = [
    ip_network(cidr)
    for cidr in (
        "2001::/23",  # protocol assignments, among them Teredo (2001::/32)
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
]
_TRANSLATED_V6 = [
    ip_network(cidr)
    for cidr in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")
]
_6TO4 = ip_network("2002::/16")
_TEREDO = ip_network("2001::/32")


@lru_cache(maxsize=4096)
def is_public(address: Address) -> bool:
    """Whether an address is on the public internet and is nothing but itself."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _REFUSED_V4)
    return (
        address.is_global
        and address in _GLOBAL_UNICAST_V6
        and not any(address in network for network in _REFUSED_V6)
    )


def embedded_addresses(address: Address) -> list[IPv4Address]:
    """The IPv4 addresses that packets to this IPv6 address may end at, by translation or tunnel."""
    if isinstance(address, IPv4Address) or address.packed == IPv6Address("::1").packed:
        return []
    if address in _TEREDO and address.teredo:
        return list(address.teredo)
    if address in _6TO4 and address.sixtofour:
        return [address.sixtofour]
    if any(address in network for network in _TRANSLATED_V6):
        return [IPv4Address(address.packed[-4:])]
    return []


class AddressPolicy:
    """Public addresses, plus the networks named by the user.

    A named network counts for the address as it is written: naming 127.0.0.0/8 does not allow
    ::ffff:127.0.0.1, and naming ::ffff:0:0/96 or 64:ff9b::/96 allows only those addresses whose
    embedded IPv4 address is allowed as well.
    """

    def __init__(self, allow_networks: Iterable[str] = ()) -> None:
        self._named = [ip_network(cidr) for cidr in allow_networks]

    def allows(self, text: str) -> bool:
        """Whether a numeric address, such as a resolver returns, may be connected to."""
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return self._allows(address)

    def _allows(self, address: Address) -> bool:
        if not any(address in network for network in self._named):
            return is_public(address)
        return all(self._allows(inner) for inner in embedded_addresses(address))
