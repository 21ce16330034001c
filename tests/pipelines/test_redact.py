"""Redaction: the secret goes, the rest of the URL stays."""

import string
from urllib.parse import quote

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.redact import redact_config, redact_text_column, redact_url_column
from sd_core.redact import redact_text, redact_url
from sd_core.secret_names import is_secret_name

SECRET_NAMES = (
    *("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "sig"),
    *("Signature", "Policy", "Key-Pair-Id", "token", "access_token", "apiKey", "api-key", "key"),
    *("client_secret", "password", "passwd", "AWSAccessKeyId", "GoogleAccessId", "auth_key"),
    *("sessionToken", "jsessionid", "hdnts", "%74oken", "SIG"),
)
SECRETS = st.text(string.ascii_letters + string.digits + "-_.~!$'()*+,:@/", min_size=1).map(
    lambda text: f"s3cr3t{text}s3cr3t"
)


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://a.example/b.jpg?w=1&h=2#x", "https://a.example/b.jpg?w=1&h=2#x"),
        ("https://u:p@a.example/b.jpg", "https://REDACTED@a.example/b.jpg"),
        ("https://user@a.example:80/b.jpg", "https://REDACTED@a.example:80/b.jpg"),
        ("http://u:p/q@a.example/b", "http://REDACTED@a.example/b"),
        ("http://u:p@a.example/@user", "http://REDACTED@a.example/@user"),
        ("http:/u:p@a.example/b", "http:/REDACTED@a.example/b"),
        ("http:///u:p@a.example/b", "http:///REDACTED@a.example/b"),
        ("http:\\\\u:p@a.example/b", "http:\\\\REDACTED@a.example/b"),
        ("//u:p@a.example/b", "//REDACTED@a.example/b"),
        ("https://a.example/?u=//u:p@b.example/", "https://a.example/?u=//REDACTED@b.example/"),
        ("https://a.example//img@2x.jpg?i=/y@2x.jpg", "https://a.example//img@2x.jpg?i=/y@2x.jpg"),
        ("u:p@a.example/b", "REDACTED@a.example/b"),
        ("ftp://u:p@[::1]:21/b", "ftp://REDACTED@[::1]:21/b"),
        ("https://a.example/@user/b.jpg", "https://a.example/@user/b.jpg"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("http://a.example:80/a@b", "http://a.example:80/a@b"),
        ("https://a.example/b?keyword=x&monkey=y", "https://a.example/b?keyword=x&monkey=y"),
        ("https://a.example/b?w=1&sig=Zm9v&h=2", "https://a.example/b?w=1&sig=REDACTED&h=2"),
        ("https://a.example/b?x&amp;token=1", "https://a.example/b?x&amp;token=REDACTED"),
        ("https://a.example/b#access_token=1", "https://a.example/b#access_token=REDACTED"),
        ("https://a.example/b;jsessionid=9", "https://a.example/b;jsessionid=REDACTED"),
        (
            "https://p.example/https://u:p@a.example/b",
            "https://p.example/https://REDACTED@a.example/b",
        ),
        ("https://a.example/b?token=", "https://a.example/b?token="),
        ("http:/\t/u:p@a.example/b", "http://REDACTED@a.example/b"),
        ("ht\ntp://us\ter:p\r\n@a.example/b", "http://REDACTED@a.example/b"),
        ("http://us er:p w@a.example/b", "http://REDACTED@a.example/b"),
        ("http:u:p w@a.example/b", "REDACTED@a.example/b"),
        ("https://a.example/b?to\tken=1&w=2", "https://a.example/b?token=REDACTED&w=2"),
        ("https://a.example/b?my token=1", "https://a.example/b?my token=REDACTED"),
        ("https://a.example/a\tb?w=2", "https://a.example/a\tb?w=2"),
        ("\u00a0https://u:p@a.example/b", "\u00a0https://REDACTED@a.example/b"),
        ("http://[", "http://["),
        ("", ""),
    ],
)
def test_url_keeps_all_but_its_secrets(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted
    assert redact_url_column(pa.array([url])).to_pylist() == [redacted]


def test_a_url_within_a_query_value_is_redacted_too() -> None:
    inner = quote("https://u:p@a.example/b?token=abc&w=1", safe="")
    redacted = redact_url(f"https://p.example/?url={inner}&w=3")
    expected = quote("https://REDACTED@a.example/b?token=REDACTED&w=1", safe="")
    assert redacted == f"https://p.example/?url={expected}&w=3"


@pytest.mark.parametrize("name", SECRET_NAMES)
@settings(max_examples=20)
@given(secret=SECRETS, before=st.sampled_from(["", "w=1&", "w=1;", "a&", "&"]))
def test_no_signed_value_survives(name: str, secret: str, before: str) -> None:
    for url in (
        f"https://a.example/b.jpg?{before}{name}={secret}&h=2",
        f"https://p.example/?u={quote(f'https://a.example/?{before}{name}={secret}', safe='')}",
    ):
        redacted = redact_url(url)
        assert "s3cr3t" not in redacted
        assert redact_url_column(pa.array([url])).to_pylist() == [redacted]
    assert redact_url(f"https://a.example/?{before}{name}={secret}&h=2").endswith("&h=2")


@given(
    user=SECRETS,
    password=SECRETS,
    scheme=st.sampled_from(["http", "HTTPS", "s3", "ftp"]),
    path=st.text(string.ascii_letters + "/.%@", max_size=20),
)
def test_no_user_information_survives(user: str, password: str, scheme: str, path: str) -> None:
    if "/" in password:  # with an `@` before the `/` it reads as another host's path
        password = password.replace("@", "")
    url = f"{scheme}://{user.replace('/', '')}:{password}@a.example/{path}"
    assert "s3cr3t" not in redact_url(url)
    assert "s3cr3t" not in redact_text(f"see {url} there")


@given(st.text(), st.text())
def test_any_text_is_redacted_without_an_error_and_once_is_enough(text: str, more: str) -> None:
    for candidate in (text, f"http://{text}?{more}={text}", f"//{more}@{text}"):
        once = redact_url(candidate)
        assert redact_url(once) == once


@given(
    st.lists(st.one_of(st.none(), st.from_regex(r"https?://[a-z@:/?&=;#%0-9.]*", fullmatch=True)))
)
def test_columns_are_redacted_as_single_urls_are(urls: list[str | None]) -> None:
    expected = [url if url is None else redact_url(url) for url in urls]
    assert redact_url_column(pa.array(urls, pa.string())).to_pylist() == expected


def test_text_column_redacts_urls_and_leaves_prose() -> None:
    texts = ["token=1 is prose", "see (https://u:p@a.example/b?sig=1).", None, "a@b.example"]
    redacted = redact_text_column(pa.chunked_array([texts[:2], texts[2:]])).to_pylist()
    assert redacted[0] == texts[0]
    assert redacted[1] == "see (https://REDACTED@a.example/b?sig=REDACTED"
    assert redacted[2:] == texts[2:]


def test_config_keeps_options_and_loses_secrets() -> None:
    config = {
        "source": {
            "path": "s3://u:p@bucket/list.parquet",
            "storage_options": {"key": "AKIA", "connection_string": "AccountKey=x", "anon": False},
            "auth": {"secret": "x", "password": 1234},
        },
        "model": {"tokenizer": "clip", "token_length": 77, "hub_token": "hf_x", "key": None},
        "urls": ["https://a.example/?sig=x", 3, None],
    }
    assert redact_config(config) == {
        "source": {
            "path": "s3://REDACTED@bucket/list.parquet",
            "storage_options": {
                "key": "REDACTED",
                "connection_string": "REDACTED",
                "anon": "REDACTED",
            },
            "auth": "REDACTED",
        },
        "model": {"tokenizer": "clip", "token_length": 77, "hub_token": "REDACTED", "key": None},
        "urls": ["https://a.example/?sig=REDACTED", 3, None],
    }


@pytest.mark.parametrize("name", ["w", "keyword", "keys_of", "tokenize", "passage", "design", "id"])
def test_ordinary_parameters_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)
