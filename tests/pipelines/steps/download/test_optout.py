"""X-Robots-Tag in every form that owners use."""

from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.download.img2dataset_seams import load_img2dataset
from pipelines.steps.download.optout import is_opted_out

DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex", "noml")

OPTED_OUT = [
    ["noai"],
    ["NoAI"],
    [" noimageai "],
    ["all, noml"],
    ["all", "noindex"],
    ["none"],
    ["latent-foundry: noai"],
    ["Latent-Foundry : nofollow, noai"],
    ["*: noai"],
    ["otherbot: nofollow, latent-foundry: noai"],
    ["max-snippet:20, noai"],
    ["max-image-preview: large, noimageindex"],
    ["unavailable_after: Sat, 25 Jun 2026 15:00:00 GMT, noai"],
    ["noindex, otherbot: nofollow"],
]
NOT_OPTED_OUT = [
    [],
    [""],
    ["all"],
    ["nofollow, nosnippet"],
    ["otherbot: noai"],
    ["otherbot: noai, noindex"],
    ["otherbot: noai, latent-foundry: all"],
    ["unavailable_after: Sat, 25 Jun 2026 15:00:00 GMT"],
    ["noaint"],
]


@pytest.mark.parametrize("values", OPTED_OUT, ids=str)
def test_opt_out_is_honoured(values):
    assert is_opted_out(values, agent_token="latent-foundry", directives=DIRECTIVES)


@pytest.mark.parametrize("values", NOT_OPTED_OUT, ids=str)
def test_what_is_not_said_to_us_is_no_opt_out(values):
    assert not is_opted_out(values, agent_token="latent-foundry", directives=DIRECTIVES)


def test_no_directive_is_honoured_when_the_list_is_empty():
    assert not is_opted_out(["noai"], agent_token="latent-foundry", directives=())


@pytest.fixture(scope="module")
def img2dataset():
    return load_img2dataset()


@given(
    st.lists(st.sampled_from(["all", "NoAI", "noml", "nofollow", "noindex "]), min_size=1),
    st.sampled_from(["", "otherbot: ", "latent-foundry: "]),
)
def test_agrees_with_img2dataset_where_that_is_right(img2dataset, words, agent):
    value = agent + ", ".join(words)
    headers = Message()
    headers["X-Robots-Tag"] = value
    theirs = img2dataset.is_disallowed(headers, "latent-foundry", set(DIRECTIVES))
    ours = is_opted_out([value], agent_token="latent-foundry", directives=DIRECTIVES)
    assert ours == theirs


@given(st.text())
def test_any_header_can_be_read(value):
    assert is_opted_out([value], agent_token="latent-foundry", directives=DIRECTIVES) in (
        True,
        False,
    )
