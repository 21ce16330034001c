"""What is kept is kept: a bad row costs itself alone, and what is cut is counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from jobs import curate, generate, report, takedown, verify
from pipelines.rows.ledger import LEDGER, TOKEN_FIELDS
from pipelines.run.record import read_revision, read_run
from pipelines.run.store import RunStore
from pipelines.steps.download import step as download_step
from pipelines.steps.encode import step as encode_step
from pipelines.steps.score import shard as score_shard
from pipelines.steps.select import facts as select_facts
from pipelines.steps.select import write as select_write
from pipelines.workflows import curate_steps, run_steps
from sd_core.cache.latent_cache import open_cache
from sd_core.model.text_encoder import TextEncoderConfig, load_text_encoder
from tests.contracts import cases, generation_cases
from tests.contracts.cases import ROOT, ServedList
from tests.contracts.generation_cases import table
from tests.run_cases import forget_digests

pytestmark = pytest.mark.slow

_LONG = "a large red circle on a white background and then much more is said of it " * 3


def curated(path: Path, output: Path, *options: str, steps: str = "") -> int:
    """`jobs/curate.py` on the demo's configuration."""
    settings = [
        f"source.path={path}",
        f"output={output}",
        "plan.rows_per_shard=10",
        "download.timeout_s=3.0",
        "download.retries=0",
        "engine.runner=local",
        *options,
    ]
    arguments = ["--config", str(ROOT / "configs/curate/demo.yaml")]
    arguments += [part for setting in settings for part in ("--set", setting)]
    return curate.main([*arguments, *(["--steps", steps] if steps else [])])


def generated(rows: list[dict[str, Any]], folder: Path, *options: str) -> Path:
    """`jobs/generate.py` on the tiny configuration; returns the run."""
    folder.mkdir(exist_ok=True)
    path = generation_cases.write_prompts(folder / "prompts.parquet", rows)
    settings = [
        f"prompts.path={path}",
        f"output={folder / 'run'}",
        "plan.images_per_shard=64",
        "generate.batch_size=4",
        "generate.defaults.num_inference_steps=1",
        "engine.runner=local",
        *options,
    ]
    arguments = ["--config", str(ROOT / "configs/generate/tiny.yaml")]
    arguments += [part for setting in settings for part in ("--set", setting)]
    assert generate.main(arguments) == 0
    return folder / "run"


def changed_list(served: ServedList, path: Path, **columns: dict[int, Any]) -> Path:
    """The served list with other values in some rows."""
    rows = pq.read_table(served.path)
    for name, values in columns.items():
        found = rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows
        for row, value in values.items():
            found[row] = value
        if name in rows.column_names:
            rows = rows.drop_columns([name])
        rows = rows.append_column(name, pa.array(found, pa.string()))
    pq.write_table(rows, path)
    return path


def by_key(rows: pa.Table, *names: str) -> dict[str, tuple[Any, ...]]:
    """The named columns of each row."""
    return {row["key"]: tuple(row[name] for name in names) for row in rows.to_pylist()}


# One row kills no shard.


def test_a_stored_image_that_cannot_be_read_costs_its_row_alone(
    served_list: ServedList,
    unharmed_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    write, written = download_step.write_crops, []

    def write_one_broken(*arguments: Any, path: Path, **options: Any) -> int:
        count = write(*arguments, path=path, **options)
        if not written:
            content = path.read_bytes()
            start = content.index(b"\xff\xd8\xff")
            path.write_bytes(content[:start] + bytes(200) + content[start + 200 :])
        written.append(path)
        return count

    monkeypatch.setattr(download_step, "write_crops", write_one_broken)
    assert curated(served_list.path, output) == 0
    assert "1 row_failed" in capsys.readouterr().out
    ledger, whole = table(output, "ledger"), table(unharmed_run, "ledger")
    [failed] = ledger.filter(pc.equal(ledger["reason"], "row_failed")).to_pylist()
    assert failed["error_message"].startswith("ShardError: _work/images/000000-")
    assert (failed["kept"], failed["aesthetic_v1"], failed["clip_similarity"]) == (
        False,
        None,
        None,
    )
    names = ("reason", "aesthetic_v1", "clip_similarity", "duplicate_of")
    found, expected = by_key(ledger, *names), by_key(whole, *names)
    assert {k: v for k, v in found.items() if k != failed["key"]} == {
        k: v for k, v in expected.items() if k != failed["key"]
    }
    assert read_revision(RunStore(str(output))).steps["score"].dropped == {"row_failed": 1}
    assert verify.main([str(output)]) == 0  # with --deep the image does not decode, as it must
    assert report.main([str(output)]) == 0
    page = (output / "report/index.html").read_text()
    assert "row_failed" in page
    assert "ShardError: _work/images/000000-" in page


def test_a_row_that_a_model_refuses_is_found_in_its_batch(
    served_list: ServedList,
    unharmed_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victims = table(unharmed_run, "ledger").filter(pc.field("kept"))["caption"].to_pylist()
    in_score, in_encode = victims[2], victims[-1]

    def refuse(module: Any, name: str, poison: str) -> None:
        real = getattr(module, name)

        def work(models: Any, batch: Any, transfers: Any) -> Any:
            if poison in batch.captions:
                raise IndexError(f"index out of range in self: {len(batch.captions)}")
            return real(models, batch, transfers)

        monkeypatch.setattr(module, name, work)

    refuse(score_shard, "score_batch", in_score)
    refuse(encode_step, "encode_batch", in_encode)
    assert curated(served_list.path, tmp_path / "run") == 0
    assert verify.main([str(tmp_path / "run"), "--deep"]) == 0
    ledger, whole = table(tmp_path / "run", "ledger"), table(unharmed_run, "ledger")
    named = pc.equal(ledger["caption"], in_score)
    judged = pc.and_(named, pc.is_valid(ledger["sha256"]))
    assert set(ledger.filter(judged)["reason"].to_pylist()) == {"row_failed"}
    assert ledger.filter(judged)["error_message"][0].as_py().startswith("IndexError: index out")
    others = pc.invert(named)
    names = ("aesthetic_v1", "clip_similarity", "sha256")
    assert by_key(ledger.filter(others), *names) == by_key(whole.filter(others), *names)
    rejects = table(tmp_path / "run", "latents/rejects")
    assert set(rejects["reason"].to_pylist()) == {"row_failed"}
    before, after = (
        {sample.key: sample.raw_latents.tobytes() for sample in samples(run)}
        for run in (unharmed_run, tmp_path / "run")
    )
    lost = {*rejects["key"].to_pylist(), *ledger.filter(judged)["key"].to_pylist()}
    assert {key: before[key] for key in before.keys() - lost} == {
        key: after[key] for key in before.keys() - lost
    }


def samples(run: Path) -> list[Any]:
    """Every sample of a run's cache."""
    from sd_core.cache.reading import open_shard_reader

    cache = open_cache(str(run / "latents"))
    found = []
    for shard in cache.shards:
        reader = open_shard_reader(cache, shard)
        found += [reader.read(row) for row in range(reader.num_rows)]
        reader.close()
    return found


def test_a_condition_that_fails_on_a_row_drops_that_row(
    served_list: ServedList, tmp_path: Path
) -> None:
    years = dict.fromkeys(range(cases.NUM_ROWS), "2020") | {
        3: "around 1990",
        12: None,
        20: "9" * 40,
    }
    path = changed_list(served_list, tmp_path / "list.parquet", year=years)
    rule = 'select.rules=[{sql: "cast(source_year as int) >= 2000", name: "recent"}]'
    assert curated(path, tmp_path / "run", rule, "score=null") == 0
    ledger = table(tmp_path / "run", "ledger")
    failed = ledger.filter(pc.equal(ledger["reason"], "row_failed")).to_pylist()
    assert [(row["shard_id"], row["row"], row["rule"]) for row in failed] == [
        (0, 3, "recent"),
        (2, 0, "recent"),
    ]
    assert all(row["error_message"].startswith("ConversionException: ") for row in failed)
    assert ledger["reason"][12].as_py() == "condition_not_met"
    assert verify.main([str(tmp_path / "run"), "--deep"]) == 0


def test_a_condition_that_fails_on_every_row_is_a_wrong_configuration(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "select.rules=[{sql: 'cast(source_licence as int) > 0'}]"
    assert curated(served_list.path, tmp_path / "run", rule, "score=null") == 2
    assert "select.rules.0.sql: Conversion Error" in capsys.readouterr().err


def test_images_of_several_sizes_are_made_and_scored(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"a red star {n}", "key": f"k{n}", "width": 64 + 32 * (n % 3), "height": 64}
        for n in range(9)
    ]
    run = generated(rows, tmp_path / "all")
    assert verify.main([str(run), "--deep"]) == 0
    ledger = table(run, "ledger")
    other = [row["width"] != 64 for row in rows]
    assert ledger["reason"].to_pylist() == ["image_of_another_size" if o else None for o in other]
    assert ledger["kept"].to_pylist() == [not o for o in other]
    assert ledger["rule"].to_pylist()[1] == "the latent cache holds 64x64 px"
    steps = read_revision(RunStore(str(run))).steps
    assert steps["encode"].rows_in == steps["encode"].kept == steps["select"].kept == 3
    assert ledger["aesthetic_v1"].null_count == 0
    # The same scores as in runs of one size; without a cache every size is kept.
    for width in (64, 96, 128):
        alone = [row for row in rows if row["width"] == width]
        part = generated(alone, tmp_path / str(width), "generate.latents=null")
        names = ("sha256", "aesthetic_v1", "clip_similarity")
        expected = by_key(ledger, *names)
        assert table(part, "ledger")["kept"].to_pylist() == [True] * 3
        for key, found in by_key(table(part, "ledger"), *names).items():
            assert found == expected[key]


def test_a_row_that_cannot_be_stored_costs_no_other_image(tmp_path: Path) -> None:
    # In a latent shard a member's name has 100 bytes, and this key's eleventh image needs 101.
    poison = {"prompt": "a blue ring", "key": "k" * 80, "num_images": 11}
    rows = [{"prompt": "a red star", "key": "a"}, poison, {"prompt": "a green cross", "key": "b"}]
    run = generated(rows, tmp_path / "all", "score=null")
    ledger = table(run, "ledger")
    failed = ledger.filter(pc.is_valid(ledger["reason"])).to_pylist()
    assert [(row["key"], row["reason"], row["status"]) for row in failed] == [
        ("k" * 80 + "-10", "row_failed", "failed_to_generate")
    ]
    member = "k" * 80 + "-10.prompt_embeds.npy"
    assert failed[0]["error_message"] == f"ValueError: {member}: the name is too long for a tar"
    assert verify.main([str(run), "--deep"]) == 0
    assert open_cache(str(run / "latents")).num_rows == 12
    others = generated([rows[0], rows[2]], tmp_path / "others", "score=null")
    whole, found = generation_cases.image_files(others), generation_cases.image_files(run)
    assert all(found[key] == content for key, content in whole.items())


def test_a_prompt_that_the_text_encoder_refuses_costs_its_image_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.steps.generate import text_cache

    rows = generation_cases.prompts(10)
    whole = generation_cases.image_files(generated(rows, tmp_path / "whole", "score=null"))
    real = text_cache.token_ids

    def tokenize(model: Any, captions: list[str]) -> Any:
        if any("number 4" in caption for caption in captions):
            raise UnicodeError("surrogates not allowed")
        return real(model, captions)

    monkeypatch.setattr(text_cache, "token_ids", tokenize)
    run = generated(rows, tmp_path / "poisoned", "score=null")
    found = generation_cases.image_files(run)
    ledger = table(run, "ledger")
    [failed] = ledger.filter(pc.is_valid(ledger["reason"])).to_pylist()
    assert "number 4" in failed["caption"]
    assert failed["error_message"] == "UnicodeError: surrogates not allowed"
    assert found == {key: content for key, content in whole.items() if key != failed["key"]}
    assert verify.main([str(run), "--deep"]) == 0


# Kept is final.


def test_what_encode_refuses_is_counted_wherever_rows_are(
    served_list: ServedList,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = encode_step.encode_batch
    calls: list[int] = []

    def one_overflows(*arguments: Any, **options: Any) -> Any:
        encoded = real(*arguments, **options)
        if not calls:
            with torch.inference_mode():
                encoded.take().raw_latents[1] = torch.inf
        calls.append(1)
        return encoded

    monkeypatch.setattr(encode_step, "encode_batch", one_overflows)
    output = tmp_path / "run"
    assert curated(served_list.path, output) == 0
    printed = capsys.readouterr().out
    steps = read_revision(RunStore(str(output))).steps
    assert steps["encode"].dropped == {"latents_not_finite": 1}
    assert steps["encode"].kept == steps["select"].kept - 1 == len(samples(output))
    line = next(line for line in printed.splitlines() if line.startswith("encode "))
    assert f"{steps['encode'].kept}" in line
    assert "1 latents_not_finite" in line
    assert "every row is accounted for" in printed
    [reject] = table(output, "latents/rejects").to_pylist()
    assert report.main([str(output)]) == 0
    page = (output / "report/index.html").read_text()
    assert "Encode refused 1 of them." in page
    assert "a latent or embedding is not finite" in page
    assert page.count(reject["key"]) >= 1
    card = (output / "README.md").read_text()
    assert "but for 1 that encode refused (`_work/latents/rejects/`)" in card
    assert "| latents_not_finite | encode | 1 |" in card
    assert verify.main([str(output), "--deep"]) == 0


# Captions that are cut.


@pytest.fixture(scope="module")
def long_list(served_list: ServedList, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The served list, with captions longer than the text encoder reads, and one without."""
    path = tmp_path_factory.mktemp("long") / "list.parquet"
    return changed_list(served_list, path, TEXT={0: _LONG, 11: _LONG, 10: None, 21: ""})


def test_cut_captions_are_counted_by_encodes_own_tokenizer(
    long_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    # Of no text, there is no similarity: only the aesthetic score is asked for.
    lean = ("score.similarity=false", "select.rules=[{column: aesthetic_v1, min: 6.0}]")
    assert curated(long_list, output, *lean) == 0
    captured = capsys.readouterr()
    encoder = load_text_encoder(
        TextEncoderConfig.model_validate({"clip": {"name": "preset:tiny/clip"}}), device="cpu"
    )
    ledger = table(output, "ledger").to_pylist()
    for row in ledger:
        if row["caption"] is None:
            assert row["caption_tokens"] is row["caption_is_cut"] is None
            continue
        ids = encoder.tokenizer(row["caption"], verbose=False)["input_ids"]
        assert row["caption_tokens"] == len(ids) - 2
        assert row["caption_is_cut"] == (len(ids) > encoder.token_length)
    cut = sum(row["kept"] and row["caption_is_cut"] for row in ledger if row["caption"] is not None)
    assert cut == 2
    told = f"2 of {sum(r['kept'] and r['caption'] is not None for r in ledger)} kept captions"
    assert told in captured.out + captured.err
    assert told in (output / "README.md").read_text()
    assert report.main([str(output)]) == 0
    assert told in (output / "report/index.html").read_text()
    assert verify.main([str(output), "--deep"]) == 0
    options = read_run(RunStore(str(output)))["steps"]["select"]["options"]["caption_tokens"]
    assert options == {"tokenizer_sha256": encoder.tokenizer_sha256, "max_tokens": 30}
    # What the cache holds is what was counted.
    counted = {row["key"]: row["caption_tokens"] for row in ledger}
    end = encoder.tokenizer.eos_token_id
    for sample in samples(output):
        kept = sample.input_ids.tolist().index(end) - 1
        assert kept == min(counted[sample.key] or 0, 30)


@pytest.mark.parametrize(
    "option",
    [
        "select.rules=[{column: caption_is_cut, max: 0, missing: keep, name: whole}]",
        'select.rules=[{sql: "caption_is_cut is not true", name: whole}]',
        "select.rules=[{column: caption_tokens, max: 30, missing: keep, name: whole}]",
    ],
)
def test_rules_can_go_by_what_is_cut(long_list: Path, tmp_path: Path, option: str) -> None:
    assert curated(long_list, tmp_path / "run", option, "score=null") == 0
    ledger = table(tmp_path / "run", "ledger").to_pylist()
    dropped = [row for row in ledger if row["rule"] == "whole"]
    assert len(dropped) == 2
    assert all(row["caption_is_cut"] for row in dropped)


def test_without_encode_nothing_is_counted_and_no_rule_can_go_by_it(
    long_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off = ("encode=null", "score=null", "select.rules=[]")
    assert curated(long_list, tmp_path / "run", *off) == 0
    ledger = table(tmp_path / "run", "ledger")
    for field in TOKEN_FIELDS:
        assert ledger.schema.field(field.name).type == field.type
        assert ledger[field.name].null_count == ledger.num_rows
    assert (
        "caption_tokens"
        not in read_run(RunStore(str(tmp_path / "run")))["steps"]["select"]["options"]
    )
    assert verify.main([str(tmp_path / "run"), "--deep"]) == 0
    capsys.readouterr()
    rule = 'select.rules=[{sql: "not caption_is_cut"}]'
    assert curated(long_list, tmp_path / "other", *off, rule) == 2
    assert "configure `encode`" in capsys.readouterr().err


def test_prompts_are_counted_in_the_ledger_and_the_metadata(tmp_path: Path) -> None:
    rows = [{"prompt": "a red star", "key": "a"}, {"prompt": _LONG, "key": "b"}]
    run = generated(rows, tmp_path / "all", "score=null", "generate.latents=null")
    for found in (table(run, "ledger"), table(run, "metadata")):
        assert found["caption_tokens"].to_pylist() == [3, 66]
        assert found["caption_is_cut"].to_pylist() == [False, True]
    assert verify.main([str(run), "--deep"]) == 0


# Runs made before.


def test_a_run_made_before_verifies_is_reported_and_taken_down(
    served_list: ServedList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = pa.schema([f for f in LEDGER if f.name not in {t.name for t in TOKEN_FIELDS}])
    output = tmp_path / "run"
    with monkeypatch.context() as before:
        for module in (select_facts, select_write):
            before.setattr(module, "LEDGER", older)
        before.setattr(run_steps, "token_identity", lambda counter: {})
        before.setattr(curate_steps, "load_caption_tokenizer", lambda config: None)
        assert curated(served_list.path, output) == 0
    shutil.rmtree(output / "_work/facts/score/rejects")
    forget_digests(output)
    assert "caption_tokens" not in table(output, "ledger").column_names
    assert verify.main([str(output), "--deep"]) == 0
    assert report.main([str(output)]) == 0
    key = samples(output)[0].key
    assert takedown.main([str(output), "--keys", str(_lines(tmp_path, key))]) == 0
    assert verify.main([str(output), "--deep"]) == 0
    assert key not in {sample.key for sample in samples(output)}
    # The job asks for a re-cut by name, which counts.
    assert curated(served_list.path, output) == 2
    assert curated(served_list.path, output, steps="select,encode") == 0
    assert table(output, "ledger")["caption_tokens"].null_count < cases.NUM_ROWS
    assert verify.main([str(output), "--deep"]) == 0


def _lines(folder: Path, *lines: str) -> Path:
    path = folder / "keys.txt"
    path.write_text("\n".join(lines))
    return path


def test_a_count_that_was_changed_is_found(unharmed_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    manifest = next((run / "_work/manifests/select").glob("*/000000.json"))
    tree = json.loads(manifest.read_text())
    [entry] = tree["files"]
    path = run / "_work" / entry["path"]
    ledger = pq.read_table(path)
    at = ledger.schema.get_field_index("caption_is_cut")
    flipped = pc.invert(ledger["caption_is_cut"])
    pq.write_table(ledger.set_column(at, "caption_is_cut", flipped), path)
    assert verify.main([str(run), "--deep"]) == 1
