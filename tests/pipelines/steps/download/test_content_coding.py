"""Content-Encoding is undone within bounds, and believed only where the bytes agree."""

import gzip
import random
import tracemalloc
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jobs.demo.bad_answers import good_jpeg, raw
from jobs.demo.server import LoopbackServer
from pipelines.steps.download.content_coding import (
    CodedBroken,
    CodedCutOff,
    CodedTooLarge,
    decode,
    zstd,
)
from pipelines.steps.download.failure import FetchFailed
from tests.pipelines.steps.download.drawn import quarters, saved

PICTURE = good_jpeg()


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


CODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": raw_deflate,
    "br": lambda body: brotli.compress(body, quality=5),
    "zstd": zstd.compress,
}


def served(make_fetcher, body: bytes, coding: str, *, framing: str = "length", **options):
    """What a fetch makes of a body under a Content-Encoding."""
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n"
    if framing == "length":
        content = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    elif framing == "chunked":
        size = f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"
        content = (head + size).encode() + body + b"\r\n0\r\n\r\n"
    else:
        content = head.encode() + b"\r\n" + body
    with LoopbackServer(handlers={"/x": raw(content)}) as server:
        return make_fetcher(retries=0, **options).fetch(f"{server.url}/x").data


def reason_of(*arguments, **options) -> str:
    with pytest.raises(FetchFailed) as caught:
        served(*arguments, **options)
    return caught.value.reason


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("name", CODERS)
def test_body_is_decoded(name, framing, make_fetcher):
    body = CODERS[name](PICTURE)
    coding = name.removeprefix("raw ")
    assert served(make_fetcher, body, coding, framing=framing) == PICTURE


@pytest.mark.parametrize("coding", ["GZIP", "identity, gzip", "gzip,", " gzip ;", "utf-8"])
def test_odd_names_of_encodings_cost_nothing(coding, make_fetcher):
    is_gzip = coding.strip(" ,").lower().endswith("gzip")
    body = gzip.compress(PICTURE) if is_gzip else PICTURE
    assert served(make_fetcher, body, coding) == PICTURE


def test_encodings_over_one_another_are_undone_from_the_last(make_fetcher):
    body = CODERS["br"](gzip.compress(PICTURE))
    assert served(make_fetcher, body, "gzip, br") == PICTURE
    assert served(make_fetcher, gzip.compress(gzip.compress(PICTURE)), "gzip, gzip") == PICTURE


def test_members_and_frames_in_a_row_are_one_body(make_fetcher):
    first, second = PICTURE[:1000], PICTURE[1000:]
    body = gzip.compress(first) + gzip.compress(second)
    assert served(make_fetcher, body, "gzip") == PICTURE
    assert served(make_fetcher, body + bytes(512), "gzip") == PICTURE
    assert served(make_fetcher, zstd.compress(first) + zstd.compress(second), "zstd") == PICTURE


def test_transfer_coding_beside_chunked_is_undone_too(make_fetcher):
    body = gzip.compress(PICTURE)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    handler = raw(head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
    with LoopbackServer(handlers={"/x": handler}) as server:
        assert make_fetcher().fetch(f"{server.url}/x").data == PICTURE


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, br", "aws-chunked"])
def test_plain_image_called_encoded_is_taken_as_it_is(coding, image_format, make_fetcher):
    body = saved(Image.fromarray(quarters(64, 48)), image_format)
    assert served(make_fetcher, body, coding) == body


@pytest.mark.parametrize("name", CODERS)
def test_encoding_that_is_cut_off_is_a_truncated_body(name, make_fetcher):
    body = CODERS[name](PICTURE)
    coding = name.removeprefix("raw ")
    assert reason_of(make_fetcher, body[: len(body) // 2], coding) == "body_truncated"


def test_encoding_that_breaks_midway_is_malformed(make_fetcher):
    body = bytearray(gzip.compress(PICTURE))
    body[len(body) // 2 :] = random.Random(1).randbytes(len(body) - len(body) // 2)
    assert reason_of(make_fetcher, bytes(body), "gzip") == "http_malformed"


@pytest.mark.parametrize("name", CODERS)
def test_bomb_is_refused_without_being_held(name, make_fetcher):
    cap = 4 * 1024 * 1024
    bomb = bomb_of(name)
    tracemalloc.start()
    try:
        reason = reason_of(make_fetcher, bomb, name.removeprefix("raw "), max_bytes=cap)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reason == "body_too_large"
    assert peak < 6 * cap


def bomb_of(name: str) -> bytes:
    """400 MiB of zeros, packed."""
    block = bytes(4 * 1024 * 1024)
    if name == "br":
        packer = brotli.Compressor(quality=1)
        parts = [packer.process(block) for _ in range(100)] + [packer.finish()]
    elif name == "zstd":
        packer = zstd.ZstdCompressor()
        parts = [packer.compress(block) for _ in range(100)] + [packer.flush()]
    else:
        wbits = {"deflate": zlib.MAX_WBITS, "raw deflate": -zlib.MAX_WBITS}.get(name, 31)
        packer = zlib.compressobj(1, wbits=wbits)
        parts = [packer.compress(block) for _ in range(100)] + [packer.flush()]
    return b"".join(parts)


def test_caps_hold_on_the_wire_and_decoded_alike(make_fetcher):
    cap = 300 * 1024
    noise = random.Random(2).randbytes(cap)
    assert served(make_fetcher, gzip.compress(bytes(cap)), "gzip", max_bytes=cap) == bytes(cap)
    small = gzip.compress(bytes(cap + 1))
    assert reason_of(make_fetcher, small, "gzip", max_bytes=cap) == "body_too_large"
    large = gzip.compress(noise)  # a little larger than what it holds
    assert len(large) > cap
    assert reason_of(make_fetcher, large, "gzip", max_bytes=cap) == "body_too_large"
    assert reason_of(make_fetcher, gzip.compress(b""), "gzip") == "empty_body"


def test_room_for_encoded_bodies_is_given_back(make_fetcher):
    """96 MiB may be in flight; each of these asks for more than half of it."""
    content = random.Random(3).randbytes(2 * 1024 * 1024)
    packed = gzip.compress(content)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    bodies = {"/good": packed, "/cut": packed[:-10], "/zeros": gzip.compress(bytes(3_000_000))}
    handlers = {path: raw(head + body) for path, body in bodies.items()}
    fetcher = make_fetcher(retries=0, max_bytes=50 * 1024 * 1024, timeout_s=10)
    with LoopbackServer(handlers=handlers) as server:
        for _ in range(2):
            with pytest.raises(FetchFailed, match="body_truncated"):
                fetcher.fetch(f"{server.url}/cut")
            with fetcher.fetch(f"{server.url}/zeros") as fetched:
                assert len(fetched.data) == 3_000_000
            with fetcher.fetch(f"{server.url}/good") as fetched:
                assert fetched.data == content


@given(
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from([gzip.compress, zlib.compress, brotli.compress, zstd.compress]).flatmap(
            lambda pack: st.binary(max_size=200).map(lambda body: pack(body * 20))
        ),
    ),
    st.binary(max_size=20),
    st.lists(st.sampled_from(["gzip", "deflate", "br", "zstd"]), max_size=7),
)
def test_any_bytes_decode_within_bounds_or_are_named(body, more, codings):
    try:
        decoded = decode(body + more, tuple(codings), limit=1000, is_plain=lambda body: False)
    except (CodedTooLarge, CodedCutOff, CodedBroken):
        return
    assert len(decoded) <= max(1000, len(body + more))
