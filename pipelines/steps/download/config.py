"""What a user may set about fetching."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from pipelines.config import Config
from pipelines.rules.before_fetch import known_before_fetch
from pipelines.rules.table import AnyRule

MAX_BODY_BYTES_IN_FLIGHT = 96 * 1024 * 1024
"""Bytes of bodies one process may hold at a time; also the largest `max_bytes`."""

DEFAULT_USER_AGENT = "latent-foundry/0.1 (+https://example.org/about-latent-foundry)"


def _network(text: str) -> str:
    """Accept a CIDR such as 127.0.0.0/8; a host bit that is set is an error."""
    ip_network(text)
    return text


def _header_text(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("only printable ASCII can be sent in a header")
    return text


def _lower_words(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in words)


class DownloadConfig(Config):
    """How URLs are fetched; by default from public addresses alone."""

    rules: tuple[Annotated[AnyRule, AfterValidator(known_before_fetch)], ...] = ()
    """In order, before anything is fetched; by what is known then: the list's own columns, block
    lists, the facts of captions."""
    allow_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(),
        description="Networks in CIDR form, such as 127.0.0.0/8, that may be fetched from although"
        " they are not public",
    )
    timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Deadline of a URL: DNS, connections, redirects, body and retries together",
    )
    connect_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Longest wait for one address to accept a connection",
    )
    max_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=1024,
        le=MAX_BODY_BYTES_IN_FLIGHT,
        description="Largest body in bytes, as received and decoded; a longer one is cut off and"
        " the row dropped",
    )
    max_redirects: int = Field(default=5, ge=0, le=20, description="Redirects followed for a URL")
    retries: int = Field(
        default=2, ge=0, le=10, description="Further tries after a failure that can pass"
    )
    backoff_s: float = Field(
        default=0.5,
        ge=0,
        le=60,
        description="Wait before the first retry; doubles each time, with jitter from the key",
    )
    threads: int = Field(default=32, ge=1, le=512, description="Concurrent fetches of one process")
    max_per_host: int = Field(
        default=32, ge=1, le=512, description="Concurrent fetches of one process from one host"
    )
    user_agent: Annotated[str, AfterValidator(_header_text)] = Field(
        default=DEFAULT_USER_AGENT,
        min_length=1,
        description="Sent with every request; say who you are and where you can be reached",
    )
    user_agent_token: Annotated[str, AfterValidator(_header_text)] = Field(
        default="latent-foundry",
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="Our name in an X-Robots-Tag that speaks to one agent only",
    )
    honour_opt_out_directives: Annotated[tuple[str, ...], AfterValidator(_lower_words)] = Field(
        default=("noai", "noimageai", "noindex", "noimageindex", "noml"),
        description="X-Robots-Tag directives that refuse a row; an empty list honours none",
    )
