"""Each row holds its own picture, through the real command, whatever servers and URLs are like."""

import asyncio
import colorsys
import gzip
import hashlib
import io
import socket
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import brotli
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from jobs import curate, takedown
from jobs.demo.bad_answers import answer, raw, redirect
from jobs.demo.exchange import Handler, Reply, Request
from jobs.demo.server import LoopbackServer
from pipelines.steps.download.content_coding import zstd
from tests.contracts.test_curate import read_ledger
from tests.row_keys import row_key
from tests.run_cases import committed_files

pytestmark = pytest.mark.slow

NUM_ROWS = 60


def colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number / NUM_ROWS, 0.8, 0.9)
    return int(255 * red), int(255 * green), int(255 * blue)


def picture(number: int) -> bytes:
    """A PNG of one colour, another for each number."""
    image = Image.new("RGB", (80, 64), colour(number))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def whole_answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def fetch_list(
    folder: Path,
    urls: Sequence[str],
    *,
    block: Mapping[str, str] | None = None,
    select: Mapping[str, Any] | None = None,
    **download: Any,
) -> list[dict[str, Any]]:
    """Run the command on a list; the rows of the ledger in the list's order."""
    captions = [f"row {number}" for number in range(len(urls))]
    pq.write_table(pa.table({"url": urls, "caption": captions}), folder / "list.parquet")
    settings = {
        "output": str(folder / "run"),
        "source": {"path": str(folder / "list.parquet")},
        "plan": {"rows_per_shard": 30},
        "download": {
            "allow_networks": ["127.0.0.0/8"],
            "timeout_s": 20.0,
            "retries": 0,
            "rules": [{"block": dict(block)}] if block else [],
            **download,
        },
        "image": {"size": 32},
        "select": dict(select or {}),
        "engine": {"runner": "local"},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    code = curate.main(["--config", str(config), "--steps", "download,select"])
    rows = {row["caption"]: row for row in read_ledger(folder / "run").to_pylist()}
    assert code == (0 if any(row["kept"] for row in rows.values()) else 4)
    return [rows[caption] for caption in captions]


def stored_colours(run: Path) -> dict[str, tuple[int, ...]]:
    """The middle pixel of every stored image, by key."""
    colours = {}
    for path in committed_files(run, "images"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    pixel = Image.open(stream).convert("RGB").getpixel((16, 16))
                    colours[member.name.removesuffix(".jpg")] = pixel
    return colours


def first_garbled(handler: Handler) -> Handler:
    """Not HTTP at the first asking."""

    async def send(request: Request, reply: Reply) -> None:
        await (raw(b"\x16\x03\x01garbage\n") if request.count == 1 else handler)(request, reply)

    return send


def surplus_after(body: bytes, surplus: bytes, *, delay_s: float) -> Handler:
    """An answer, and then bytes that nobody asked for, on a connection that stays open."""

    async def send(request: Request, reply: Reply) -> None:
        await reply.write(whole_answer(body))
        if delay_s:
            await asyncio.sleep(delay_s)
        await reply.write(surplus)
        await asyncio.sleep(60)

    return send


def served(handlers: Mapping[str, Handler]) -> LoopbackServer:
    return LoopbackServer(handlers=handlers)


@pytest.mark.parametrize(
    ("surplus", "delay_s"),
    [
        (whole_answer(picture(7)), 0.03),
        (whole_answer(picture(7)), 0.05),
        (whole_answer(picture(7)), 0.0),
        (b"\n", 0.0),
        (b"\r\n\r\n", 0.04),
    ],
    ids=["picture 30 ms late", "50 ms late", "at once", "a newline", "newlines 40 ms late"],
)
def test_what_a_server_sends_after_an_answer_reaches_no_other_row(
    surplus: bytes, delay_s: float, tmp_path: Path
) -> None:
    bodies = [picture(number) for number in range(NUM_ROWS)]
    handlers = {
        f"/{number}.png": surplus_after(body, surplus, delay_s=delay_s)
        for number, body in enumerate(bodies)
    }
    with served(handlers) as server:
        urls = [f"{server.url}/{number}.png" for number in range(NUM_ROWS)]
        rows = fetch_list(tmp_path, urls, threads=4)
    assert [row["reason"] for row in rows] == [None] * NUM_ROWS
    assert [row["sha256"] for row in rows] == [hashlib.sha256(body).hexdigest() for body in bodies]
    colours = stored_colours(tmp_path / "run")
    for number, row in enumerate(rows):
        found = colours[row["key"]]
        assert max(abs(a - b) for a, b in zip(found, colour(number), strict=True)) <= 4


def coded(coding: str, body: bytes) -> Handler:
    return answer(200, body, headers={"Content-Encoding": coding})


OWN = picture(3)
ODD_ANSWERS: dict[str, tuple[Handler, str | None]] = {
    "early_hints": (
        raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + whole_answer(OWN)),
        None,
    ),
    "headers": (raw(whole_answer(OWN).replace(b"\r\n", b"\r\n" + b"A: b\r\n" * 900, 1)), None),
    "line": (
        raw(whole_answer(OWN).replace(b"\r\n", b"\r\nA: " + b"b" * 65_536 + b"\r\n", 1)),
        None,
    ),
    "gzip": (coded("gzip", gzip.compress(OWN)), None),
    "deflate": (coded("deflate", zlib.compress(OWN)), None),
    "raw_deflate": (coded("deflate", zlib.compress(OWN)[2:-4]), None),
    "br": (coded("br", brotli.compress(OWN)), None),
    "zstd": (coded("zstd", zstd.compress(OWN)), None),
    "plain_called_gzip": (coded("gzip", OWN), None),
    "bomb": (coded("gzip", gzip.compress(bytes(64 * 1024 * 1024))), "body_too_large"),
    "cut_off": (coded("gzip", gzip.compress(OWN)[:-9]), "body_truncated"),
    "garbled_once": (first_garbled(answer(200, OWN)), None),
    "not_modified": (answer(304), "http_malformed"),
    "choice": (answer(300), "http_not_found"),
    "latin_1": (
        raw(b"HTTP/1.1 302 -\r\nLocation: /gr\xfcn.png\r\nContent-Length: 0\r\n\r\n"),
        None,
    ),
    "gr%FCn.png": (answer(200, OWN), None),
    "utf_8": (
        raw("HTTP/1.1 302 -\r\nLocation: /blå.png\r\nContent-Length: 0\r\n\r\n".encode()),
        None,
    ),
    "bl%C3%A5.png": (answer(200, OWN), None),
}


def test_odd_answers_give_their_picture_or_the_right_reason(tmp_path: Path) -> None:
    with served({f"/{name}": handler for name, (handler, _) in ODD_ANSWERS.items()}) as server:
        urls = [f"{server.url}/{name}" for name in ODD_ANSWERS]
        rows = fetch_list(tmp_path, urls, select={"duplicates": "off"})
    wanted = hashlib.sha256(OWN).hexdigest()
    for row, (name, (_, reason)) in zip(rows, ODD_ANSWERS.items(), strict=True):
        assert (name, row["reason"]) == (name, reason)
        assert (name, row["sha256"]) == (name, wanted if reason is None else None)
    messages = {name: row["error_message"] for name, row in zip(ODD_ANSWERS, rows, strict=True)}
    assert "304" in messages["not_modified"]
    assert "300" in messages["choice"]


SPACES = (
    "{}",
    " {}\t",
    "\n{}\r\n",
    "\u00a0{}\u3000",
    "\ufeff{}",
    "\u200b{}\u2060",
    "\u2028{} \x00",
)
ODD_FORMS = (
    "http://0177.0.0.1:{port}/own.png",
    "http://0x7f.1:{port}/own.png",
    "http://2130706433:{port}/own.png",
    "http://127%2e0.0.1:{port}/own.png",
    "http://１２７。0.0.1:{port}/own.png",
    "http:/127.0.0.1:{port}/own.png",
    "http:127.0.0.1:{port}/own.png",
    "http:\\\\127.0.0.1:{port}\\own.png",
    "HTTP://127.0.0.1:{port}/a/./b/../../own.png",
    "http://127.0.0.1:{port}/%2e%2e/a/%2E%2E/own.png",
    "ht\ttp://127.0\n.0.1:{port}/ow\r\nn.png",
    "http://127.0.0.1:{port}/own.png#fragment",
)


def test_a_url_is_read_as_browsers_read_it_and_its_key_is_of_the_raw_text(tmp_path: Path) -> None:
    with served({"/own.png": answer(200, OWN)}) as server:
        port = server.url.rpartition(":")[2]
        urls = [space.format(f"{server.url}/own.png") for space in SPACES]
        urls += [form.format(port=port) for form in ODD_FORMS]
        rows = fetch_list(tmp_path, urls, select={"duplicates": "off"})
    assert [(url, row["reason"]) for url, row in zip(urls, rows, strict=True)] == [
        (url, None) for url in urls
    ]
    assert {row["final_url"] for row in rows} == {f"{server.url}/own.png"}
    for number, (url, row) in enumerate(zip(urls, rows, strict=True)):
        assert row["url"] == url
        assert row["key"] == row_key(url, caption=f"row {number}")


@pytest.mark.parametrize("allowed", [[], ["10.0.0.0/8"]])
def test_an_odd_form_of_an_address_is_refused_as_the_address_is(
    allowed: list[str], tmp_path: Path
) -> None:
    with served({"/own.png": answer(200, OWN)}) as server:
        urls = [form.format(port=server.url.rpartition(":")[2]) for form in ODD_FORMS]
        rows = fetch_list(tmp_path, urls, allow_networks=allowed)
        assert not server.hits
    assert [row["reason"] for row in rows] == ["address_refused"] * len(urls)


def test_what_is_no_url_is_named(tmp_path: Path) -> None:
    urls = ["http://", "http://[::1/", "http://1.2.3.4.5/", "http://a b/", "www.example.org/a.png"]
    urls += [f"http://{'a' * 64}.example/x", "http://exa%00mple.org/", "http://h:99999/"]
    rows = fetch_list(tmp_path, urls)
    assert [row["reason"] for row in rows] == ["url_invalid"] * len(urls)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name that was looked up; all are on loopback."""
    asked: list[str] = []

    def look_up(host: str, port: None, **options: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr("pipelines.steps.download.resolver.socket.getaddrinfo", look_up)
    return asked


STRASSE = (
    "http://straße.de:{port}/{n}.png",
    "http://STRAẞE.de:{port}/{n}.png",
    "http://xn--strae-oqa.de.:{port}/{n}.png",
    "http://stra%C3%9Fe.de:{port}/{n}.png",
    "http://stra\tße\u3002de:{port}/{n}.png",
    "http:\\\\bilder.straße.de:{port}\\{n}.png",
    "\u00a0http://straße.de:{port}/{n}.png",
)
OTHERS = ("http://strasse.de:{port}/{n}.png", "http://str%61sse.de:{port}/{n}.png")


def own_urls(port: str) -> list[str]:
    return [form.format(port=port, n=n) for n, form in enumerate(STRASSE + OTHERS)]


def served_pictures() -> LoopbackServer:
    return served({f"/{n}.png": answer(200, picture(n)) for n in range(NUM_ROWS)})


def test_a_host_is_looked_up_by_idna_2008(names: list[str], tmp_path: Path) -> None:
    with served_pictures() as server:
        rows = fetch_list(tmp_path, own_urls(server.url.rpartition(":")[2]))
    assert [row["reason"] for row in rows] == [None] * len(rows)
    asked = {name.rstrip(".") for name in names}
    assert asked == {"xn--strae-oqa.de", "bilder.xn--strae-oqa.de", "strasse.de"}


@pytest.mark.parametrize("entry", ["straße.de", "XN--STRAE-OQA.DE", "*.stra%C3%9Fe.de."])
def test_a_block_list_means_the_host_that_is_fetched(
    entry: str, names: list[str], tmp_path: Path
) -> None:
    (tmp_path / "domains.txt").write_text(f"{entry}\n")
    with served_pictures() as server:
        urls = own_urls(server.url.rpartition(":")[2])
        rows = fetch_list(tmp_path, urls, block={"domains": str(tmp_path / "domains.txt")})
        assert set(server.hits) == {f"/{n}.png" for n in range(len(STRASSE), len(urls))}
    reasons = [row["reason"] for row in rows]
    assert reasons == ["domain_blocked"] * len(STRASSE) + [None] * len(OTHERS)
    assert set(names) == {"strasse.de"}


def test_a_blocked_url_is_blocked_in_every_form(tmp_path: Path) -> None:
    with served(
        {"/own.png": answer(200, OWN), "/other.png": redirect("\\a\\..\\own.png")}
    ) as server:
        (tmp_path / "urls.txt").write_text(f"{server.url}/own.png\n")
        port = server.url.rpartition(":")[2]
        urls = [form.format(port=port) for form in ODD_FORMS] + [f"{server.url}/other.png"]
        rows = fetch_list(tmp_path, urls, block={"urls": str(tmp_path / "urls.txt")})
        assert set(server.hits) == {"/other.png"}
    assert [row["reason"] for row in rows] == ["url_blocked"] * len(urls)


def test_a_domain_cap_counts_every_form_of_a_host(names: list[str], tmp_path: Path) -> None:
    with served_pictures() as server:
        rows = fetch_list(
            tmp_path,
            own_urls(server.url.rpartition(":")[2]),
            select={"rules": [{"domain_cap": {"num_images": 2}}]},
        )
    same = [row["reason"] for row, url in zip(rows, STRASSE, strict=False) if "bilder" not in url]
    assert same == [None] * 2 + ["domain_over_cap"] * (len(same) - 2)
    assert [row["reason"] for row in rows[len(STRASSE) :]] == [None] * len(OTHERS)


def test_a_takedown_by_domain_reaches_every_form_of_a_host(
    names: list[str], tmp_path: Path
) -> None:
    with served_pictures() as server:
        fetch_list(tmp_path, own_urls(server.url.rpartition(":")[2]))
    (tmp_path / "domains.txt").write_text("*.straße.de\n")
    run = tmp_path / "run"
    assert takedown.main([str(run), "--domains", str(tmp_path / "domains.txt")]) == 0
    reasons = read_ledger(run)["reason"].to_pylist()
    assert sorted(map(str, reasons)) == ["None"] * len(OTHERS) + ["taken_down"] * len(STRASSE)
    (tmp_path / "domains.txt").write_text("0.0.0.0 straße.de\n")
    assert takedown.main([str(run), "--domains", str(tmp_path / "domains.txt")]) == 2
