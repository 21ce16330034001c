"""HTTP answers by the hundred, each a good one broken in one way, the same ones for a seed."""

import random

_VALUES = (
    "", "0", "-1", "+5", "1e3", "18446744073709551616", "5, 5", "5, 6", "0x10", " 7 ", "\t", "\0",
    "chunked", "gzip", "gzip, chunked", "identity", "br", "x-gzip, deflate", "text/html", "é", "*",
    "A" * 9000, "bytes 0-1/2", "none", "noai", "close", "keep-alive", "a=b; " * 900,
)  # fmt: skip
_NAMES = (
    "Content-Length", "Transfer-Encoding", "Content-Encoding", "Content-Type", "Connection",
    "Location", "X-Robots-Tag", "Set-Cookie", "Content-Range", "Trailer", "Upgrade", "Refresh",
)  # fmt: skip
_STATUSES = (
    "200", "204", "206", "100", "101", "301", "302", "304", "307", "400", "401", "403", "404",
    "410", "429", "451", "500", "503", "599", "600", "999", "000", "2000", "-1", "abc", "",
)  # fmt: skip


def broken(dice: random.Random, image: bytes) -> bytes:
    """A whole answer on the wire, with one or two things wrong."""
    fields = [("Content-Type", "image/png"), ("Content-Length", str(len(image)))]
    first, body, line_end = "HTTP/1.1 200 OK", image, "\r\n"
    for _ in range(dice.choice((1, 1, 2))):
        match dice.randrange(8):
            case 0:
                first = f"HTTP/{dice.choice(('1.1', '1.0', '0.9', '2', 'x'))} " + dice.choice(
                    _STATUSES
                )
            case 1:
                fields.append((dice.choice(_NAMES), dice.choice(_VALUES)))
            case 2:
                fields[dice.randrange(2)] = (dice.choice(_NAMES), dice.choice(_VALUES))
            case 3:
                body = body[: dice.randrange(len(body))]
            case 4:
                body = _chunked(dice, body)
                fields[1] = ("Transfer-Encoding", "chunked")
            case 5:
                fields += [
                    (f"X-{n}", "y" * dice.choice((1, 200))) for n in range(dice.randrange(300))
                ]
            case 6:
                line_end = dice.choice(("\n", "\r", "\r\r\n", "\r\n "))
            case _:
                first = dice.choice(("", "\0" * 50, "GET / HTTP/1.1", "HTTP/1.1", "A" * 70_000))
    head = line_end.join([first, *(f"{name}: {value}" for name, value in fields), "", ""])
    content = head.encode("latin-1", "replace") + body
    if dice.random() < 0.2:
        at = dice.randrange(min(len(content), 200))
        content = content[:at] + bytes((dice.randrange(256),)) + content[at + 1 :]
    return content


def _chunked(dice: random.Random, body: bytes) -> bytes:
    sizes = (
        f"{len(body):x}",
        f"{len(body) + 1:x}",
        "-1",
        "ffffffffffffffff",
        "g",
        "",
        "0",
        "1;x=y",
    )
    return (
        f"{dice.choice(sizes)}\r\n".encode() + body + dice.choice((b"\r\n0\r\n\r\n", b"", b"\r\n"))
    )
