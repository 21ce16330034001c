"""Answers that bend HTTP: what browsers read is read, what could cut or mix bodies is not."""

import asyncio
import tracemalloc

import pytest

from jobs.demo.bad_answers import answer, good_jpeg, raw, redirect
from jobs.demo.exchange import Handler, Reply, Request
from jobs.demo.server import LoopbackServer
from pipelines.steps.download.failure import FetchFailed

PICTURE = good_jpeg()
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(PICTURE)


def chunked(body: bytes, *, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n0\r\n\r\n" % (len(body), extension, body)


READ = {
    "plain": OK + LENGTH + b"\r\n" + PICTURE,
    "no_length": OK + b"\r\n" + PICTURE,
    "bare_line_feeds": b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(PICTURE) + PICTURE,
    "two_carriage_returns": b"HTTP/1.1 200 OK\r\r\n\r\r\n" + PICTURE,
    "no_reason_phrase": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + PICTURE,
    "spaces_for_a_reason": b"HTTP/1.1 200  \r\n" + LENGTH + b"\r\n" + PICTURE,
    "http_1_0": b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,
    "http_1_2": b"HTTP/1.2 200 OK\r\n" + LENGTH + b"\r\n" + PICTURE,
    "line_before_the_status": b"\r\n" + OK + LENGTH + b"\r\n" + PICTURE,
    "lines_before_the_status": b"\n\r\n" + OK + LENGTH + b"\r\n" + PICTURE,
    "space_before_the_colon": OK + b"Content-Length : %d\r\n\r\n" % len(PICTURE) + PICTURE,
    "tab_before_the_colon": OK + b"Content-Length\t:%d\r\n\r\n" % len(PICTURE) + PICTURE,
    "no_space_after_the_colon": OK + b"Content-Length:%d\r\n\r\n" % len(PICTURE) + PICTURE,
    "no_colon": OK + b"Nonsense\r\n" + LENGTH + b"\r\n" + PICTURE,
    "nameless_header": OK + b": x\r\n" + LENGTH + b"\r\n" + PICTURE,
    "illegal_name": OK + b"Bad (Name): x\r\n" + LENGTH + b"\r\n" + PICTURE,
    "name_in_latin_1": OK + b"Gr\xf6\xdfe: x\r\n" + LENGTH + b"\r\n" + PICTURE,
    "value_in_latin_1": OK + b"X-Title: gr\xfcn\r\n" + LENGTH + b"\r\n" + PICTURE,
    "value_with_a_null": OK + b"X-Odd: a\x00b\r\n" + LENGTH + b"\r\n" + PICTURE,
    "carriage_return_in_a_value": OK + b"X: a\rContent-Length: 5\r\n\r\n" + PICTURE,
    "folded_value": OK + b"X-Long: a\r\n  b: c\r\n" + LENGTH + b"\r\n" + PICTURE,
    "fold_before_any_header": OK + b" x: y\r\n" + LENGTH + b"\r\n" + PICTURE,
    "empty_length": OK + b"Content-Length:\r\n\r\n" + PICTURE,
    "length_that_is_no_number": OK + b"Content-Length: many\r\n\r\n" + PICTURE,
    "negative_length": OK + b"Content-Length: -1\r\n\r\n" + PICTURE,
    "same_length_twice": OK + LENGTH + LENGTH + b"\r\n" + PICTURE,
    "same_length_in_one_line": OK
    + b"Content-Length: %d, %d\r\n\r\n" % (len(PICTURE), len(PICTURE))
    + PICTURE,
    "two_lengths_first_right": OK + LENGTH + b"Content-Length: 5\r\n\r\n" + PICTURE,
    "two_lengths_second_right": OK + b"Content-Length: 5\r\n" + LENGTH + b"\r\n" + PICTURE,
    "length_beside_chunked": OK
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(PICTURE),
    "chunked_twice": OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + chunked(PICTURE),
    "chunked_and_a_space": OK + b"Transfer-Encoding:  Chunked \r\n\r\n" + chunked(PICTURE),
    "chunk_extension": OK
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + chunked(PICTURE, extension=b";a=b"),
    "chunked_by_http_1_0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(PICTURE),
    "identity": OK + b"Transfer-Encoding: identity\r\n" + LENGTH + b"\r\n" + PICTURE,
    "early_hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    + OK
    + LENGTH
    + b"\r\n"
    + PICTURE,
    "four_1xx": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nContent-Length: 3\r\n\r\n"
    + b"HTTP/1.1 103\r\n\r\nHTTP/1.1 199 What\r\n\r\n"
    + OK
    + LENGTH
    + b"\r\n"
    + PICTURE,
    "900_headers": OK + b"Set-Cookie: a=b\r\n" * 900 + LENGTH + b"\r\n" + PICTURE,
    "line_of_64_KiB": OK + b"X-Policy: " + b"x" * 65536 + b"\r\n" + LENGTH + b"\r\n" + PICTURE,
    "whole_range": b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-%d/%d\r\n"
    % (len(PICTURE) - 1, len(PICTURE))
    + LENGTH
    + b"\r\n"
    + PICTURE,
    "newline_after_the_body": OK + LENGTH + b"\r\n" + PICTURE + b"\n",
    "second_answer_at_once": (OK + LENGTH + b"\r\n" + PICTURE)
    + (OK + b"Content-Length: 5\r\n\r\nWRONG"),
}
"""Whole answers from which the picture must be read; the connection closes after each."""

REFUSED = {
    "no_head": (PICTURE, "http_malformed"),
    "http_0_9": (b"<html>hello\r\n\r\n</html>", "http_malformed"),
    "http_2": (b"HTTP/2.0 200 OK\r\n\r\n" + PICTURE, "http_malformed"),
    "status_that_is_no_number": (b"HTTP/1.1 fine OK\r\n\r\n" + PICTURE, "http_malformed"),
    "two_lengths_both_wrong": (
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + PICTURE,
        "http_malformed",
    ),
    "part_of_it": (
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-%d/99999\r\n" % (len(PICTURE) - 1)
        + LENGTH
        + b"\r\n"
        + PICTURE,
        "body_truncated",
    ),
    "length_too_large": (OK + b"Content-Length: 99999\r\n\r\n" + PICTURE, "body_truncated"),
    "only_1xx": (b"HTTP/1.1 103 Early Hints\r\n\r\n", "connection_failed"),
    "1xx_without_end": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000, "http_malformed"),
    "only_empty_lines": (b"\r\n" * 20, "connection_failed"),
    "not_modified": (b"HTTP/1.1 304 Not Modified\r\nLocation: /plain\r\n\r\n", "http_malformed"),
    "choice_without_location": (b"HTTP/1.1 300 Multiple Choices\r\n\r\nx", "http_not_found"),
    "use_proxy": (b"HTTP/1.1 305 Use Proxy\r\nLocation: /plain\r\n\r\n", "http_malformed"),
}


@pytest.fixture(scope="module")
def sloppy_server():
    handlers = {f"/{name}": raw(content) for name, content in READ.items()}
    handlers |= {f"/{name}": raw(content) for name, (content, _) in REFUSED.items()}
    with LoopbackServer(handlers=handlers) as server:
        yield server


def failure_of(fetcher, url):
    with pytest.raises(FetchFailed) as caught:
        fetcher.fetch(url)
    return caught.value


@pytest.mark.parametrize("name", READ)
def test_what_a_browser_reads_is_read(name, sloppy_server, make_fetcher):
    fetched = make_fetcher(retries=0, timeout_s=10).fetch(f"{sloppy_server.url}/{name}")
    assert fetched.data == PICTURE


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_wrong_is_refused_and_named(name, sloppy_server, make_fetcher):
    failure = failure_of(make_fetcher(retries=0, timeout_s=10), f"{sloppy_server.url}/{name}")
    assert failure.reason == REFUSED[name][1]


@pytest.mark.parametrize("status", [300, 304, 305])
def test_the_message_names_a_status_that_is_no_redirect(status, make_fetcher):
    with LoopbackServer(handlers={"/x": answer(status)}) as server:
        assert f"status {status}" in failure_of(make_fetcher(), f"{server.url}/x").message


def test_choice_with_a_preference_is_followed(make_fetcher):
    choice = answer(300, headers={"Location": "/good"})
    with LoopbackServer(handlers={"/x": choice, "/good": answer(200, PICTURE)}) as server:
        assert make_fetcher().fetch(f"{server.url}/x").data == PICTURE


def test_malformed_answer_is_asked_again_once_even_without_retries(make_fetcher):
    good = answer(200, PICTURE)

    def garbled_until(count: int) -> Handler:
        async def reply_late(request: Request, reply: Reply) -> None:
            await (good if request.count > count else raw(b"\x00garbage\r\n"))(request, reply)

        return reply_late

    handlers = {"/once": garbled_until(1), "/twice": garbled_until(2)}
    fetcher = make_fetcher(retries=0)
    with LoopbackServer(handlers=handlers) as server:
        assert fetcher.fetch(f"{server.url}/once").data == PICTURE
        assert failure_of(fetcher, f"{server.url}/twice").reason == "http_malformed"
        assert server.hits == {"/once": 2, "/twice": 2}


def test_opt_out_is_seen_wherever_it_stands_in_a_sloppy_head(make_fetcher):
    heads = (
        b"Nonsense\r\nX-Robots-Tag: noai\r\n",
        b"X-Robots-Tag : noai\r\n",
        b"X-Robots-Tag: all\r\nX-Robots-Tag: noai\r\n",
        b"X-Robots-Tag: all,\r\n noai\r\n",
        b"Bad Name: x\r\nx-robots-tag:NoAI\r\n",
        b"Set-Cookie: a=b\r\n" * 900 + b"X-Robots-Tag: noai\r\n",
    )
    handlers = {f"/{n}": raw(OK + head + b"\r\n" + PICTURE) for n, head in enumerate(heads)}
    with LoopbackServer(handlers=handlers) as server:
        for number in range(len(heads)):
            assert failure_of(make_fetcher(), f"{server.url}/{number}").reason == "opted_out"


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (b"/b\xfccher", "/b%FCcher"),  # Latin-1 goes back as it came
        ("/bücher".encode(), "/b%C3%BCcher"),
        (b"/a b", "/a%20b"),
        (b"  /a\t", "/a"),
        (b"\\a\\b", "/a/b"),
        (b"/a\r\n /b", "/a%20/b"),
        (b"./x/../y", "/y"),
    ],
)
def test_location_is_read_as_browsers_read_it(location, path, make_fetcher):
    seen = []

    async def send_on(request: Request, reply: Reply) -> None:
        await reply.write(b"HTTP/1.1 302 Found\r\nLocation:" + location + b"\r\n\r\n")

    async def record(request: Request, reply: Reply) -> None:
        seen.append(request.path)
        await answer(200, PICTURE)(request, reply)

    with LoopbackServer(handlers={"/x": send_on, path: record}) as server:
        make_fetcher(retries=0).fetch(f"{server.url}/x")
    assert seen == [path]


def test_head_that_drips_for_ever_is_cut_at_the_deadline(make_fetcher):
    async def hint(request: Request, reply: Reply) -> None:
        while await reply.write(b"HTTP/1.1 103 Early Hints\r\n\r\n"):
            await asyncio.sleep(0.05)

    with LoopbackServer(handlers={"/x": hint}) as server:
        failure = failure_of(make_fetcher(timeout_s=0.7), f"{server.url}/x")
    assert failure.reason == "download_timed_out"


def test_large_head_is_not_held(make_fetcher):
    head = (b"X-Filler: " + b"x" * 60_000 + b"\r\n") * 500
    handler = raw(OK + head + LENGTH + b"\r\n" + PICTURE)
    with LoopbackServer(handlers={"/x": handler}) as server:
        fetcher = make_fetcher()
        tracemalloc.start()
        try:
            assert fetcher.fetch(f"{server.url}/x").data == PICTURE
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2 * len(head)  # of which the server in this process holds one


def test_redirect_in_which_more_is_sent_leads_to_its_own_target(make_fetcher):
    """What a server sends beyond a redirect is no answer to the request that follows it."""
    stray = OK + b"Content-Length: 5\r\n\r\nWRONG"

    async def send_on(request: Request, reply: Reply) -> None:
        await redirect("/good")(request, reply)
        await reply.write(stray)
        await asyncio.sleep(30)

    handlers = {"/x": send_on, "/good": answer(200, PICTURE)}
    with LoopbackServer(handlers=handlers) as server:
        assert make_fetcher().fetch(f"{server.url}/x").data == PICTURE


def test_no_port_is_kept_after_a_request(make_fetcher):
    """A server is asked more often within a minute than a machine has ports."""
    fetcher = make_fetcher()
    with LoopbackServer(handlers={"/x": raw(READ["plain"], then_hang=True)}) as server:
        for _ in range(20):
            assert fetcher.fetch(f"{server.url}/x").data == PICTURE
        port = int(server.url.rpartition(":")[2])
        waiting = [line for line in connections_to(port) if line[3] == TIME_WAIT]
    assert not waiting


TIME_WAIT = "06"


def connections_to(port: int) -> list[list[str]]:
    with open("/proc/net/tcp") as table:
        lines = [line.split() for line in table][1:]
    return [line for line in lines if line[2].endswith(f":{port:04X}")]
