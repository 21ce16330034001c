"""What is taken down of a generated run leaves every file, and nothing makes it again."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs import clean, takedown, verify
from pipelines.revisions.takedown import take_down
from pipelines.rules.tombstones import tombstones_of
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from tests.contracts import generation_cases as cases
from tests.contracts.cases import Killed
from tests.contracts.takedown_cases import contents, left_in, write_entries
from tests.contracts.test_takedown import read_ledger

pytestmark = pytest.mark.slow

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(unharmed_run: Path) -> Rows:
    """Prompts of one image and of two, and images that start from curated rows."""
    ledger = read_ledger(unharmed_run)
    first, second = ledger.filter(ledger["kept"])["key"].to_pylist()[:2]
    made: Rows = [{**row, "key": f"Row-{n}"} for n, row in enumerate(cases.prompts(4))]
    made[1]["num_images"] = 2
    text = "a small blue ring of the first source"
    return [
        *made,
        {"prompt": text, "key": "near", "init_key": first, "strength": 0.5},
        {"prompt": None, "key": "variation", "init_key": first, "strength": 0.5},
        {"prompt": text, "key": "box", "init_key": first, "mask": "[16, 16, 48, 48]"},
        {"prompt": "of the second source", "key": "other", "init_key": second, "strength": 0.5},
        {"prompt": "a far green cross", "key": "last"},
    ]


def options(source: Path) -> dict[str, Any]:
    return {"plan__images_per_shard": 4, "generate__init": f"{{path: {source}}}"}


@pytest.fixture(scope="module")
def made(rows: Rows, unharmed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of them, with latents."""
    folder = tmp_path_factory.mktemp("made")
    path = cases.write_prompts(folder / "prompts.parquet", rows)
    cases.run(cases.configuration(path, folder / "run", **options(unharmed_run)))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def traces(run: Path, gone: set[str], texts: Mapping[str, str]) -> dict[str, bytes]:
    """What must be gone: key, image and latents of each image, and whole texts, by what it is."""
    found = {f"text of {name}": text.encode() for name, text in texts.items()}
    found |= {f"key {key}": key.encode() for key in gone}
    for name, content in contents(run):
        key, _, kind = name.rpartition(" ")[2].partition(".")
        if key in gone and kind in ("png", "latents.npy"):
            found[f"{kind} of {key}"] = content
    return found


def reasons(run: Path) -> Counter[str | None]:
    return Counter(cases.table(run, "ledger")["reason"].to_pylist())


def test_images_prompts_and_what_started_from_a_source_leave_no_byte_and_do_not_come_back(
    rows: Rows, made: Path, run: Path, unharmed_run: Path, tmp_path: Path
) -> None:
    first = rows[4]["init_key"]
    gone = {"Row-1-0", "Row-2-0", "near-0", "variation-0", "box-0"}
    texts = {"Row-2": rows[2]["prompt"], "near": rows[4]["prompt"]}
    wanted = traces(run, gone, {**texts, "its source": first})
    assert {what.split()[0] for what in wanted} == {"text", "key", "png", "latents.npy"}
    assert len(left_in(run, wanted)) > len(wanted), "the search finds what is there"
    before = cases.image_files(run)
    lists = {"keys": {"Row-1-0"}, "prompts": {"Row-2"}, "sources": {first}}
    arguments = [str(run)]
    for kind, entries in lists.items():
        arguments += [f"--{kind}", write_entries(tmp_path / kind, entries)]
    assert takedown.main([*arguments, "--must-match"]) == 0
    assert verify.main([str(run), "--deep"]) == 0
    assert clean.main([str(run), "--grace", "0s"]) == 0
    assert verify.main([str(run), "--deep"]) == 0
    assert left_in(run, wanted) == []
    assert cases.image_files(run) == {k: v for k, v in before.items() if k not in gone}
    assert reasons(run) == {None: 5, "taken_down": 5}
    assert read_revision(RunStore(str(run))).steps["encode"].kept == 5
    assert takedown.main([*arguments, "--must-match"]) == 0, "it matched then"

    config = cases.configuration(made / "prompts.parquet", run, **options(unharmed_run))
    assert cases.run(config)[1][-1] == "nothing to do: every asked step is complete"
    again = [
        {**rows[2], "num_images": 3},  # the prompt that is gone
        {**rows[1], "num_images": 3},  # two more of the one that is not
        {**rows[2], "key": "another"},  # the same image under another name
        {**rows[4], "key": "again"},  # from the source that is gone
        {"prompt": "entirely new", "key": "new"},
    ]
    path = cases.write_prompts(tmp_path / "grown.parquet", [*rows, *again])
    config = cases.configuration(path, run, **options(unharmed_run))
    cases.run(config, grow=True)
    assert left_in(run, wanted) == []
    assert set(cases.image_files(run)) == set(before) - gone | {"Row-1-2", "new-0"}
    assert reasons(run) == {None: 7, "taken_down": 8}
    assert verify.main([str(run), "--deep"]) == 0
    rule = "[{column: width, min: 1}]"
    cut = cases.configuration(path, run, **options(unharmed_run), select__rules=rule)
    cases.run(cut, steps=("select", "encode"))
    assert reasons(run) == {None: 7, "taken_down": 8}
    assert verify.main([str(run), "--deep"]) == 0


def test_what_was_taken_down_in_the_run_they_started_from_takes_images_along(
    rows: Rows, run: Path, unharmed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(unharmed_run, tmp_path / "source"))
    arguments = [str(run), "--taken-down-in", str(source)]
    assert takedown.main(arguments) == 0, "nothing was"
    ledger = read_ledger(source)
    url = dict(zip(ledger["key"].to_pylist(), ledger["url"].to_pylist(), strict=True))
    entries = write_entries(tmp_path / "urls.txt", {url[rows[4]["init_key"]]})
    assert takedown.main([str(source), "--urls", entries]) == 0
    assert takedown.main(arguments) == 0
    assert "\n3 row(s) in 1 shard(s) are taken down" in capsys.readouterr().out
    assert set(cases.image_files(run)) == {
        *("Row-0-0", "Row-1-0", "Row-1-1", "Row-2-0", "Row-3-0", "other-0", "last-0")
    }
    assert verify.main([str(run), "--deep"]) == 0


def test_killed_at_any_write_it_is_finished_by_the_same_command_or_the_job(
    made: Path,
    run: Path,
    unharmed_run: Path,
    tmp_path: Path,
    kill_at_write: Callable[[int | None], Counter[str]],
) -> None:
    stones = tombstones_of(keys=["Row-0-0"], prompts=["near"])
    counted = kill_at_write(None)
    take_down(RunStore(str(run)), stones, say=lambda line: None)
    num_writes = counted["writes"]
    assert clean.main([str(run), "--grace", "0s"]) == 0
    expected = cases.digests(run)
    for number in range(0, num_writes, 5):
        killed = Path(shutil.copytree(made / "run", tmp_path / f"killed-{number}"))
        store = RunStore(str(killed))
        kill_at_write(number)
        with pytest.raises(Killed):
            take_down(store, stones, say=lambda line: None)
        kill_at_write(None)
        assert verify.main([str(killed)]) == 0, f"readers are served after write {number}"
        if number % 2:
            path = made / "prompts.parquet"
            cases.run(cases.configuration(path, killed, **options(unharmed_run)))
        take_down(store, stones, say=lambda line: None)
        assert clean.main([str(killed), "--grace", "0s"]) == 0
        assert cases.digests(killed) == expected, f"killed before write {number}"
        shutil.rmtree(killed)


def test_what_is_planned_and_not_made_yet_is_never_made(
    rows: Rows,
    unharmed_run: Path,
    tmp_path: Path,
    kill_at_write: Callable[[int | None], Counter[str]],
) -> None:
    path, output = tmp_path / "prompts.parquet", tmp_path / "half"
    cases.write_prompts(path, rows)
    config = cases.configuration(path, output, **options(unharmed_run))
    kill_at_write(24)
    with pytest.raises(Killed):
        cases.run(config)
    kill_at_write(None)
    (output / "lease.json").unlink(missing_ok=True)
    shards = len(list((output / "_work/manifests").glob("generate/*/0*.json")))
    assert 0 < shards < 3
    keys = write_entries(tmp_path / "keys.txt", {"Row-0-0", "last-0"})
    assert takedown.main([str(output), "--keys", keys, "--must-match"]) == 0
    assert clean.main([str(output), "--grace", "0s"]) == 0
    cases.run(config)
    assert left_in(output, {key: key.encode() for key in ("Row-0", "last-0", "far green")}) == []
    assert reasons(output) == {None: 8, "taken_down": 2}
    assert verify.main([str(output), "--deep"]) == 0


@pytest.mark.parametrize(
    ("option", "entry"),
    [("urls", "http://a.example/x"), ("domains", "a.example"), ("keys", "0" * 16)],
)
def test_a_list_that_no_generated_row_can_match_is_a_usage_error(
    run: Path, tmp_path: Path, option: str, entry: str
) -> None:
    before = cases.digests(run)
    entries = write_entries(tmp_path / "list.txt", {entry})
    assert takedown.main([str(run), f"--{option}", entries]) == 2
    assert cases.digests(run) == before
