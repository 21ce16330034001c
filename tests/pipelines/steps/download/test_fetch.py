"""Every way a URL can go wrong, against a real server on loopback."""

import asyncio
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.demo.bad_answers import answer, good_jpeg, raw, redirect
from jobs.demo.bad_urls import BAD_URLS, ODD_BUT_GOOD, bad_url
from jobs.demo.server import LoopbackServer
from pipelines.rows.ledger import FETCH_REASONS
from pipelines.steps.download.failure import FetchFailed

FETCH_FAILURES = [name for name, bad in BAD_URLS.items() if bad.reason in FETCH_REASONS]


def failure_of(fetcher, url):
    with pytest.raises(FetchFailed) as caught:
        fetcher.fetch(url)
    return caught.value


@pytest.mark.parametrize("name", FETCH_FAILURES)
def test_bad_url_fails_for_the_right_reason(name, server, make_fetcher):
    reason = BAD_URLS[name].reason
    fetcher = make_fetcher(timeout_s=1.0 if reason == "download_timed_out" else 30.0)
    assert failure_of(fetcher, bad_url(name, server=server.url)).reason == reason


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_odd_url_gives_its_image_all_the_same(name, server, make_fetcher):
    with make_fetcher().fetch(f"{server.url}/bad/{name}") as fetched:
        assert fetched.data == good_jpeg()


def test_final_url_and_sha256_are_recorded(server, make_fetcher):
    fetched = make_fetcher().fetch(f"{server.url}/bad/redirect_to_good#part")
    assert fetched.final_url == f"{server.url}/bad/good"
    assert len(fetched.sha256) == 64


@pytest.mark.parametrize(
    ("name", "tries"),
    [
        ("not_found", 1),
        ("gone", 1),
        ("forbidden", 1),
        ("login", 1),
        ("bad_request", 1),
        ("opted_out", 1),
        ("huge_declared", 1),
        ("no_header", 2),
        ("rate_limited_for_an_hour", 1),
        ("redirect_to_metadata", 1),
        ("always_failing", 3),
        ("always_rate_limited", 3),
        ("closes_at_once", 3),
        ("closes_in_body", 3),
    ],
)
def test_only_what_can_pass_is_tried_again(name, tries, make_fetcher):
    with LoopbackServer() as server:
        failure_of(make_fetcher(retries=2), f"{server.url}/bad/{name}")
        assert server.hits[f"/bad/{name}"] == tries


def test_no_byte_of_the_server_is_in_a_message(server, make_fetcher):
    failure = failure_of(make_fetcher(), f"{server.url}/bad/no_header")
    assert "SECRET" not in str(failure)


def test_dripping_server_is_cut_at_the_deadline(server, make_fetcher):
    start = time.monotonic()
    failure_of(make_fetcher(timeout_s=1.0), f"{server.url}/bad/drip")
    # The server would go on for a day; half a minute is room for a busy machine.
    assert time.monotonic() - start < 30


def test_memory_is_bounded_by_the_cap_whatever_the_server_sends(server, make_fetcher):
    cap = 4 * 1024 * 1024
    fetcher = make_fetcher(max_bytes=cap)
    tracemalloc.start()
    try:
        for name in ("huge", "huge_chunked", "huge_declared"):
            assert failure_of(fetcher, f"{server.url}/bad/{name}").reason == "body_too_large"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The server runs in this process too, and keeps a block or two.
    assert peak < 6 * cap


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_body_may_be_as_large_as_the_cap_and_no_larger(framing, over, make_fetcher):
    cap = 300 * 1024  # above what is read without asking for room
    body = bytes(cap + over)
    heads = {
        "length": f"Content-Length: {len(body)}\r\n\r\n".encode() + body,
        "chunked": f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
        + body
        + b"\r\n0\r\n\r\n",
        "close": b"\r\n" + body,
    }
    handler = raw(b"HTTP/1.1 200 OK\r\n" + heads[framing])
    fetcher = make_fetcher(max_bytes=cap)
    with LoopbackServer(handlers={"/body": handler}) as server:
        if over:
            assert failure_of(fetcher, f"{server.url}/body").reason == "body_too_large"
        else:
            assert fetcher.fetch(f"{server.url}/body").data == body


def test_room_for_large_bodies_is_given_back_after_failures(make_fetcher):
    cut_off = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\nx")
    good = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\n" + bytes(60_000_000))
    fetcher = make_fetcher(max_bytes=64 * 1024 * 1024)
    with LoopbackServer(handlers={"/cut": cut_off, "/good": good}) as server:
        assert failure_of(fetcher, f"{server.url}/cut").reason == "body_truncated"
        for _ in range(2):
            with fetcher.fetch(f"{server.url}/good") as fetched:
                assert len(fetched.data) == 60_000_000


def test_name_that_changes_its_address_is_refused(server, make_fetcher):
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    asked = []

    def resolver(host, deadline):
        asked.append(host)
        return next(answers)

    fetcher = make_fetcher(resolver=resolver)
    port = server.url.rpartition(":")[2]
    url = f"http://rebinding.example:{port}/bad/good"  # this path closes its connection
    fetcher.fetch(url)
    assert failure_of(fetcher, url).reason == "address_refused"
    assert asked == ["rebinding.example"] * 2


def test_connection_goes_to_the_address_that_was_checked(server, make_fetcher):
    asked = []

    def resolver(host, deadline):
        asked.append(host)
        return ["169.254.169.254", "127.0.0.1"]

    port = server.url.rpartition(":")[2]
    fetcher = make_fetcher(resolver=resolver)
    fetcher.fetch(f"http://mixed.example:{port}/bad/redirect_to_good")
    assert set(asked) == {"mixed.example"}


def test_loopback_is_refused_unless_it_is_named(server, make_fetcher):
    fetcher = make_fetcher(allow_networks=())
    assert failure_of(fetcher, f"{server.url}/bad/good").reason == "address_refused"
    port = server.url.rpartition(":")[2]
    for host in ("localhost", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]"):
        failure = failure_of(fetcher, f"http://{host}:{port}/bad/good")
        assert failure.reason == "address_refused"


def test_proxy_of_the_environment_is_not_used(server, make_fetcher, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert make_fetcher().fetch(f"{server.url}/bad/good").data == good_jpeg()


def test_credentials_go_to_their_own_host_only(make_fetcher):
    seen = {}

    def recorder(name, then):
        async def record(request, reply):
            seen[name] = request.headers
            await then(request, reply)

        return record

    with LoopbackServer(handlers={"/x": recorder("other", answer(200, b"x"))}) as other:
        first = recorder("first", redirect("/again"))
        again = recorder("again", redirect(f"{other.url}/x"))
        with LoopbackServer(handlers={"/first": first, "/again": again}) as server:
            url = server.url.replace("//", "//user:pass@") + "/first"
            make_fetcher().fetch(url)
    assert seen["first"]["authorization"] == "Basic dXNlcjpwYXNz"
    assert seen["again"]["authorization"] == "Basic dXNlcjpwYXNz"
    assert "authorization" not in seen["other"]


def test_user_agent_is_the_configured_one(make_fetcher):
    seen = {}

    async def record(request, reply):
        seen.update(request.headers)
        await answer(200, b"x")(request, reply)

    with LoopbackServer(handlers={"/x": record}) as server:
        make_fetcher(user_agent="our-lab/1.0 (+mailto:a@b.example)").fetch(f"{server.url}/x")
    assert seen["user-agent"] == "our-lab/1.0 (+mailto:a@b.example)"
    assert seen["accept-encoding"] == "identity"


def test_host_gets_no_more_requests_at_once_than_its_cap(make_fetcher):
    now = most = 0

    async def count(request, reply):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.5)
        now -= 1
        await answer(200, b"x")(request, reply)

    # Eight answers of 0.5 s, two at a time, outlast the deadline: waiting our turn is not counted.
    fetcher = make_fetcher(max_per_host=2, timeout_s=1.7)
    with LoopbackServer(handlers={"/x": count}) as server, ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda _: fetcher.fetch(f"{server.url}/x").data, range(8)))
    assert bodies == [b"x"] * 8
    assert most == 2


def test_every_request_has_a_connection_of_its_own(make_fetcher):
    """Redirects within one row and the rows after one another alike."""
    asked = []

    def resolver(host, deadline):
        asked.append(host)
        return ["127.0.0.1"]

    fetcher = make_fetcher(resolver=resolver)
    with LoopbackServer(handlers={"/to": redirect("/x"), "/x": answer(200, b"x")}) as server:
        port = server.url.rpartition(":")[2]
        for _ in range(3):
            assert fetcher.fetch(f"http://files.example:{port}/to").data == b"x"
    assert len(asked) == 6


def test_waits_between_tries_double_and_depend_on_the_key_alone(server, make_fetcher, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("pipelines.steps.download.fetch.time.sleep", waits.append)

    def waits_for(key):
        waits.clear()
        with pytest.raises(FetchFailed):
            make_fetcher(backoff_s=0.1, retries=3).fetch(
                f"{server.url}/bad/always_failing", key=key
            )
        return list(waits)

    first = waits_for("a")
    assert [0.05 * 2**n <= wait <= 0.15 * 2**n for n, wait in enumerate(first)] == [True] * 3
    assert waits_for("a") == first
    assert waits_for("b") != first


def test_retry_after_is_waited_for(make_fetcher, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("pipelines.steps.download.fetch.time.sleep", waits.append)
    busy = answer(503, headers={"Retry-After": "7"})
    with LoopbackServer(handlers={"/busy": busy}) as server:
        failure_of(make_fetcher(retries=1), f"{server.url}/busy")
    assert waits == [7.0]


def test_name_server_that_never_answers_is_cut_at_the_deadline(make_fetcher, monkeypatch):
    never = threading.Event()

    def hang(*arguments, **options):
        never.wait(30)
        raise OSError("no answer")

    monkeypatch.setattr("pipelines.steps.download.resolver.socket.getaddrinfo", hang)
    try:
        failure = failure_of(make_fetcher(timeout_s=0.3), "http://slow.example/x.jpg")
    finally:
        never.set()
    assert failure.reason == "download_timed_out"
