"""Whoever names the wrong way in is told in one line which one fits, before anything is made."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.contracts.source_cases import picture, run_job, write_tar

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # datasets' own

URLS = [f"http://127.0.0.1:9/{number}.jpg" for number in range(3)]
PICTURES = [picture(30 * number) for number in range(1, 4)]
OF_IMG2DATASET = {
    "url": URLS,
    "caption": ["a", "b", "c"],
    "key": ["0", "1", "2"],
    "status": ["success"] * 3,
}


@dataclass(frozen=True)
class Places:
    """One of everything that people have."""

    root: Path

    def pictures(self) -> None:
        (self.root / "pictures").mkdir()
        for number, content in enumerate(PICTURES):
            (self.root / f"pictures/{number}.jpg").write_bytes(content)

    def tables(self) -> None:
        pq.write_table(pa.table({"url": URLS, "caption": URLS}), self.root / "urls.parquet")
        pq.write_table(pa.table({"image": PICTURES}), self.root / "pictures.parquet")
        (self.root / "img2dataset").mkdir()
        table = pa.table(OF_IMG2DATASET | {"jpg": PICTURES})
        pq.write_table(table, self.root / "img2dataset/00000.parquet")
        (self.root / "beside").mkdir()
        pq.write_table(pa.table(OF_IMG2DATASET), self.root / "beside/00000.parquet")
        write_tar(self.root / "beside/00000.tar", [("0.jpg", PICTURES[0])])

    def texts(self) -> None:
        lines = [json.dumps({"url": url, "caption": "c"}) for url in URLS]
        (self.root / "list.csv").write_text("url,caption\n" + "".join(f"{u},c\n" for u in URLS))
        (self.root / "list.jsonl").write_text("\n".join(lines))
        (self.root / "list.txt").write_text("\n".join(URLS))
        (self.root / "list.json").write_text(f"[{', '.join(lines)}]")

    def others(self) -> None:
        import datasets

        datasets.Dataset.from_dict({"image": PICTURES}).save_to_disk(str(self.root / "saved"))
        (self.root / "tars").mkdir()
        write_tar(self.root / "tars/0.tar", [("0.jpg", PICTURES[0])])
        with zipfile.ZipFile(self.root / "set.zip", "w") as archive:
            archive.writestr("0.jpg", PICTURES[0])
        for folder in ("run", "run/ledger", "run/images"):
            (self.root / folder).mkdir()
        (self.root / "run/revision.json").write_text("{}")
        pq.write_table(pa.table({"key": URLS}), self.root / "run/ledger/0.parquet")
        write_tar(self.root / "run/images/0.tar", [("0.jpg", PICTURES[0])])
        (self.root / "empty").mkdir()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Places(tmp_path_factory.mktemp("places"))
    makers: list[Callable[[], None]] = [made.pictures, made.tables, made.texts, made.others]
    for make in makers:
        make()
    return made.root


CASES = [
    ("pictures", "parquet", "set it to folder, with the path of the folder"),
    ("pictures", "img2dataset", "set it to folder"),
    ("pictures", "huggingface", "set it to folder"),
    ("pictures/0.jpg", "auto", "give the folder that holds them"),
    ("pictures/*.jpg", "auto", "give the folder that holds them"),
    ("pictures/0.jpg", "csv", "set it to folder"),
    ("tars", "folder", "which does not read tars (0.tar); set it to webdataset"),
    ("tars", "text", "set it to webdataset"),
    ("tars", "parquet_images", "set it to webdataset"),
    ("saved", "parquet_images", "give the folder that `datasets` wrote"),
    ("saved", "folder", "with save_to_disk, as huggingface"),
    ("saved/*.arrow", "auto", "with save_to_disk, as huggingface"),
    ("urls.parquet", "parquet_images", "to fetch its URLs set source.format to parquet"),
    ("urls.parquet", "img2dataset", "set source.format to parquet"),
    ("urls.parquet", "folder", "set it to parquet for a list of URLs"),
    ("urls.parquet", "csv", "set it to parquet for a list of URLs"),
    ("pictures.parquet", "auto", "set source.format to parquet_images"),
    ("pictures.parquet", "parquet", "set source.format to parquet_images"),
    ("pictures.parquet", "img2dataset", "set source.format to parquet_images"),
    ("pictures.parquet", "huggingface", "to parquet_images where it has pictures"),
    ("img2dataset", "auto", "set source.format to img2dataset"),
    ("img2dataset", "folder", "set it to parquet for a list of URLs"),
    ("beside", "parquet_images", "img2dataset wrote it: set source.format to img2dataset"),
    ("list.csv", "jsonl", "set source.format to csv"),
    ("list.csv", "parquet", "which does not read CSV (list.csv); set it to csv"),
    ("list.jsonl", "csv", "set source.format to jsonl"),
    ("list.jsonl", "webdataset", "set it to jsonl"),
    ("list.txt", "csv", "set source.format to text"),
    ("list.txt", "jsonl", "set source.format to csv or text"),
    ("list.json", "auto", "jsonl reads it where each line is an object"),
    ("list.json", "jsonl", "write a JSON array with an object a line"),
    ("set.zip", "auto", "unpack it and give the folder"),
    ("set.zip", "folder", "unpack it and give the folder"),
    ("run", "auto", "a run of ours; give the `images` folder in it"),
    ("empty", "auto", "give a file, a glob or a folder"),
]


@pytest.mark.parametrize(("name", "kind", "told"), CASES, ids=[f"{n}-{k}" for n, k, _ in CASES])
def test_a_refusal_names_the_way_in_that_fits(
    name: str, kind: str, told: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run"
    assert run_job(places / name, output, f"source.format={kind}") == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not any(output.rglob("*"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("list.csv", "holds CSV (list.csv); it takes Parquet"),
        ("nothing.parquet", "no file found"),
        ("pictures.parquet", "captions.match: 0 columns could say whose each caption is (url)"),
        ("beside/00000.parquet", None),  # img2dataset's keys are none of ours: by URL
    ],
)
def test_captions_from_elsewhere_say_what_they_need(
    name: str, told: str | None, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = f"captions.from={places / name}"
    assert run_job(places / "pictures", tmp_path / "run", given) == (0 if told is None else 2)
    told_now = capsys.readouterr()
    if told is None:
        assert "captions.from: 0 of 3 captions are of rows of this run" in told_now.out
    else:
        assert told in told_now.err
