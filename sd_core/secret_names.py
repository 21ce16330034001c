"""Which names and values are secrets: of a URL's parameters, by the signers that write them, and of
a configuration's options."""

import re
from typing import Final
from urllib.parse import unquote_plus

_STRONG_WORDS = frozenset(
    {"secret", "password", "passwd", "passphrase", "pwd", "credential", "credentials"}
)
_SECRET_WORDS = _STRONG_WORDS | {
    *("token", "key", "pass", "apikey", "accesskey", "auth", "authorization", "bearer", "jwt"),
    *("signature", "sig", "sas", "hmac", "session", "sessionid"),
}
_SECRET_NAMES = frozenset(
    {
        *("policy", "awsaccesskeyid", "googleaccessid", "jsessionid", "phpsessid"),
        *("hdnea", "hdnts", "hdntl", "__gda__", "tempauth", "_upt", "ak", "q-ak", "oh"),
        *("upsig", "ssig", "vkey", "rkey", "rlkey", "mkey", "skey", "ukey", "wskey"),
        *("resourcekey", "wowzatokenhash", "dis_k"),
    }
)
_NOT_SECRET_KEYS = frozenset({"user_agent_token"})  # a robots agent's name, sent to every server
_SECRET_ENDINGS = (
    *("token", "secret", "password", "passwd", "passphrase", "apikey", "accesskey", "signature"),
    *("accesskeyid", "credential", "credentials", "sessionid", "authkey", "secretkey"),
)
_SIGNED_PREFIXES = (
    *("x-amz-", "x-goog-", "x-ms-", "x-oss-", "x-cos-", "x-bce-", "x-obs-", "x-tos-"),
)

# Names that sign for some and say something else for others: secret with a value so long that is
# no plain number, date or word. `c` is Getty's, `s` imgix's and Reddit's, `hm` Discord's.
_LEAST_CHARS: Final = {"hash": 6, "st": 6, "hm": 16, "s": 20, "c": 40}
# Checksums, and signatures where there is a time beside them at which the URL ends.
_CHECKSUMS: Final = frozenset({"md5", "sha1", "sha256", "st", "hash", "h", "hm", "checksum"})
_ENDS: Final = frozenset(
    {
        *("expires", "expire", "expiry", "expiration", "exp", "deadline", "ttl", "validto", "se"),
        *("valid_to", "x-expires", "expirestime", "expiretime", "expires_in", "until", "wstime"),
    }
)
_TIMES: Final = frozenset({"e", "ex", "oe", "t", "sec", "time", "ts", "timestamp", "end", "tm"})

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_TIME = re.compile(r"\d{9,13}|[0-9A-Fa-f]{8}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*", re.DOTALL)
_MIXED = re.compile(r"(?=[^A-Za-z]*[A-Za-z])(?:(?=\D*\d)|.{16})[A-Za-z0-9_+/=~%\-]*", re.DOTALL)
_HEX_DIGEST = re.compile(r"[0-9A-Fa-f]{24,}")
_BASE64_DIGEST = re.compile(r"(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=\D*\d)[A-Za-z0-9_+/~\-]{20,}=*")
_MAX_ENCODINGS = 4


def is_secret_name(name: str) -> bool:
    """Whether a query parameter of this name holds a secret (`X-Amz-Signature`, `sig`, `token`)."""
    decoded = decoded_name(name)
    lowered = decoded.lower()
    words = _words(decoded)
    return (
        lowered in _SECRET_NAMES
        or lowered.startswith(_SIGNED_PREFIXES)
        or lowered.endswith(_SECRET_ENDINGS)
        or not _SECRET_WORDS.isdisjoint(words)
        or words[-1:] == ["sign"]
    )


def is_signed_value(name: str, value: str, *, ends: bool) -> bool:
    """Whether a parameter's value is a signature by its looks, where its name alone does not tell.

    Args:
        name: As `decoded_name` gives it.
        value: Its beginning will do.
        ends: Whether a parameter of the same URL says when it ends.
    """
    lowered = name.lower()
    if _DATE.fullmatch(value):
        return False
    least = _LEAST_CHARS.get("hash" if lowered.endswith(("_hash", "-hash")) else lowered)
    if least is not None and len(value) >= least and _MIXED.fullmatch(value):
        return True
    if not ends or lowered in _ENDS:
        return False
    if lowered in _CHECKSUMS and not value.isdecimal():
        return True
    return bool(_HEX_DIGEST.fullmatch(value) or _BASE64_DIGEST.fullmatch(value))


def is_end(name: str, value: str) -> bool:
    """Whether a parameter says when the URL ends, which only signed ones do."""
    lowered = name.lower()
    return lowered in _ENDS or (lowered in _TIMES and _TIME.fullmatch(value) is not None)


def decoded_name(name: str) -> str:
    """A parameter's name, however often it is percent-encoded."""
    for _ in range(_MAX_ENCODINGS):
        if "%" not in name:
            break
        name = unquote_plus(name)
    return name


def is_secret_key(key: str) -> bool:
    """Whether an option of this name holds a secret.

    Narrower than for URLs: `tokenizer` or `token_length` are options, `hub_token` is not.
    """
    words = _words(key)
    if key in _NOT_SECRET_KEYS:
        return False
    return bool(words) and (
        words[-1] in _SECRET_WORDS
        or any(word in _STRONG_WORDS for word in words)
        or key.lower().endswith(_SECRET_ENDINGS)
        or key.lower().replace("-", "_").endswith(("access_key_id", "key_pair_id"))
    )


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
