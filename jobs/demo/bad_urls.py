"""Every kind of bad URL, and the reason under which its row must be dropped."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class BadUrl:
    """A URL template (`{server}`, `{port}`) and the reason expected of it."""

    url: str
    reason: str


def _served(name: str, reason: str) -> BadUrl:
    return BadUrl(url=f"{{server}}/bad/{name}", reason=reason)


_SERVED: Final = {
    "not_found": "http_not_found",
    "gone": "http_gone",
    "forbidden": "http_forbidden",
    "login": "http_forbidden",
    "legal": "http_forbidden",
    "bad_request": "http_client_error",
    "always_rate_limited": "http_rate_limited",
    "rate_limited_for_an_hour": "http_rate_limited",
    "always_failing": "http_server_error",
    "unknown_status": "http_malformed",
    "drip": "download_timed_out",
    "drip_header": "download_timed_out",
    "silent": "download_timed_out",
    "stalled_body": "download_timed_out",
    "closes_at_once": "connection_failed",
    "closes_in_body": "body_truncated",
    "no_header": "http_malformed",
    "endless_line": "http_malformed",
    "too_many_headers": "http_malformed",
    "lying_chunk": "body_truncated",
    "negative_chunk": "body_truncated",
    "chunk_cut_off": "body_truncated",
    "huge": "body_too_large",
    "huge_chunked": "body_too_large",
    "huge_declared": "body_too_large",
    "empty": "empty_body",
    "no_content": "empty_body",
    "redirect_loop": "too_many_redirects",
    "redirect_to_metadata": "address_refused",
    "redirect_to_private": "address_refused",
    "redirect_to_ipv6_loopback": "address_refused",
    "redirect_to_decimal": "address_refused",
    "redirect_to_octal": "address_refused",
    "redirect_to_hexadecimal": "address_refused",
    "redirect_to_mapped": "address_refused",
    "redirect_to_nat64": "address_refused",
    "redirect_to_6to4": "address_refused",
    "redirect_twice_to_metadata": "address_refused",
    "redirect_to_file": "scheme_refused",
    "redirect_to_data": "scheme_refused",
    "redirect_to_ftp": "scheme_refused",
    "redirect_without_location": "redirect_invalid",
    "redirect_to_nonsense": "redirect_invalid",
    "opted_out": "opted_out",
    "opted_out_noml": "opted_out",
    "opted_out_for_us": "opted_out",
    "opted_out_redirect": "opted_out",
    "html": "format_unsupported",
    "html_called_jpeg": "format_unsupported",
    "svg": "format_unsupported",
    "truncated_jpeg": "image_truncated",
    "png_bomb": "too_many_pixels",
    "thin_png": "aspect_above_max",
}

BAD_URLS: Final[dict[str, BadUrl]] = {
    "metadata": BadUrl(url="http://169.254.169.254/latest/meta-data/", reason="address_refused"),
    "metadata_decimal": BadUrl(url="http://2852039166/", reason="address_refused"),
    "metadata_ipv6": BadUrl(url="http://[fd00:ec2::254]/", reason="address_refused"),
    "private": BadUrl(url="http://192.168.0.1/router.jpg", reason="address_refused"),
    "unspecified": BadUrl(url="http://0/x.jpg", reason="address_refused"),
    "file": BadUrl(url="file:///etc/passwd", reason="scheme_refused"),
    "data": BadUrl(url="data:image/png;base64,iVBORw0KGgo=", reason="scheme_refused"),
    "ftp": BadUrl(url="ftp://127.0.0.1/x.jpg", reason="scheme_refused"),
    "no_scheme": BadUrl(url="//127.0.0.1/x.jpg", reason="url_invalid"),
    "no_host": BadUrl(url="http:///", reason="url_invalid"),
    "bad_port": BadUrl(url="http://127.0.0.1:99999/x.jpg", reason="url_invalid"),
    "header_injection": BadUrl(url="{server}/x\r\nX-Injected: 1", reason="http_not_found"),
    "unresolvable": BadUrl(url="http://nowhere.invalid/x.jpg", reason="dns_failed"),
    "closed_port": BadUrl(url="http://127.0.0.1:1/x.jpg", reason="connection_failed"),
    "tls_on_a_plain_port": BadUrl(url="https://127.0.0.1:{port}/x.jpg", reason="tls_failed"),
    **{name: _served(name, reason) for name, reason in _SERVED.items()},
}
"""Name -> bad URL. Those without `{server}` need none; all expect 127.0.0.0/8 to be allowed."""

ODD_BUT_GOOD: Final = (
    "rate_limited_once",
    "failing_once",
    "redirect_to_good",
    "other_agent_opted_out",
    "good",
)
"""Names under `/bad/` that a fetch must get an image from all the same."""


def bad_url(name: str, *, server: str) -> str:
    """The URL of one of `BAD_URLS` on a running server.

    Args:
        server: The server's URL, such as http://127.0.0.1:8000.
    """
    return BAD_URLS[name].url.format(server=server, port=urlsplit(server).port)
