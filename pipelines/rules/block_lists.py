"""Block lists: URLs and domains that are never fetched, contents (sha256) that are never kept."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import Config, ConfigError, unreadable
from pipelines.rows.urls import normalise_host, normalise_url, url_host
from sd_core.git_lfs import POINTER_TOLD, is_pointer
from sd_core.redact import CREDENTIALS_TOLD, names_credentials, redact_url

_CHUNK_BYTES = 65 << 16  # a multiple of a hex digest and its line feed
_URL_HASH_BYTES = 16
# ValueError and ImportError: fsspec knows no such protocol, or lacks its package.
_UNREADABLE = (OSError, ValueError, ImportError, pa.ArrowException)

Digests = npt.NDArray[np.bytes_]


class BlockConfig(Config):
    """Files of what is refused: one entry a line (`#` starts a comment), or one Parquet column."""

    urls: str | None = None
    """URLs that are not fetched, nor kept where a redirect leads to one; compared as browsers read
    them."""
    domains: str | None = None
    """Hosts that are not fetched; a domain stands for its sub-domains too."""
    sha256: str | None = None
    """Hex digests of image files as downloaded."""


@dataclass(frozen=True, kw_only=True)
class BlockList:
    """What is refused, ready to ask.

    Attributes:
        urls: Sorted 16-byte hashes of the normalised URLs.
        domains: Normalised host names.
        sha256: Sorted digests, 32 bytes each; 100 million take 3.2 GB.
        digest: Changes with the entries, not with their order or files; "" where there are none.
    """

    urls: Digests
    domains: frozenset[str]
    sha256: Digests
    digest: str

    def url_reason(self, url: str | None) -> str | None:
        """`url_blocked`, `domain_blocked` or None; ask again for the URL after redirects."""
        if url is None or not (len(self.urls) or self.domains):
            return None
        if len(self.urls) and _holds(self.urls, _url_hash(url)):
            return "url_blocked"
        host = url_host(url) if self.domains else ""
        while host:
            if host in self.domains:
                return "domain_blocked"
            host = host.partition(".")[2]
        return None

    def url_reasons(self, urls: pa.Array) -> pa.Array:
        """`url_reason` of each row, null where it is not blocked."""
        if not (len(self.urls) or self.domains):
            return pa.nulls(len(urls), pa.string())
        return pa.array([self.url_reason(url) for url in urls.to_pylist()], pa.string())

    def sha256_blocked(self, digest: str) -> bool:
        """Whether content of this hex sha256 is refused."""
        return len(self.sha256) > 0 and _holds(self.sha256, bytes.fromhex(digest))


def load_block_list(
    config: BlockConfig, *, option: str = "block", storage_options: dict[str, Any] | None = None
) -> BlockList:
    """Read the lists that the configuration names, from any fsspec URL; `option` is its key.

    Raises:
        ConfigError: a list cannot be read or an entry of it is not what it should be.
    """
    options = storage_options or {}
    urls = _sorted_digests(
        [_url_hash(url) for url in list_entries(config.urls, f"{option}.urls", options)],
        _URL_HASH_BYTES,
    )
    domains = frozenset(
        entry_domain(domain, _shown(config.domains))
        for domain in list_entries(config.domains, f"{option}.domains", options)
    )
    sha256 = _read_sha256(config.sha256, f"{option}.sha256", options)
    return BlockList(
        urls=urls, domains=domains, sha256=sha256, digest=_digest(urls, domains, sha256)
    )


def entry_domain(text: str, source: str) -> str:
    """A domain as a list gives it (`example.com`, `*.example.com`, a URL), in its normal form.

    Raises:
        ConfigError: it is none; `source` says where it stands.
    """
    name = text.strip().removeprefix("*.").removeprefix(".")
    host = url_host(name) if "://" in name else normalise_host(name)
    if not host or "*" in host:
        raise ConfigError(f"{source}: {text!r} is not a domain; give names such as example.com")
    return host


def _url_hash(url: str) -> bytes:
    text = normalise_url(url).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=_URL_HASH_BYTES).digest()


def _holds(digests: Digests, digest: bytes) -> bool:
    wanted = np.frombuffer(digest, dtype=digests.dtype)
    if len(wanted) != 1:
        return False
    place = int(np.searchsorted(digests, wanted)[0])
    return place < len(digests) and bool(digests[place] == wanted[0])


def _sorted_digests(digests: list[bytes], width: int) -> Digests:
    return np.unique(np.frombuffer(b"".join(digests), dtype=f"S{width}"))


def list_entries(path: str | None, option: str, options: dict[str, Any]) -> Iterator[str]:
    """The entries of a list file, in order; none where there is no file.

    Raises:
        ConfigError: it cannot be read; `option` is the key that names it.
    """
    if path is None:
        return
    if names_credentials(path):
        raise ConfigError(f"{option} {path}: {CREDENTIALS_TOLD}")
    try:
        with fsspec.open(
            path, "rb", compression=None if _is_parquet(path) else "infer", **options
        ) as stream:
            if _is_parquet(path):
                yield from _parquet_entries(stream, path)
                return
            for number, line in enumerate(stream, start=1):
                if number == 1 and is_pointer(line):
                    raise ConfigError(f"{option} {_shown(path)}: {POINTER_TOLD}")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ConfigError(f"{_shown(path)}: line {number} is not UTF-8 text") from error
                if "\0" in text:
                    raise ConfigError(f"{_shown(path)}: line {number} has NUL bytes; is it UTF-16?")
                for entry in map(str.strip, text.split("\r")):  # old Macs end lines by it alone
                    if entry and not entry.startswith("#"):
                        yield entry
    except _UNREADABLE as error:
        raise unreadable(error, f"{option} {_shown(path)}: cannot be read: {error}") from None


def _parquet_entries(stream: Any, path: str) -> Iterator[str]:
    with pq.ParquetFile(stream, pre_buffer=False) as parquet:
        names = parquet.schema_arrow.names
        if len(names) != 1:
            raise ConfigError(
                f"{_shown(path)}: a block list in Parquet has one column, got: {', '.join(names)}"
            )
        for batch in parquet.iter_batches(use_threads=False):
            column = batch.column(0)
            if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
                raise ConfigError(f"{_shown(path)}: column {names[0]!r} is {column.type}, not text")
            yield from (entry.strip() for entry in column.to_pylist() if entry and entry.strip())


def _read_sha256(path: str | None, option: str, options: dict[str, Any]) -> Digests:
    if path is None:
        return np.empty(0, dtype="S32")
    blocks: list[bytes] = []
    if _is_parquet(path):
        blocks += _hex_blocks(list_entries(path, option, options), path)
    else:
        try:
            with fsspec.open(path, "rb", compression="infer", **options) as stream:
                blocks += _hex_file(stream, path)
        except _UNREADABLE as error:
            raise unreadable(error, f"{option} {_shown(path)}: cannot be read: {error}") from None
    digests: Digests = np.frombuffer(b"".join(blocks), dtype="S32").copy()
    digests.sort()
    if len(digests) > 1:
        digests = digests[np.concatenate([[True], digests[1:] != digests[:-1]])]
    return digests


def _hex_file(stream: Any, path: str) -> Iterator[bytes]:
    """Plain lists of `<64 digits>\\n` are taken a chunk at a time; anything else line by line."""
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        chunk = rest + chunk
        cut = chunk.rfind(b"\n") + 1
        chunk, rest = chunk[:cut], chunk[cut:]
        if len(rest) > _CHUNK_BYTES:
            raise ConfigError(f"{_shown(path)}: not a list of sha256 digests, one a line")
        yield from _hex_chunk(chunk, path)
    yield from _hex_chunk(rest, path)


def _hex_chunk(chunk: bytes, path: str) -> Iterator[bytes]:
    if chunk and len(chunk) % 65 == 0:
        columns = np.frombuffer(chunk, dtype=np.uint8).reshape(-1, 65)
        if (columns[:, 64] == 10).all() and (columns[:, :64] > 32).all():
            try:
                yield bytes.fromhex(chunk.decode("ascii"))
                return
            except ValueError:  # names the faulty line below
                pass
    lines = (line.strip() for line in chunk.decode("utf-8", "replace").splitlines())
    yield from _hex_blocks((line for line in lines if line and not line.startswith("#")), path)


def _hex_blocks(entries: Iterator[str], path: str) -> Iterator[bytes]:
    for entry in entries:
        try:
            digest = bytes.fromhex(entry)
        except ValueError:
            digest = b""
        if len(digest) != 32 or len(entry) != 64:
            raise ConfigError(
                f"{_shown(path)}: {entry[:80]!r} is not a sha256 digest; give 64 hex digits a line"
            )
        yield digest


def _digest(urls: Digests, domains: frozenset[str], sha256: Digests) -> str:
    if not (len(urls) or domains or len(sha256)):
        return ""
    names = "\n".join(sorted(domains)).encode()
    digest = hashlib.sha256()
    for content in (urls.view(np.uint8).data, names, sha256.view(np.uint8).data):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _is_parquet(path: str) -> bool:
    return path.split("?", 1)[0].lower().endswith(".parquet")


def _shown(path: str | None) -> str:
    return redact_url(path or "")
