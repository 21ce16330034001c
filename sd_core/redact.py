"""Secrets out of everything that is stored or printed: the one place that knows a secret in a text.

A URL may carry user information (`user:password@`) or signed query values (S3, GCS, Azure,
CloudFront, tokens and keys of every other kind). Both are replaced by `REDACTED`; the rest of
the URL stays as it was, so that a stored URL still says which image it named.

`pipelines/redact.py` does tables and configurations with it, `redacted_output.py` what a process
prints.
"""

import re
from urllib.parse import quote, unquote_plus

REDACTED = "REDACTED"
MAX_NESTING = 3
CREDENTIALS_TOLD = (
    "credentials before a bucket are read by no client; give them in the environment or in "
    "`storage_options`"
)

_STRONG_WORDS = frozenset(
    {"secret", "password", "passwd", "passphrase", "pwd", "credential", "credentials"}
)
_SECRET_WORDS = _STRONG_WORDS | {
    *("token", "key", "pass", "apikey", "accesskey", "auth", "authorization", "bearer", "jwt"),
    *("signature", "sig", "sas", "hmac", "session", "sessionid"),
}
_SECRET_NAMES = frozenset(
    {"policy", "awsaccesskeyid", "googleaccessid", "jsessionid", "phpsessid"}
    | {"hdnea", "hdnts", "hdntl", "__gda__"}
)
_NOT_SECRET_KEYS = frozenset({"user_agent_token"})  # a robots agent's name, sent to every server
_SECRET_ENDINGS = (
    *("token", "secret", "password", "passwd", "passphrase", "apikey", "accesskey", "signature"),
    *("accesskeyid", "credential", "credentials", "sessionid", "authkey", "secretkey"),
)
_SIGNED_PREFIXES = ("x-amz-", "x-goog-", "x-ms-", "x-oss-", "x-cos-")

_AUTHORITY = r"(?:^|(?<=[:=]))[/\\]{2,}"
_USER_INFO = re.compile(rf"({_AUTHORITY}|^[A-Za-z][A-Za-z0-9+.\-]*:[/\\])[^/?#\\]*@")
_BUCKET_WITH_CREDENTIALS = re.compile(r"(?:s3a?|gc?s)://(?!arn:)[^/]*[:@]")
_LEFT_OUT = re.compile(r"[\t\r\n]")
_SLASHES = re.compile(r"[/\\]{2}")
_BARE_USER_INFO = re.compile(r"^[^/?#]*:[^/?#]*@")
_BAD_PORT_USER_INFO = re.compile(rf"({_AUTHORITY})[^/?#:\[\]]*:(?!\d*(?:[/?#]|$)).*@")
_PARAMETER = re.compile(r"([?&;#])([^=&;#?]{1,200})=([^&#]*)")
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?://|\\\\)[^\s<>\"]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def is_secret_name(name: str) -> bool:
    """Whether a query parameter of this name holds a secret (`X-Amz-Signature`, `sig`, `token`)."""
    decoded = unquote_plus(name)
    lowered = decoded.lower()
    return (
        lowered in _SECRET_NAMES
        or lowered.startswith(_SIGNED_PREFIXES)
        or lowered.endswith(_SECRET_ENDINGS)
        or any(word in _SECRET_WORDS for word in _words(decoded))
    )


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


def names_credentials(url: str) -> bool:
    """Whether a bucket's URL has credentials before its bucket, where no client reads them."""
    return bool(_BUCKET_WITH_CREDENTIALS.match(url))


def redact_url(url: str) -> str:
    """The URL without its user information and with signed or secret query values replaced.

    Malformed URLs are redacted on the safe side: what may be a password goes. Whoever reads a URL
    leaves tabs and line ends out, so they are left out here where they would hide a secret.
    """
    read = _LEFT_OUT.sub("", url)
    redacted = _redact(read, depth=0)
    return url if redacted == read else redacted


def redact_text(text: str) -> str:
    """The text with every URL in it redacted."""
    if "//" not in text and "\\\\" not in text:
        return text
    return _URL_IN_TEXT.sub(lambda match: redact_url(match.group()), text)


def _redact(url: str, *, depth: int) -> str:
    if not _SLASHES.search(url.split("?", 1)[0]):
        url = _BARE_USER_INFO.sub(f"{REDACTED}@", url)
    url = _USER_INFO.sub(rf"\g<1>{REDACTED}@", url)
    # What cannot be a port before a later `@` is a password with an unescaped `/`, `?` or `#`.
    url = _BAD_PORT_USER_INFO.sub(rf"\g<1>{REDACTED}@", url, count=1)
    return _PARAMETER.sub(lambda match: _redact_parameter(match, depth=depth), url)


def _redact_parameter(match: re.Match[str], *, depth: int) -> str:
    separator, name, value = match.groups()
    if not value:
        return match.group()
    if is_secret_name(name):
        return f"{separator}{name}={REDACTED}"
    if "=" in value:  # `a=1;token=2`, or a URL within the value
        value = _PARAMETER.sub(lambda inner: _redact_parameter(inner, depth=depth), f"?{value}")[1:]
    if "%" not in value:
        return f"{separator}{name}={value}"
    if depth >= MAX_NESTING:
        return f"{separator}{name}={REDACTED}"
    decoded = unquote_plus(value)
    redacted = _redact(f"?{decoded}", depth=depth + 1)[1:]
    redacted = _redact(redacted, depth=depth + 1)
    return f"{separator}{name}={value if redacted == decoded else quote(redacted, safe='')}"


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
