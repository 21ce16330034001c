"""Forms of an address that must not be fetched, and URLs that are none."""

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

FORBIDDEN = "127.0.0.2"
"""Loopback too, and beside the one address that the curation of the test may fetch."""
_SCHEMES = (
    "http://",
    "HTTP://",
    "http:\\\\",
    "http:/",
    "http:",
    "https://",
    "hTTp:///",
    " http://",
)
_USERS = ("", "", "", "user@", "127.0.0.1@", "127.0.0.1:80@", "a:b@", "%2e@", "x%40127.0.0.1@")
_ENDS = ("/x.png", "", "/", "?x", "#127.0.0.1", "\\@127.0.0.1/", "/..;/", "/%00", "//127.0.0.1/")
_ODD = (
    "file:///etc/passwd",
    "ftp://{host}/",
    "gopher://{host}:{port}/_GET",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "jar:http://{host}!/",
    "dict://{host}:{port}/",
    "s3://{host}/x",
    "//{host}:{port}/",
    "http://[::1",
    "http://[fe80::1%25lo]/",
    "http://{host}:99999/",
    "http://{host}:-1/",
    "http://:{port}/",
    "http://",
    "http://.",
    "http://..",
    "http:///x",
    "about:blank",
    "{host}:{port}/x",
)


def forms(address: str) -> list[str]:
    """One IPv4 address as hosts that some reader takes for it."""
    number, parts = int(IPv4Address(address)), address.split(".")
    one, two, three, four = (int(part) for part in parts)
    hexed = f"{number >> 16:x}:{number & 0xFFFF:x}"
    wide = {ord(str(digit)): chr(0xFF10 + digit) for digit in range(10)}
    return [
        address,
        str(number),
        hex(number),
        f"0X{number:X}",
        f"0{number:o}",
        ".".join(f"0{int(part):o}" for part in parts),
        ".".join(f"0000{int(part):o}" for part in parts),
        ".".join(hex(int(part)) for part in parts),
        f"{one}.{number & 0xFFFFFF}",
        f"{one}.{two}.{number & 0xFFFF}",
        f"0x{one:x}.{two}.0{three:o}.{four}",
        f"{address}.",
        address.replace(".", "。"),
        address.translate(wide),
        "".join(f"%{ord(letter):02x}" for letter in address),
        f"[::ffff:{address}]",
        f"[::ffff:{hexed}]",
        f"[::{hexed}]",
        f"[::ffff:0:{hexed}]",
        f"[64:ff9b::{hexed}]",
        f"[64:ff9b:1::{hexed}]",
        f"[2002:{hexed}::]",
        f"[2001:0:{hexed}::]",
        f"[0:0:0:0:0:ffff:{hexed}]",
    ]


HOSTS = [
    *forms(FORBIDDEN),
    *forms("169.254.169.254"),
    *forms("10.0.0.1"),
    *forms("0.0.0.0"),
    "[::]",
    "[::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[ff02::1]",
    "100.64.0.1",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
]


def urls(dice: random.Random, *, port: int, count: int) -> list[str]:
    """So many URLs of forbidden addresses, or that are none."""
    found = [odd.format(host=FORBIDDEN, port=port) for odd in _ODD]
    while len(found) < count:
        host = HOSTS[len(found) % len(HOSTS)]
        where = dice.choice((f":{port}", f":{port}", f":0{port}", ""))
        url = dice.choice(_SCHEMES) + dice.choice(_USERS) + host + where + dice.choice(_ENDS)
        found.append(url)
    dice.shuffle(found)
    return found[:count]


@dataclass
class Canary:
    """A server at the forbidden address; `touched` are the connections that it saw."""

    port: int = 0
    touched: list[bytes] = field(default_factory=list)


@contextmanager
def canary() -> Iterator[Canary]:
    """Listen within the block."""
    found, listening = Canary(), socket.create_server((FORBIDDEN, 0))
    found.port = listening.getsockname()[1]

    def listen() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1.0)
                found.touched.append(connection.recv(200))

    threading.Thread(target=listen, daemon=True).start()
    with listening:
        yield found
        listening.shutdown(socket.SHUT_RDWR)
