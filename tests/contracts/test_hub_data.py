"""Data sets in the cache of `datasets`, made by that library from local files; nothing is fetched
but the URLs of a list."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import init, verify
from tests.contracts.cases import ServedList
from tests.contracts.source_cases import captions, ledger, picture, run_job, stored_shades
from tests.contracts.ways_in import COMMIT, prepare

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # datasets' own

OTHER = "abcdef" * 6 + "0123"
PICTURES = "hub:org/Some-Pictures"


@pytest.fixture(scope="module")
def home(served_list: ServedList, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home")
    for split, shades in (("train", (30, 60, 90)), ("test", (120, 150))):
        content = [{"bytes": picture(shade), "path": f"{shade}.jpg"} for shade in shades]
        table = pa.table({"image": content, "text": [f"c{shade}" for shade in shades]})
        pq.write_table(table, made / f"{split}.parquet")
    parts = {name: made / f"{name}.parquet" for name in ("train", "test")}
    prepare(made / "datasets", "org/Some-Pictures", COMMIT, **parts)
    urls = [f"{served_list.server.url}/{number:03d}.png" for number in range(3)]
    pq.write_table(pa.table({"url": urls, "caption": ["a", "b", "c"]}), made / "urls.parquet")
    for configuration in ("one", "two"):
        prepare(made / "datasets", "org/urls", COMMIT, configuration, train=made / "urls.parquet")
    paths = pa.table({"image": [{"bytes": None, "path": "/pictures/1.jpg"}]})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = paths.set_column(0, "image", paths["image"].cast(kind))
    pq.write_table(paths, made / "paths.parquet")
    prepare(made / "datasets", "org/paths", COMMIT, train=made / "paths.parquet")
    refs = made / "hub/datasets--org--Some-Pictures/refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    return made


@pytest.fixture(autouse=True)
def _in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))


def told(path: str, output: Path, *settings: str, capsys: Any, code: int = 2) -> str:
    assert run_job(path, output, *settings) == code
    error: str = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_pictures_of_a_revision_by_commit_or_branch_whole_or_one_split(tmp_path: Path) -> None:
    for at, revision in ((f"@{COMMIT}", "commit"), ("@main", "branch")):
        output = tmp_path / revision
        assert run_job(f"{PICTURES}{at}", output) == 0
        rows, shades = ledger(output), stored_shades(output)
        assert [row["caption"] for row in rows] == ["c120", "c150", "c30", "c60", "c90"]
        assert all(abs(shades[row["key"]] - int(row["caption"][1:])) < 3 for row in rows)
        tables = [path.read_bytes() for path in output.rglob("*.parquet")]
        assert not any(picture(30)[:64] in table for table in tables)
    assert verify.main([str(output), "--deep"]) == 0
    assert run_job(f"{PICTURES}@{COMMIT}/default/train", tmp_path / "split") == 0
    assert captions(tmp_path / "split") == ["c30", "c60", "c90"]


def test_a_list_of_urls_is_fetched_also_as_init_writes_it(tmp_path: Path) -> None:
    given = f"hub:org/urls@{COMMIT}/two"
    assert init.main([given, "--to", str(tmp_path / "my.yaml")]) == 0
    assert f'path: "{given}"' in (tmp_path / "my.yaml").read_text()
    assert run_job(given, tmp_path / "run") == 0
    assert [(row["caption"], row["reason"]) for row in ledger(tmp_path / "run")] == [
        *(("a", None), ("b", None), ("c", None)),
    ]


def test_what_is_not_in_the_cache_is_refused_with_what_to_do(tmp_path: Path, capsys: Any) -> None:
    error = told(f"{PICTURES}@{OTHER}", tmp_path / "run", capsys=capsys)
    assert f"which has {COMMIT}/default of it" in error
    assert "pip install datasets" in error
    assert f"load_dataset('org/Some-Pictures', revision='{OTHER}')" in error
    error = told("hub:org/none@main", tmp_path / "run", capsys=capsys)
    assert "which has nothing of it" in error
    error = told(f"{PICTURES}@{COMMIT}/default/dev", tmp_path / "run", capsys=capsys)
    assert "has no split 'dev'; it has test, train" in error
    error = told(f"hub:org/urls@{COMMIT}", tmp_path / "run", capsys=capsys)
    assert f"has the configurations one, two; name one: hub:org/urls@{COMMIT}/one" in error
    assert "not of the form" in told(PICTURES, tmp_path / "run", capsys=capsys)
    given = "source.format=huggingface"
    error = told(f"hub:org/urls@{COMMIT}/one", tmp_path / "run", given, capsys=capsys)
    assert "to fetch its URLs set source.format to huggingface_urls" in error
    error = told(f"hub:org/paths@{COMMIT}", tmp_path / "run", capsys=capsys)
    assert "lie as files (/pictures/1.jpg); give the folder that holds them" in error
