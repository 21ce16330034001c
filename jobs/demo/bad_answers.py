"""How the loopback server misbehaves: the answers under `/bad/<name>`.

Each is a handler that writes a whole response, header and all, in the way a broken or hostile
server would. `bad_urls.py` says what a fetch must make of each.
"""

import asyncio
import io
import struct
import zlib
from collections.abc import Mapping
from functools import cache

from PIL import Image

from jobs.demo.exchange import Handler, Reply, Request

_HUGE_BYTES = 2 * 1024**3


def answer(status: int, body: bytes = b"", *, headers: Mapping[str, str] | None = None) -> Handler:
    """An ordinary response."""
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    content = "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    async def reply_with_it(request: Request, reply: Reply) -> None:
        await reply.write(content)

    return reply_with_it


def redirect(location: str, *, headers: Mapping[str, str] | None = None) -> Handler:
    """A 302 to `location`."""
    return answer(302, headers={"Location": location, **(headers or {})})


def raw(content: bytes, *, then_hang: bool = False) -> Handler:
    """These bytes and nothing else; then the connection closes, or stays open without a word."""

    async def send(request: Request, reply: Reply) -> None:
        await reply.write(content)
        if then_hang:
            await asyncio.sleep(3600)

    return send


def first_then_good(status: int, *, headers: Mapping[str, str] | None = None) -> Handler:
    """Refuses every other request of a path, beginning with the first."""
    refuse = answer(status, headers=headers)

    async def alternate(request: Request, reply: Reply) -> None:
        await (refuse if request.count % 2 else _serve_good_image)(request, reply)

    return alternate


async def _serve_good_image(request: Request, reply: Reply) -> None:
    await answer(200, good_jpeg(), headers={"Content-Type": "image/jpeg"})(request, reply)


async def _drip_body(request: Request, reply: Reply) -> None:
    await reply.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while await reply.write(b"."):
        await asyncio.sleep(1)


async def _drip_header(request: Request, reply: Reply) -> None:
    await reply.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while await reply.write(b"."):
        await asyncio.sleep(1)


async def _huge_stream(request: Request, reply: Reply) -> None:
    await reply.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n")
    block = bytes(1024 * 1024)
    for _ in range(_HUGE_BYTES // len(block)):
        if not await reply.write(block):
            return


async def _huge_chunked(request: Request, reply: Reply) -> None:
    await reply.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n80000000\r\n")
    block = bytes(1024 * 1024)
    for _ in range(_HUGE_BYTES // len(block)):
        if not await reply.write(block):
            return


async def _truncated_jpeg(request: Request, reply: Reply) -> None:
    await answer(200, good_jpeg()[: len(good_jpeg()) // 2])(request, reply)


async def _png_bomb(request: Request, reply: Reply) -> None:
    await answer(200, png_bomb(30_000, 30_000))(request, reply)


async def _thin_png(request: Request, reply: Reply) -> None:
    await answer(200, png_bomb(60_000, 1))(request, reply)


@cache
def good_jpeg() -> bytes:
    """A sound 640x480 JPEG of smooth colour."""
    ramp = Image.linear_gradient("L")
    image = Image.merge("RGB", [ramp, ramp.rotate(90), ramp.rotate(180)]).resize((640, 480))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


@cache
def png_bomb(width: int, height: int) -> bytes:
    """A valid one-bit PNG of this size: for 30,000 x 30,000, 112 MB of pixels in 0.1 MB."""
    row = bytes(1 + (width + 7) // 8)
    packer = zlib.compressobj(9, wbits=-15)
    packed_row = packer.compress(row) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(height):
        checksum = zlib.adler32(row, checksum)
    end = zlib.compressobj(wbits=-15).flush() + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = b"\x78\xda" + packed_row * height + end
    chunks = (_png_chunk(b"IHDR", header), _png_chunk(b"IDAT", pixels), _png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


_OK = b"HTTP/1.1 200 OK\r\n"
_HTML = b"<!doctype html><title>Sorry</title><p>This is not the image you are looking for.</p>"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"></svg>'

ANSWERS: dict[str, Handler] = {
    # statuses
    "not_found": answer(404),
    "gone": answer(410),
    "forbidden": answer(403),
    "login": answer(401, headers={"WWW-Authenticate": "Basic"}),
    "legal": answer(451),
    "bad_request": answer(400),
    "always_rate_limited": answer(429, headers={"Retry-After": "0"}),
    "rate_limited_for_an_hour": answer(429, headers={"Retry-After": "3600"}),
    "rate_limited_once": first_then_good(429, headers={"Retry-After": "0"}),
    "always_failing": answer(500),
    "failing_once": first_then_good(500),
    "unknown_status": answer(799),
    # time
    "drip": _drip_body,
    "drip_header": _drip_header,
    "silent": raw(b"", then_hang=True),
    "stalled_body": raw(_OK + b"Content-Length: 100\r\n\r\nhalf", then_hang=True),
    # broken HTTP
    "closes_at_once": raw(b""),
    "closes_in_body": raw(_OK + b"Content-Length: 100000\r\n\r\nonly this"),
    "no_header": raw(b"SECRET-SERVER-BYTES and no HTTP header\r\n\r\n"),
    "endless_line": raw(_OK + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n"),
    "too_many_headers": raw(_OK + b"X-Many: 1\r\n" * 1000 + b"\r\n"),
    "lying_chunk": raw(_OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
    "negative_chunk": raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"),
    "chunk_cut_off": raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\nhello"),
    # size
    "huge": _huge_stream,
    "huge_chunked": _huge_chunked,
    "huge_declared": raw(_OK + b"Content-Length: 2147483648\r\n\r\nx", then_hang=True),
    "empty": answer(200),
    "no_content": answer(204),
    # redirects
    "redirect_loop": redirect("/bad/redirect_loop"),
    "redirect_to_metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    "redirect_to_private": redirect("http://10.0.0.1/"),
    "redirect_to_ipv6_loopback": redirect("http://[::1]/"),
    "redirect_to_decimal": redirect("http://2852039166/latest/"),
    "redirect_to_octal": redirect("http://0251.0376.0251.0376/"),
    "redirect_to_hexadecimal": redirect("http://0xA9FEA9FE/"),
    "redirect_to_mapped": redirect("http://[::ffff:169.254.169.254]/"),
    "redirect_to_nat64": redirect("http://[64:ff9b::a9fe:a9fe]/"),
    "redirect_to_6to4": redirect("http://[2002:a9fe:a9fe::1]/"),
    "redirect_twice_to_metadata": redirect("/bad/redirect_to_metadata"),
    "redirect_to_file": redirect("file:///etc/passwd"),
    "redirect_to_data": redirect("data:image/png;base64,AAAA"),
    "redirect_to_ftp": redirect("ftp://127.0.0.1/x.jpg"),
    "redirect_without_location": answer(302),
    "redirect_to_nonsense": redirect("http://["),
    "redirect_to_good": redirect("/bad/good"),
    # opt-outs
    "opted_out": answer(200, _HTML, headers={"X-Robots-Tag": "noai"}),
    "opted_out_noml": answer(200, _HTML, headers={"x-robots-tag": "all, NoML"}),
    "opted_out_for_us": answer(200, _HTML, headers={"X-Robots-Tag": "latent-foundry: noimageai"}),
    "opted_out_redirect": redirect("/bad/good", headers={"X-Robots-Tag": "noindex"}),
    "other_agent_opted_out": answer(
        200, good_jpeg(), headers={"X-Robots-Tag": "otherbot: noai, noindex"}
    ),
    # bodies that are no image, or one that must not be decoded
    "html": answer(200, _HTML, headers={"Content-Type": "text/html"}),
    "html_called_jpeg": answer(200, _HTML, headers={"Content-Type": "image/jpeg"}),
    "svg": answer(200, _SVG, headers={"Content-Type": "image/svg+xml"}),
    "truncated_jpeg": _truncated_jpeg,
    "png_bomb": _png_bomb,
    "thin_png": _thin_png,
    "good": _serve_good_image,
}
