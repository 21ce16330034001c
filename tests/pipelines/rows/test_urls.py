"""A URL's host and normal form are one thing, whoever asks."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rows.urls import normalise_host, normalise_url, parse_url, url_host
from pipelines.steps.download.failure import FetchFailed
from pipelines.steps.download.target import parse_target
from pipelines.steps.select.urls import comparable_urls, domains

URLS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(
        ["http://", "https://", "HTTP:\\\\", "http:/", "//", "", " http://u:p@", "ftp://"]
    ),
    st.one_of(
        st.sampled_from(
            ["a.example", "www.A.example.", "straße.de", "0x7f.1", "10", "[::1]", "xn--a"]
        ),
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.from_regex(r"[a-z0-9._%-]{1,12}", fullmatch=True),
    ),
    st.sampled_from(["", ":80", ":443", ":8080", ":x"]),
    st.one_of(
        st.sampled_from(
            ["", "/", "/a/../b", "/.", "/%2E/x", "?", "/a?b='c'", "\\x", "/a#b", "/~a|b"]
        ),
        st.from_regex(r"/[a-z./%2eE?'~-]{0,12}", fullmatch=True),
        st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: f"/{text}"),
    ),
)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://Straße.DE:80/ä?ü#x", "http://xn--strae-oqa.de/%C3%A4?%C3%BC"),
        ("http://faß.example./", "http://xn--fa-hia.example/"),
        ("http:/0x7f.1/a/../b", "http://127.0.0.1/b"),
        ("https://u:p@EXAMPLE.org:443", "https://example.org/"),
        ("http:\\\\a.example\\b c?", "http://a.example/b%20c"),
        ("\ufeffhttp://a\t.exa\r\nmple/\u3000", "http://a.example/"),
        ("http://a.example/a|b", "http://a.example/a%7Cb"),
        ("http://ａ．example/", "http://a.example/"),
        ("  no url ", "no url"),
        ("http://a b/", "http://a b/"),
    ],
)
def test_url_has_one_normal_form(url: str, normal: str) -> None:
    assert normalise_url(url) == normal
    assert normalise_url(normal) == normal


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("Straße.de", "xn--strae-oqa.de"),
        ("xn--strae-oqa.de.", "xn--strae-oqa.de"),
        ("日本。jp", "xn--wgv71a.jp"),
        ("2130706433", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("a.example/x", ""),
        ("a.example:80", ""),
        ("0.0.0.0 a.example", ""),
        ("u@a.example", ""),
        ("", ""),
        (".", ""),
    ],
)
def test_host_name_has_one_normal_form(name: str, host: str) -> None:
    assert normalise_host(name) == host


@given(URLS)
def test_columns_are_read_as_single_urls_are(url: str) -> None:
    urls = pa.array([url, None], pa.string())
    assert comparable_urls(urls).to_pylist() == [normalise_url(url), None]
    assert domains(urls).to_pylist() == [url_host(url).removeprefix("www.") or None, None]


@given(URLS)
def test_what_is_fetched_is_what_lists_and_caps_speak_of(url: str) -> None:
    try:
        target = parse_target(url)
    except FetchFailed:
        return
    assert url_host(url) == target.host.rstrip(".")
    assert normalise_url(url) == normalise_url(target.url)
    assert normalise_host(target.host) == url_host(url)
    assert parse_url(target.url).path == parse_url(url).path
