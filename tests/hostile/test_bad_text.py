"""Texts of any kind: configurations, conditions, URLs, prompts' settings. What is wrong ends as
`FoundryError` with few lines; no function over a row's text fails or takes long."""

import contextlib
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipelines.config import Config, load_config
from pipelines.rows.urls import normalise_url, url_host
from pipelines.rules.conditions import Condition
from pipelines.steps.download.failure import FetchFailed
from pipelines.steps.download.target import parse_target, redirect_target
from pipelines.training.config import TrainConfig
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.generate_config import GenerateJobConfig
from sd_core.errors import FoundryError
from sd_core.redact import redact_text, redact_url
from tests.contracts.cases import ROOT
from tests.hostile.tally import SEED, SHARE, Tally

pytestmark = pytest.mark.slow

_CONFIGS: dict[str, type[Config]] = {
    "curate/demo.yaml": CurateConfig,
    "curate/laion.yaml": CurateConfig,
    "generate/tiny.yaml": GenerateJobConfig,
    "train/tiny.yaml": TrainConfig,
    "train/sd-v1.yaml": TrainConfig,
}
_VALUES: tuple[Any, ...] = (
    None, True, "", " ", "x", 0, -1, 1e308, float("nan"), float("inf"), 10**30, [], {}, [[]],
    [None], {"": 1}, {"x": {"y": 1}}, "yes", "1e5", "0x10", "\0", "é" * 300, "../../etc/passwd",
    "file:///etc/passwd", "s3://KEY:SECRET@bucket/x", "!!python/object:os.system", "${HOME}", "%s",
)  # fmt: skip


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def _changed_tree(text: str, dice: random.Random) -> str:
    tree = yaml.safe_load(text)
    for _ in range(dice.choice((1, 1, 3))):
        place, key = dice.choice(list(_places(tree)))
        match dice.randrange(4):
            case 0 if isinstance(place, dict):
                place[f"{key}s"] = place.pop(key)
            case 1:
                del place[key]
            case _:
                place[key] = dice.choice(_VALUES)
    return yaml.safe_dump(tree, allow_unicode=True)


def _changed_text(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text))
    odd = (
        "\t",
        "\0",
        ":",
        "- ",
        "{",
        "[" * 3000,
        "&a *a",
        "<<: *x",
        "!!binary x",
        "\ufeff",
        "---\n",
    )
    return text[:at] + dice.choice(odd) + text[at + dice.choice((0, 1, 40)) :]


def test_a_configuration_is_read_or_told_to_be_wrong(
    tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    tallied = tally("bad input: configurations")
    dice, path = tallied.random, tmp_path / "config.yaml"
    for number in range(round(400 * SHARE)):
        name = sorted(_CONFIGS)[number % len(_CONFIGS)]
        text = (ROOT / "configs" / name).read_text()
        change = _changed_tree if number % 2 else _changed_text
        path.write_text(change(text, dice), errors="replace")
        with tallied.case(f"{number}: {name}"):
            started = time.process_time()
            try:
                load_config(_CONFIGS[name], path, overrides=[])
            except FoundryError as error:
                told = str(error)
                assert len(told.splitlines()) < 60
                assert "SECRET" not in told
            assert time.process_time() - started < 5
    tallied.close()


_SQL = (
    "read_csv('/etc/passwd') IS NULL", "(SELECT 1) = 1", "1; DROP TABLE x", "url LIKE '%a%'", "1=1",
    "getenv('HOME') IS NULL", "copy (select 1) to '/tmp/x'", "attach '/tmp/x'", "width > 'a'",
    "pragma version", "install httpfs", "regexp_matches(caption, '(a+)+$')", "random() > 0.5",
    "repeat('x', 1000000000) = ''", "list_sum(range(1000000000)) > 0", "caption", "width / 0 > 1",
    "NOT", ")", "'", '"', "--", "/*", "\0", "width = NULL", "nothing = 1", "now() > 0", "?", "$1",
)  # fmt: skip
_SCRAPS = (
    "width",
    "caption",
    "url",
    "AND",
    "OR",
    "NOT",
    "(",
    ")",
    "'",
    "0",
    "1e999",
    "||",
    "::int",
    "IN",
    "LIKE",
    ",",
    "CASE",
    "current_setting('x')",
    ";",
    "🟥",
)


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """What takes more than 6 GiB fails within this process and harms no other one."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (6 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_condition_is_right_or_refused(
    bounded_memory: None, tally: Callable[[str], Tally]
) -> None:
    import pyarrow as pa

    tallied = tally("bad input: SQL conditions")
    dice = tallied.random
    rows = pa.table({"width": [1, None, 3], "caption": ["a", None, "b" * 40], "url": ["u"] * 3})
    types = {field.name: field.type for field in rows.schema}
    made = [" ".join(dice.choice(_SCRAPS) for _ in range(dice.randrange(1, 9))) for _ in range(170)]
    for sql in tallied.some([*_SQL, *made]):
        with tallied.case(repr(sql)):
            started = time.process_time()
            try:
                condition = Condition(sql, where="select.rules.0.sql")
                condition.check(types)
                assert len(condition.judge(rows).met) == 3
            except FoundryError as error:
                told = str(error)
                assert len(told.splitlines()) < 20
            assert time.process_time() - started < 20
    tallied.close()


_PARTS = st.sampled_from(
    ["http://", "https:", "//", "/", "@", ":", "?", "&", "=", "#", "%", "%25", "%3D", ";", "\\",
     "[", "]", "..", "a", "X-Amz-Signature", "token", "\0", "\n", "\u202e", "é", "\ud7ff",
     "user:pass@"]
)  # fmt: skip
_TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(_PARTS, max_size=40).map("".join),
    st.builds(lambda part, times: "http://h/?" + part * times, _PARTS, st.integers(1, 4000)),
)


def test_what_reads_a_rows_text_is_total_and_quick(tally: Callable[[str], Tally]) -> None:
    tallied = tally("bad input: texts (hypothesis)")
    examples = max(20, round(500 * SHARE))
    seen = [0]

    @seed(SEED)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(text=_TEXTS, base=_TEXTS)
    def check(text: str, base: str) -> None:
        seen[0] += 1
        started = time.process_time()
        for read in (redact_url, redact_text):
            assert read(read(text)) == read(text)
        for parse in (normalise_url, url_host, parse_target):
            with contextlib.suppress(ValueError, FetchFailed):
                parse(text)
        with contextlib.suppress(FetchFailed):
            redirect_target(parse_target("http://user:pass@h.example/a"), text)
        assert time.process_time() - started < 2, "not linear"

    with tallied.case("any text"):
        check()
    tallied.num_cases = seen[0]
    tallied.close()
