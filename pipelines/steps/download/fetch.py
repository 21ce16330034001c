"""One URL, its bytes: every hop checked, everything bounded, every failure named."""

import hashlib
import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from pipelines.steps.download.addresses import AddressPolicy
from pipelines.steps.download.answer import Answer
from pipelines.steps.download.body import BodyReader, truncated
from pipelines.steps.download.config import MAX_BODY_BYTES_IN_FLIGHT, DownloadConfig
from pipelines.steps.download.connection import Connection, Connector, Resolver
from pipelines.steps.download.failure import (
    FetchFailed,
    FetchReason,
    MalformedAnswer,
    is_part,
    is_redirect,
    status_failure,
)
from pipelines.steps.download.limits import ByteBudget, Deadline, HostSlots
from pipelines.steps.download.local_files import LocalFiles
from pipelines.steps.download.optout import is_opted_out
from pipelines.steps.download.resolver import SystemResolver
from pipelines.steps.download.target import Target, parse_target, redirect_target


@dataclass(kw_only=True)
class Fetched:
    """A body. Leave its `with` block, or call `release`, once the bytes are done with.

    Attributes:
        data: The body.
        sha256: Of the body, 64 hex digits.
        final_url: Where the last redirect led; may hold credentials, so redact it to store it.
    """

    data: bytes
    sha256: str
    final_url: str
    _reserved: int = 0
    _budget: ByteBudget | None = field(default=None, repr=False)

    def release(self) -> None:
        """Let others use the room this body took."""
        if self._budget is not None:
            self._budget.release(self._reserved)
            self._reserved = 0

    def __enter__(self) -> "Fetched":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class Fetcher:
    """Fetches URLs for all threads of a process.

    Args:
        config: Limits, manners and allowed networks.
        resolver: Name -> addresses; the system's by default.
        tls: The TLS settings; the system's certificates by default.
        url_reason: Why a redirect may not be followed: the block lists' `url_blocked` or
            `domain_blocked`, or None.
        files: Where paths of the list are read; they are no URLs by default.
    """

    def __init__(
        self,
        config: DownloadConfig,
        *,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        url_reason: Callable[[str], str | None] | None = None,
        files: LocalFiles | None = None,
    ) -> None:
        self._config = config
        self._files = files
        self._url_reason = url_reason
        self._connector = Connector(
            AddressPolicy(config.allow_networks),
            resolver=resolver or SystemResolver(),
            connect_timeout_s=config.connect_timeout_s,
            tls=tls,
        )
        self._hosts = HostSlots(config.max_per_host)
        self._budget = ByteBudget(MAX_BODY_BYTES_IN_FLIGHT)
        self._bodies = BodyReader(max_bytes=config.max_bytes, budget=self._budget)

    def fetch(self, url: str, *, key: str = "") -> Fetched:
        """Fetch a URL, following redirects and retrying what can pass.

        Args:
            key: The row's key; sets the jitter of the waits between tries.

        Raises:
            FetchFailed: With the reason of the last try.
        """
        deadline = Deadline(self._config.timeout_s)
        if self._files is not None and (path := self._files.path_of(url)) is not None:
            return self._read_file(self._files, path, url=url, deadline=deadline)
        target = parse_target(url)
        attempt = 0
        while True:
            try:
                return self._follow(target, deadline=deadline)
            except FetchFailed as failure:
                wait_s = max(self._backoff_s(key, attempt), failure.retry_after_s or 0.0)
                last_try = attempt >= self._config.retries or not deadline.allows(wait_s)
                if last_try or not failure.retryable:
                    raise
            time.sleep(wait_s)
            attempt += 1

    def _read_file(self, files: LocalFiles, path: str, *, url: str, deadline: Deadline) -> Fetched:
        reserved = self._budget.reserve(self._config.max_bytes, deadline=deadline)
        try:
            data = files.read(path)
        except BaseException:
            self._budget.release(reserved)
            raise
        return Fetched(
            data=data,
            sha256=hashlib.sha256(data).hexdigest(),
            final_url=url,
            _reserved=reserved,
            _budget=self._budget,
        )

    def _backoff_s(self, key: str, attempt: int) -> float:
        digest = hashlib.blake2b(f"{key}/{attempt}".encode(), digest_size=4).digest()
        jitter = int.from_bytes(digest) / 2**32
        return self._config.backoff_s * float(2**attempt) * (0.5 + jitter)

    def _follow(self, target: Target, *, deadline: Deadline) -> Fetched:
        for _ in range(self._config.max_redirects + 1):
            with self._hosts.slot(target.host, deadline=deadline):
                arrived = self._ask(target, deadline=deadline)
            if isinstance(arrived, Fetched):
                return arrived
            target = arrived
            reason = self._url_reason(target.url) if self._url_reason else None
            if reason is not None:
                raise FetchFailed(
                    cast(FetchReason, reason), "a redirect leads to what the block list has"
                )
        raise FetchFailed("too_many_redirects", f"more than {self._config.max_redirects}")

    def _ask(self, target: Target, *, deadline: Deadline) -> Fetched | Target:
        """One answer; where it is malformed, that to the same request on another connection."""
        try:
            return self._hop(target, deadline=deadline)
        except MalformedAnswer:
            return self._hop(target, deadline=deadline)

    def _hop(self, target: Target, *, deadline: Deadline) -> Fetched | Target:
        """One request on a connection of its own: the body, or where to go next."""
        connection = self._connector.connect(target, deadline=deadline)
        try:
            answer = self._send(connection, target, deadline=deadline)
            try:
                return self._read(answer, target=target, deadline=deadline)
            except TimeoutError:
                raise deadline.missed() from None
            except http.client.IncompleteRead:
                raise truncated() from None
            except (OSError, http.client.HTTPException, ValueError):
                raise FetchFailed(
                    "body_truncated", "the connection broke within the body", retryable=True
                ) from None
            finally:
                answer.close()
        finally:
            connection.close()

    def _send(self, connection: Connection, target: Target, *, deadline: Deadline) -> Answer:
        try:
            connection.send(self._head(target))
            return Answer(connection)
        except TimeoutError:
            raise deadline.missed() from None
        except OSError:
            raise FetchFailed(
                "connection_failed", "the host closed the connection", retryable=True
            ) from None
        except (http.client.HTTPException, ValueError):
            raise MalformedAnswer("the answer is not HTTP") from None

    def _head(self, target: Target) -> bytes:
        lines = [
            f"GET {target.path} HTTP/1.1",
            f"Host: {target.host_header}",
            f"User-Agent: {self._config.user_agent}",
            "Accept: image/*,*/*;q=0.8",
            "Accept-Encoding: identity",
            "Connection: close",
        ]
        if target.authorization:
            lines.append(f"Authorization: {target.authorization}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def _read(self, answer: Answer, *, target: Target, deadline: Deadline) -> Fetched | Target:
        status = answer.status
        if status < 400:
            self._check_opt_out(answer)
        location = answer.headers.get("Location")
        if is_redirect(status, location):
            return redirect_target(target, location)
        if not 200 <= status < 300:
            raise status_failure(answer)
        if is_part(status, answer.headers.get("Content-Range")):
            raise truncated()
        body = self._bodies.read(answer, deadline=deadline)
        return Fetched(
            data=body.content,
            sha256=hashlib.sha256(body.content).hexdigest(),
            final_url=target.url,
            _reserved=body.reserved,
            _budget=self._budget,
        )

    def _check_opt_out(self, answer: Answer) -> None:
        values = answer.headers.get_all("X-Robots-Tag")
        if values and is_opted_out(
            values,
            agent_token=self._config.user_agent_token,
            directives=self._config.honour_opt_out_directives,
        ):
            raise FetchFailed("opted_out", "X-Robots-Tag refuses this use")
