"""A first configuration, written for what is there, is one that curate runs as it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import curate, init
from pipelines import open_run
from pipelines.config import load_config
from pipelines.workflows.curate_config import CurateConfig
from tests.contracts import cases
from tests.contracts.source_cases import picture, write_tar
from tests.contracts.test_parquet_sources import img2dataset_list

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # datasets' own

COUNT = 4
CONTENTS = [picture(10 * number) for number in range(1, COUNT + 1)]
TEXTS = [f"c{number}" for number in range(COUNT)]


def folder(at: Path) -> Path:
    for number, content in enumerate(CONTENTS):
        (at / f"{number}.jpg").write_bytes(content)
        (at / f"{number}.txt").write_text(TEXTS[number])
    return at


def tars(at: Path) -> Path:
    members = [
        (f"{number}.{suffix}", content)
        for number in range(COUNT)
        for suffix, content in (("jpg", CONTENTS[number]), ("txt", TEXTS[number].encode()))
    ]
    return write_tar(at / "0.tar", members)


def tars_with_two_pictures_a_sample(at: Path) -> Path:
    return write_tar(at / "0.tar", [(f"0.{n}.jpg", content) for n, content in enumerate(CONTENTS)])


def of_img2dataset(at: Path) -> Path:
    table = img2dataset_list(COUNT)
    pq.write_table(table, at / "00000.parquet")
    named = zip(table["key"].to_pylist(), CONTENTS, strict=True)
    write_tar(at / "00000.tar", [(f"{name}.jpg", content) for name, content in named])
    return at


def of_img2dataset_in_parquet(at: Path) -> Path:
    table = img2dataset_list(COUNT, jpg=pa.array(CONTENTS, pa.binary()))
    pq.write_table(table, at / "00000.parquet")
    return at


def parquet_with_pictures(at: Path) -> Path:
    masks = pa.array(CONTENTS[::-1], pa.binary())
    table = pa.table({"photo": pa.array(CONTENTS, pa.binary()), "mask": masks, "text": TEXTS})
    pq.write_table(table, at / "set.parquet")
    return at


def of_hugging_face(at: Path) -> Path:
    import datasets

    rows = [{"bytes": content, "path": None} for content in CONTENTS]
    several = datasets.List(datasets.Value("string"))
    features = datasets.Features({"image": datasets.Image(), "text": several})
    texts = [[text, f"{text} again"] for text in TEXTS]
    made = datasets.Dataset.from_dict({"image": rows, "text": texts}, features=features)
    made.save_to_disk(str(at / "set"))
    return at / "set"


def list_of_paths(at: Path) -> Path:
    folder(at)
    lines = [json.dumps({"url": f"{n}.jpg", "caption": TEXTS[n]}) for n in range(COUNT)]
    (at / "list.jsonl").write_text("\n".join(lines) + "\n")
    return at / "list.jsonl"


def list_of_whole_paths(at: Path) -> Path:
    folder(at)
    (at / "list.csv").write_text(
        "URL;TEXT\n" + "".join(f"file://{at}/{n}.jpg;{TEXTS[n]}\n" for n in range(COUNT))
    )
    return at / "list.csv"


@pytest.mark.parametrize(
    "kind",
    [
        folder,
        tars,
        tars_with_two_pictures_a_sample,
        of_img2dataset,
        of_img2dataset_in_parquet,
        parquet_with_pictures,
        of_hugging_face,
        list_of_paths,
        list_of_whole_paths,
    ],
)
def test_what_it_writes_for_pictures_of_each_kind_is_what_the_real_command_keeps_all_of(
    kind: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").mkdir()
    given = kind(tmp_path / "given")
    monkeypatch.chdir(tmp_path)
    assert init.main([str(given.relative_to(tmp_path))]) == 0
    asked = ["--config", "curate.yaml", "--set", "image.size=64", "--set", "engine.runner=local"]
    assert curate.main(asked) == 0
    (output,) = (path for path in tmp_path.iterdir() if path.name.endswith("-run"))
    kept = open_run(output).kept().to_pylist()
    captions = [None] * COUNT if "two" in kind.__name__ else list(TEXTS)
    if "img2dataset" in kind.__name__:
        del captions[1]  # which it failed to get
    assert [row["caption"] for row in kept] == captions


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv"])
def test_a_list_of_urls_is_fetched_as_it_is_whatever_its_captions_are_called(
    kind: str, served_list: cases.ServedList, tmp_path: Path
) -> None:
    table: Any = pq.read_table(served_list.path).slice(0, COUNT)
    table = table.rename_columns(["URL", "TEXT" if kind == "tsv" else "told", "licence"])
    path, to = tmp_path / f"list.{kind}", tmp_path / "my.yaml"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        table.to_pandas().to_csv(path, index=False, sep="\t" if kind == "tsv" else "|")
    assert init.main([str(path), "--to", str(to), "--output", str(tmp_path / "run")]) == 0
    told = to.read_text()
    assert ('caption_column: ""  # of: URL, told, licence' in told) == (kind != "tsv")
    settings = ["download.allow_networks=[127.0.0.0/8]", "image.size=64", "engine.runner=local"]
    assert curate.main(["--config", str(to), *(w for s in settings for w in ("--set", s))]) == 0
    rows = open_run(tmp_path / "run").kept(columns=["url"]).to_pylist()
    assert [row["url"] for row in rows] == table["URL"].to_pylist()


def test_nothing_is_overwritten_and_what_cannot_be_read_is_refused_with_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "my.yaml"
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "list.parquet")
    assert init.main([str(tmp_path / "list.parquet"), "--to", str(to)]) == 2
    assert "the columns: a, b; set source.url_column" in capsys.readouterr().err
    assert init.main([str(tmp_path / "nowhere"), "--to", str(to)]) == 2
    assert "no file found" in capsys.readouterr().err
    assert not to.exists()
    to.write_text("mine")
    assert init.main([str(folder(tmp_path)), "--to", str(to)]) == 2
    assert "stays as it is" in capsys.readouterr().err
    assert to.read_text() == "mine"


def test_its_commented_models_are_those_of_a_shipped_configuration_and_can_be_uncommented(
    tmp_path: Path,
) -> None:
    to = tmp_path / "my.yaml"
    assert init.main([str(folder(tmp_path)), "--to", str(to)]) == 0
    lines = to.read_text().splitlines()
    at = lines.index("# score:")
    to.write_text("\n".join([*lines[:at], *(line.removeprefix("# ") for line in lines[at:])]))
    config = load_config(CurateConfig, to)
    shipped = load_config(CurateConfig, cases.ROOT / "configs/curate/laion.yaml")
    assert (config.score, config.encode) == (shipped.score, shipped.encode)
