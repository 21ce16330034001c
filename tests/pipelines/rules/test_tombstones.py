"""What was taken down stays so, whatever its URL was normalised to at the time."""

import json
from pathlib import Path

import pytest

from pipelines.config import ConfigError
from pipelines.rules.tombstones import (
    TOMBSTONES_FILE,
    Tombstones,
    digest_of,
    read_tombstones,
    tombstones_of,
)
from pipelines.run.store import RunStore

# As version 0.1 stored them, for the URLs and domains below.
STORED_EARLIER = {
    "keys": [],
    "urls": [
        "2076a8b4240507c90d2235d0f1c04323",
        "b96fc7afaa16f1cea4144e5bfb612119",
        "dcf118c2799430d805a9faefb467c8ca",
    ],
    "domains": ["a273b9b4bbb01293e0148803d5da4989", "c8108f180ab99a1305759264b731087a"],
    "sha256": [],
}


def stored(folder: Path) -> Tombstones:
    store = RunStore(str(folder))
    store.replace(TOMBSTONES_FILE, json.dumps(STORED_EARLIER).encode())
    return read_tombstones(store)


@pytest.mark.parametrize(
    "url",
    [
        "http://Straße.de/a/../b.png?q='x'",
        "http:\\\\odd.example\\x",
        "http://a.example/%7Eb|c",
        "https://straße.de/other",
        "https://www.bücher.example/other",
        "https://xn--bcher-kva.example/",
    ],
)
def test_what_an_earlier_version_took_down_stays_hidden(url: str, tmp_path: Path) -> None:
    assert stored(tmp_path).hides_url(url)


def test_a_url_that_was_taken_down_with_its_signature_stays_hidden() -> None:
    url = "http://a.example/b?sign=0f3a9c5b&w=1"
    assert Tombstones(urls=frozenset([digest_of("urls", url)])).hides_url(url)
    assert tombstones_of(urls=[url]).hides_url(url)
    assert tombstones_of(urls=[url]).hides_url("http://a.example/b?sign=REDACTED&w=1")


def test_no_other_url_is_hidden(tmp_path: Path) -> None:
    tombstones = stored(tmp_path)
    for url in ("http://a.example/%7Eb", "http://odd.example/", "http://example/", "no url", ""):
        assert not tombstones.hides_url(url)


def test_domain_of_a_takedown_is_read_as_in_a_block_list() -> None:
    for entry in ("*.straße.de", "https://STRAßE.de/x", ".xn--strae-oqa.de."):
        tombstones = tombstones_of(domains=[entry])
        assert tombstones.hides_url("http://bilder.stra%C3%9Fe.de/x")
        assert not tombstones.hides_url("http://strasse.de/x")
    with pytest.raises(ConfigError, match=r"--domains: 'a\.example/x' is not a domain"):
        tombstones_of(domains=["a.example/x"])
