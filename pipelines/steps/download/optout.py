"""X-Robots-Tag: has the owner of an image refused this use?

img2dataset's `is_disallowed` is right for a plain list and for one agent's list, but takes
everything before the first colon for an agent's name: `max-snippet:20, noai` and
`noindex, otherbot: nofollow` pass it. This reads those too.
"""

import re
from collections.abc import Collection, Iterable

_AGENT = re.compile(r"\s*([A-Za-z0-9_.*-]+)\s*:(.*)", re.DOTALL)
_VALUED_DIRECTIVES = {
    "unavailable_after",
    "max-snippet",
    "max-image-preview",
    "max-video-preview",
}
_IMPLIED = {"none": ("noindex", "nofollow")}


def is_opted_out(
    header_values: Iterable[str], *, agent_token: str, directives: Collection[str]
) -> bool:
    """Whether any X-Robots-Tag header forbids the use to everybody or to us.

    Args:
        header_values: The value of each X-Robots-Tag header of one response.
        agent_token: Our name; a directive after another agent's name does not concern us.
        directives: Those honoured, in lower case. `none` stands for `noindex, nofollow`.
    """
    return any(
        directive in directives
        for value in header_values
        for directive in _directives_for(agent_token.lower(), value.lower())
    )


def _directives_for(agent_token: str, value: str) -> Iterable[str]:
    concerns_us = True
    for part in value.split(","):
        match = _AGENT.fullmatch(part)
        if match and match[1] not in _VALUED_DIRECTIVES:
            concerns_us = match[1] in ("*", agent_token)
            part = match[2]
        if concerns_us:
            word = part.strip()
            yield from _IMPLIED.get(word, (word,))
