"""URLs taken apart."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.download.failure import FetchFailed
from pipelines.steps.download.target import parse_target, redirect_target


@pytest.mark.parametrize(
    ("url", "host_header", "path"),
    [
        ("http://Example.org", "example.org", "/"),
        ("https://example.org:443/a b?q=ü#top", "example.org", "/a%20b?q=%C3%BC"),
        ("http://example.org:8080/%41?x=%zz", "example.org:8080", "/%41?x=%zz"),
        ("http://bücher.example/x", "xn--bcher-kva.example", "/x"),
        ("http://[2606:4700::1111]:81/x", "[2606:4700::1111]:81", "/x"),
        (" http://example.org/x ", "example.org", "/x"),
    ],
)
def test_url_becomes_a_request(url, host_header, path):
    target = parse_target(url)
    assert (target.host_header, target.path) == (host_header, path)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "url_invalid"),
        ("example.org/x.jpg", "url_invalid"),
        ("http://", "url_invalid"),
        ("http://exa mple.org/", "url_invalid"),
        ("http://example.org:0/", "url_invalid"),
        ("http://example.org:port/", "url_invalid"),
        ("http://[::1/", "url_invalid"),
        ("http://" + "a" * 64 + ".org/", "url_invalid"),
        ("http://exam\x00ple.org/", "url_invalid"),
        ("http://example.org/" + "a" * (16 << 10), "url_too_long"),
        ("http://example.org/\ud800", "url_invalid"),
        ("http://exa$mple.org/", "url_invalid"),
        ("http://1.2.3.4.5/", "url_invalid"),
        ("file:///etc/passwd", "scheme_refused"),
        ("FILE:///etc/passwd", "scheme_refused"),
        ("data:text/plain,x", "scheme_refused"),
        ("gopher://example.org/", "scheme_refused"),
        ("javascript:alert(1)", "scheme_refused"),
    ],
)
def test_url_that_cannot_be_fetched_is_refused(url, reason):
    with pytest.raises(FetchFailed) as failure:
        parse_target(url)
    assert failure.value.reason == reason


def test_relative_redirect_keeps_origin_and_credentials():
    target = redirect_target(parse_target("http://user:pass@example.org/a/b"), "../c?d")
    assert target.path == "/c?d"
    assert target.authorization == "Basic dXNlcjpwYXNz"


@pytest.mark.parametrize(
    "location", ["http://elsewhere.org/", "//elsewhere.org/", "http://example.org:81/"]
)
def test_redirect_to_another_origin_takes_no_credentials_along(location):
    assert redirect_target(parse_target("http://u:p@example.org/"), location).authorization is None


def test_location_in_raw_utf8_is_understood():
    location = "/bücher".encode().decode("latin-1")
    assert redirect_target(parse_target("http://example.org/"), location).path == "/b%C3%BCcher"


@given(st.text(), st.text())
def test_any_text_is_a_target_or_a_named_failure(url, location):
    for prefix in ("", "http://"):
        with contextlib.suppress(FetchFailed):
            redirect_target(parse_target(prefix + url), location)


@given(st.text(), st.text())
def test_no_url_can_put_a_second_line_into_the_request(path, query):
    try:
        target = parse_target(f"http://u{path}:{query}@example.org/{path}?{query}")
    except FetchFailed:
        return
    sent = target.path + target.host_header + (target.authorization or "")
    assert sent.isascii()
    assert not {"\r", "\n"} & set(sent)
    assert " " not in target.path
