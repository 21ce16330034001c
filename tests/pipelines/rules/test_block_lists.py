"""Block lists: what is on them is found however it is written, and nothing else is."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import ConfigError
from pipelines.rows.urls import normalise_url
from pipelines.rules.block_lists import BlockConfig, BlockList, load_block_list


def _load(tmp_path: Path, **lists: str | bytes) -> BlockList:
    paths = {}
    for name, content in lists.items():
        path = tmp_path / f"{name}.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        paths[name] = str(path)
    return load_block_list(BlockConfig(**paths))


@pytest.mark.parametrize(
    "url",
    [
        "http://bad.example/a.jpg",
        "https://BAD.example:8443/",
        "https://img.bad.example./x",
        "http://u:p@a.b.bad.example/x",
        "http://bücher.example/x",
        "http://www.xn--bcher-kva.example/x",
        "http://bücher。example/x",
        "http://star.example/x",
        "//bad.example/x",
        "http://b%61d.example/x",
    ],
)
def test_domain_blocks_itself_and_its_sub_domains(tmp_path: Path, url: str) -> None:
    blocked = _load(tmp_path, domains="# comment\nBad.Example.\n\nBÜCHER.example\n*.star.example\n")
    assert blocked.url_reason(url) == "domain_blocked"


@pytest.mark.parametrize(
    "url",
    [
        "http://notbad.example/",
        "http://bad.example.org/",
        "http://example/?bad.example",
        "http://a/bad.example",
        "http://[::1",
        "",
        None,
    ],
)
def test_other_hosts_are_not_blocked(tmp_path: Path, url: str | None) -> None:
    assert _load(tmp_path, domains="bad.example\n").url_reason(url) is None


@pytest.mark.parametrize(
    ("url", "blocked"),
    [
        ("http://a.example/x?y=1", True),
        ("HTTP://A.Example:80/x?y=1#z", True),
        ("http://u:p@a.example./x?y=1", True),
        ("https://a.example/x?y=1", False),
        ("http://a.example:81/x?y=1", False),
        ("http://a.example/X?y=1", False),
        ("http://a.example/x?y=2", False),
        ("https://b.example", True),
        ("https://b.example/?", True),
        ("https://c.example/é", True),
        ("https://c.example/%C3%A9", True),
        ("http://[", False),
    ],
)
def test_urls_are_compared_normalised(tmp_path: Path, url: str, blocked: bool) -> None:
    lists = _load(
        tmp_path,
        urls="http://a.example/x?y=1\nhttps://b.example/\nhttps://c.example/é\nnot a url\n",
    )
    assert lists.url_reason(url) == ("url_blocked" if blocked else None)
    assert lists.url_reasons(pa.array([url, None])).to_pylist() == [
        "url_blocked" if blocked else None,
        None,
    ]


@given(st.text())
def test_any_text_normalises_without_an_error_and_once_is_enough(text: str) -> None:
    for url in (text, f"http://{text}", f"http://a/{text}"):
        once = normalise_url(url)
        assert normalise_url(once) == once


DIGESTS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(200)]


@pytest.mark.parametrize(
    "content",
    [
        "".join(f"{digest}\n" for digest in DIGESTS),
        "\r\n".join(["# known", "", *[digest.upper() for digest in DIGESTS]]),
        "\n".join(DIGESTS * 2),
    ],
)
def test_sha256_is_found_among_many(tmp_path: Path, content: str) -> None:
    blocked = _load(tmp_path, sha256=content)
    assert len(blocked.sha256) == len(DIGESTS)
    assert all(blocked.sha256_blocked(digest) for digest in DIGESTS)
    assert not blocked.sha256_blocked("0" * 64)
    assert not blocked.sha256_blocked("f" * 64)


def test_digests_that_end_in_zero_bytes_are_kept_apart(tmp_path: Path) -> None:
    blocked = _load(tmp_path, sha256="ab" + "0" * 62)
    assert blocked.sha256_blocked("ab" + "0" * 62)
    assert not blocked.sha256_blocked("ab" + "0" * 61 + "1")


def test_parquet_and_compressed_lists_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sha256": [*DIGESTS, None]}), tmp_path / "s.parquet")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfbad.example\n"))
    blocked = load_block_list(
        BlockConfig(sha256=str(tmp_path / "s.parquet"), domains=str(tmp_path / "d.txt.gz"))
    )
    assert blocked.sha256_blocked(DIGESTS[0])
    assert blocked.url_reason("http://bad.example/") == "domain_blocked"


def test_digest_follows_the_entries_and_not_their_order(tmp_path: Path) -> None:
    first = _load(tmp_path, domains="a\nb\n", sha256=f"{DIGESTS[0]}\n{DIGESTS[1]}\n")
    same = _load(tmp_path, domains="B.\na\na\n", sha256=f"{DIGESTS[1]}\n{DIGESTS[0]}\n")
    other = _load(tmp_path, domains="a\n", sha256=f"{DIGESTS[0]}\n{DIGESTS[1]}\n")
    assert first.digest == same.digest != other.digest
    assert load_block_list(BlockConfig()).digest == ""
    assert _load(tmp_path, urls="a\n").digest != _load(tmp_path, domains="a\n").digest


def test_no_lists_block_nothing() -> None:
    none = load_block_list(BlockConfig())
    assert none.url_reason("http://a/") is None
    assert none.url_reasons(pa.array(["http://a/"])).to_pylist() == [None]
    assert not none.sha256_blocked(DIGESTS[0])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"sha256": f"{DIGESTS[0]}\nabc\n"}, r"sha256\.txt: 'abc' is not a sha256 digest"),
        ({"sha256": "g" * 64 + "\n"}, "is not a sha256 digest"),
        ({"sha256": b"\xff\xfe" * 40}, "is not a sha256 digest"),
        ({"domains": "a.example/path\n"}, "'a.example/path' is not a domain"),
        ({"domains": b"\xff\n"}, r"domains\.txt: line 1 is not UTF-8"),
        ({"urls": "http://a/\n".encode("utf-16-le")}, r"urls\.txt: line 1 has NUL bytes"),
    ],
)
def test_entry_that_is_none_is_an_error_with_its_file(
    tmp_path: Path, lists: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, **lists)


def test_lines_that_end_in_a_carriage_return_alone_are_entries(tmp_path: Path) -> None:
    blocked = _load(tmp_path, domains="# old Mac\rone.example\rtwo.example", urls="http://a/\r#\r")
    for url in ("http://one.example/", "http://two.example/", "http://a/"):
        assert blocked.url_reason(url) is not None


def test_missing_list_is_an_error_never_an_empty_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"block\.sha256 .*none\.txt: cannot be read"):
        load_block_list(BlockConfig(sha256=str(tmp_path / "none.txt")))
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "u.parquet")
    with pytest.raises(ConfigError, match="one column, got: a, b"):
        load_block_list(BlockConfig(urls=str(tmp_path / "u.parquet")))
