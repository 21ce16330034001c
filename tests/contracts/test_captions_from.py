"""Captions from elsewhere: trained on beside the list's own, by a re-cut alone."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.takedown import main as takedown
from jobs.verify import main as verify
from pipelines import open_run
from pipelines.run.record import RunMismatchError
from tests.contracts import cases
from tests.contracts.cases import ServedList
from tests.contracts.test_revisions import FOLDERS, counted_forwards, current_files

pytestmark = pytest.mark.slow

RECUT = ("select", "encode")


@pytest.fixture
def run_copy(unharmed_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unharmed_run, tmp_path / "run"))


def trained_captions(run: Path) -> dict[str, str]:
    return {sample.key: sample.caption for sample in open_run(run).latents()}


def test_a_captioners_output_is_a_recut_that_scores_nothing_and_keeps_keys(
    served_list: ServedList, run_copy: Path, tmp_path: Path
) -> None:
    before, first = open_run(run_copy).ledger(), current_files(run_copy, *FOLDERS)
    kept = before.filter(before["kept"])
    rows = kept.filter(pa.compute.equal(kept["shard_id"], kept["shard_id"][0]))
    told = {row["key"]: f"told anew: {row['caption']}" for row in rows.to_pylist()[1:]}
    told |= {"0" * 16: "of no row", rows["key"][0].as_py(): " "}
    captions = tmp_path / "captions.parquet"
    first_told = next(iter(told))  # of two captions the first counts
    keys, texts = [*told, first_told], [*told.values(), "told twice"]
    pq.write_table(pa.table({"key": keys, "caption": texts}), captions)
    config = cases.configuration(served_list.path, run_copy, captions__from=captions)
    with pytest.raises(RunMismatchError, match=r"select.captions.files: was not set, is now"):
        cases.run(config)
    with counted_forwards() as calls:
        _, said = cases.run(config, steps=RECUT)
    assert sum(n for name, n in calls if name == "AutoencoderTiny") <= rows.num_rows
    assert not any("Vision" in name or name == "CLIP" for name, _ in calls)
    used = f"captions.from: {len(told) - 2} of {len(told) + 1} captions are of rows of this run"
    assert f"{used}; left out as a second one of its row (1), empty (1)" in said
    after, last = open_run(run_copy).ledger(), current_files(run_copy, *FOLDERS)
    of_text = ["caption_tokens", "caption_is_cut"]
    assert after.drop(["recaption", *of_text]).equals(before.drop(of_text))
    told = {key: text for key, text in told.items() if text.strip() and key != "0" * 16}
    found = zip(after["key"].to_pylist(), after["recaption"].to_pylist(), strict=True)
    assert {key: text for key, text in found if text is not None} == told
    own = dict(zip(kept["key"].to_pylist(), kept["caption"].to_pylist(), strict=True))
    assert trained_captions(run_copy) == own | told
    assert "which `captions.parquet` has a caption" in (run_copy / "README.md").read_text()
    again = [name for name in first.keys() - last.keys() if not name.startswith("ledger/")]
    assert [name.partition("/")[0] for name in again] == ["latents"]
    assert verify([str(run_copy), "--deep"]) == 0


def test_a_run_with_such_captions_from_its_start_is_the_same_and_takedowns_reach_them(
    served_list: ServedList, run_copy: Path, tmp_path: Path
) -> None:
    ledger = open_run(run_copy).ledger()
    table = pa.table({"key": ledger["key"], "url": ledger["url"]})
    texts = pa.array([f"about {url}" for url in ledger["url"].to_pylist()])
    by_key, by_url = tmp_path / "by_key", tmp_path / "by_url"
    for folder, name in ((by_key, "key"), (by_url, "url")):
        folder.mkdir()
        for part in (slice(0, 20), slice(20, 60)):  # two files of a folder
            found = table.select([name]).append_column("text", [texts])[part]
            pq.write_table(found, folder / f"{part.start}.parquet")
    cases.run(cases.configuration(served_list.path, run_copy, captions__from=by_key), steps=RECUT)
    config = cases.configuration(served_list.path, tmp_path / "fresh", captions__from=by_url)
    cases.run(config)
    assert current_files(run_copy, *FOLDERS) == current_files(tmp_path / "fresh", *FOLDERS)
    run = open_run(run_copy)
    row = run.kept().to_pylist()[0]
    assert trained_captions(run_copy)[row["key"]] == f"about {row['url']}" == row["recaption"]
    keys = tmp_path / "keys.txt"
    keys.write_text(row["key"] + "\n")
    assert takedown([str(run_copy), "--keys", str(keys)]) == 0
    left = open_run(run_copy)
    assert row["recaption"] not in left.ledger()["recaption"].to_pylist()
    assert row["recaption"] not in trained_captions(run_copy).values()
    assert verify([str(run_copy), "--deep"]) == 0
