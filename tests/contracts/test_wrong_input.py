"""What a user can give wrong ends every job with 2 and one message that names it; no trace."""

import gzip
import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import clean, report, takedown, train, verify
from jobs import curate as curate_job
from jobs import generate as generate_job
from jobs.bench import __main__ as bench
from jobs.demo import __main__ as demo
from jobs.demo import photographs
from tests.contracts import cases as curation
from tests.contracts.cases import ServedList
from tests.contracts.job_cases import PICTURES, call, curate, generate, write_list, write_prompts
from tests.contracts.training_cases import write_config

pytestmark = pytest.mark.slow

TINY = curation.ROOT / "sd_core/presets/tiny"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Given:
    """What the cases start from: a folder of their own, and right inputs."""

    folder: Path
    list: Path
    prompts: Path
    run: Path
    """A finished curation."""

    @property
    def output(self) -> Path:
        """Where nothing is yet."""
        return self.folder / "output"

    def write(self, name: str, content: bytes | str = b"") -> Path:
        """A file of this case."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def table(self, **columns: object) -> Path:
        """A Parquet list of this case."""
        pq.write_table(pa.table(columns), self.folder / "table.parquet")
        return self.folder / "table.parquet"

    def model(self, name: str) -> Path:
        """A copy of one that ships with the project."""
        return Path(shutil.copytree(TINY / name, self.folder / name))

    def model_with(self, name: str, files: Mapping[str, str]) -> Path:
        """Such a copy with other files."""
        folder = self.model(name)
        for file, text in files.items():
            (folder / file).write_text(text)
        return folder


@pytest.fixture
def given(tmp_path: Path, served_list: ServedList, unharmed_run: Path) -> Given:
    return Given(
        folder=tmp_path,
        list=write_list(tmp_path / "list.parquet", served_list, PICTURES),
        prompts=write_prompts(tmp_path / "prompts.parquet", ["a red circle"]),
        run=unharmed_run,
    )


Case = tuple[Callable[[Given], list[str]], str]


def check(
    main: Callable[[list[str] | None], int],
    case: Case,
    given: Given,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, named = case
    outcome = call(main, *arguments(given), capsys=capsys)
    assert outcome.code == 2, outcome
    assert named in outcome.err, outcome.err
    assert "Traceback" not in outcome.err
    assert not given.output.exists()


def zipped(content: bytes) -> bytes:
    return gzip.compress(content)[:-12]


def cut_tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo("0.jpg")
        member.size = 4000
        archive.addfile(member, io.BytesIO(bytes(4000)))
    return content.getvalue()[:2000]


def other_folder(g: Given) -> Path:
    return g.write("things/notes.txt", "mine").parent


def begun(g: Given, name: str, content: str) -> Path:
    """A run one of whose records is damaged."""
    return g.write(f"begun/{name}", content).parents[name.count("/")]


def cut_clip(g: Given) -> Path:
    folder = g.model("clip")
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def rescaled(g: Given) -> Path:
    """Another autoencoder by what its configuration says."""
    folder = g.model("autoencoder")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "scaling_factor": 0.5}))
    return folder


def deeper(g: Given) -> Path:
    """A model whose denoiser is said to have more layers than its weights are of."""
    folder = g.model("model")
    path = folder / "unet/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 2}))
    return folder


def retrained(g: Given) -> Path:
    """Another autoencoder by its weights alone."""
    folder = g.model("autoencoder")
    weights = folder / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    return folder


def long_head(g: Given) -> Path:
    import torch
    from safetensors.torch import save_file

    path = g.folder / "head.safetensors"
    save_file({"weight": torch.zeros(1, 512), "bias": torch.zeros(1)}, path)
    return path


REFERENCES = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in itertools.pairwise("abcdefghijkl")
)
DEEP = {"open_clip_config.json": "[" * 100_000}
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"

CURATE: dict[str, Case] = {
    "no configuration": (lambda g: ["--config", str(g.folder / "no.yaml")], "no.yaml"),
    "a folder as configuration": (lambda g: ["--config", str(g.folder)], "cannot be read"),
    "a binary configuration": (
        lambda g: ["--config", str(g.write("c.yaml", b"\xff\xfe\x00"))],
        "c.yaml",
    ),
    "not YAML": (lambda g: ["--config", str(g.write("c.yaml", "a: [1"))], "not YAML"),
    "a list as configuration": (
        lambda g: ["--config", str(g.write("c.yaml", "[1]"))],
        "must be a mapping",
    ),
    "unknown key": (lambda g: curate(g.list, g.output, selct__x=1), "selct: unknown key"),
    "wrong value": (lambda g: curate(g.list, g.output, image__size="big"), "image.size"),
    "YAML nested thousands deep": (
        lambda g: ["--config", str(g.write("c.yaml", "a: " + "[" * 5000 + "]" * 5000))],
        "levels deep",
    ),
    "YAML whose references come to gigabytes": (
        lambda g: ["--config", str(g.write("c.yaml", REFERENCES))],
        "its references come to",
    ),
    "YAML that holds itself": (
        lambda g: ["--config", str(g.write("c.yaml", "a: &a [*a]"))],
        "Circular reference",
    ),
    "an option nested thousands deep": (
        lambda g: curate(g.list, g.output, select__rules="[" * 5000),
        "levels deep",
    ),
    "NUL in the output": (lambda g: curate(g.list, '"/tmp/a\\0b"'), "no NUL"),
    "NUL in the source": (
        lambda g: curate(g.list, g.output, source__path='"/tmp/a\\0b.csv"'),
        "no file found",
    ),
    "an output whose name is too long": (
        lambda g: curate(g.list, "/tmp/" + "x" * 5000),
        "name too long",
    ),
    "JSON nested thousands deep": (
        lambda g: curate(g.list, g.output, score__clip__name=g.model_with("clip", DEEP)),
        "cannot load its tokenizer",
    ),
    "a pointer in place of a list": (
        lambda g: curate(g.write("list.txt", POINTER), g.output),
        "list.txt: a Git-LFS pointer",
    ),
    "a pointer in place of a Parquet": (
        lambda g: curate(g.write("list.parquet", POINTER), g.output),
        "list.parquet: a Git-LFS pointer",
    ),
    "a pointer in place of a block list": (
        lambda g: curate(g.list, g.output, block__urls=g.write("urls.txt", POINTER)),
        "urls.txt: a Git-LFS pointer",
    ),
    "a pointer in place of a CLIP": (
        lambda g: curate(
            g.list,
            g.output,
            score__clip__name=g.model_with("clip", {"open_clip_model.safetensors": POINTER}),
        ),
        "open_clip_model.safetensors: a Git-LFS pointer",
    ),
    "a pickled CLIP": (
        lambda g: curate(
            g.list,
            g.output,
            score__clip__name="ViT-B-32",
            score__clip__pretrained=g.write("clip.pt", b"\x80\x04."),
        ),
        "clip.pt",
    ),
    "no equals sign": (
        lambda g: [*curate(g.list, g.output), "--set", "output"],
        "expected section.field=value",
    ),
    "unknown option": (lambda g: [*curate(g.list, g.output), "--stpes", "x"], "unrecognized"),
    "unknown step": (lambda g: curate(g.list, g.output, "--steps", "encod"), "allowed: download"),
    "no step": (lambda g: curate(g.list, g.output, "--steps", ""), "allowed: download"),
    "a step that is null": (
        lambda g: curate(g.list, g.output, "--steps", "encode"),
        "--steps encode: null in the configuration",
    ),
    "a step before its parent": (
        lambda g: curate(g.list, g.output, "--steps", "select"),
        "download is not complete",
    ),
    "grow and retry": (lambda g: curate(g.list, g.output, "--grow", "--retry"), "--retry"),
    "retry of nothing": (lambda g: curate(g.list, g.output, "--retry"), "is not complete"),
    "no source": (lambda g: curate(g.folder / "no.parquet", g.output), "no.parquet"),
    "an empty folder as source": (
        lambda g: curate(g.write("empty/.hidden").parent, g.output),
        "no file found",
    ),
    "an unknown extension": (lambda g: curate(g.write("list.doc", "x"), g.output), "list.doc"),
    "an unknown protocol as source": (
        lambda g: curate(Path("list.parquet"), g.output, source__path="nosuch://a/b.parquet"),
        "nosuch",
    ),
    "a Parquet that is none": (
        lambda g: curate(g.write("broken.parquet", b"PAR1 not"), g.output),
        "broken.parquet: cannot be read as Parquet",
    ),
    "a Parquet without a byte": (
        lambda g: curate(g.write("broken.parquet"), g.output),
        "broken.parquet: cannot be read as Parquet",
    ),
    "a Parquet without rows": (
        lambda g: curate(
            g.table(url=pa.array([], pa.string()), caption=pa.array([], pa.string())), g.output
        ),
        "no rows",
    ),
    "no URL column": (lambda g: curate(g.table(a=["x"], b=["y"]), g.output), "no url_column"),
    "another URL column": (
        lambda g: curate(g.list, g.output, source__url_column="link"),
        "source.url_column is 'link'",
    ),
    "a URL column of numbers": (
        lambda g: curate(g.table(url=[1, 2], caption=["a", "b"]), g.output),
        "not text",
    ),
    "no such column of hashes": (
        lambda g: curate(g.list, g.output, source__content_hash="md5"),
        "source.content_hash is 'md5'",
    ),
    "a CSV without a byte": (lambda g: curate(g.write("list.csv"), g.output), "list.csv: empty"),
    "a CSV without rows": (
        lambda g: curate(g.write("list.csv", "url,text\n"), g.output),
        "no rows",
    ),
    "a CSV with an open quote": (
        lambda g: curate(g.write("list.csv", 'url\n"http://a/' + "x" * (17 << 20)), g.output),
        "list.csv",
    ),
    "JSON lines without a URL": (
        lambda g: curate(g.write("list.jsonl", '{"a": 1}\n'), g.output),
        "no url_column",
    ),
    "a text without lines": (lambda g: curate(g.write("list.txt", "\n\n"), g.output), "no rows"),
    "a list that is cut off": (
        lambda g: curate(g.write("list.csv.gz", zipped(b"url\nhttp://a/b\n" * 99)), g.output),
        "list.csv.gz: cannot be decompressed",
    ),
    "a tar that is cut off": (
        lambda g: curate(g.write("images.tar", cut_tar()), g.output),
        "images.tar: cut off",
    ),
    "a file as output": (lambda g: curate(g.list, g.list), "list.parquet is a file"),
    "an output below a file": (lambda g: curate(g.list, g.list / "run"), "is a file"),
    "an output of other things": (lambda g: curate(g.list, other_folder(g)), "notes.txt"),
    "another job's output": (
        lambda g: curate(g.list, begun(g, "run.json", '{"job": "train", "steps": {}}')),
        "holds a run of another job (train)",
    ),
    "another run's output": (
        lambda g: curate(g.list, g.run),
        "the source has changed since the run was planned",
    ),
    "a damaged run.json": (lambda g: curate(g.list, begun(g, "run.json", "{")), "run.json"),
    "a damaged plan": (
        lambda g: curate(g.list, begun(g, "plan/plan.json", "{}")),
        "plan/plan.json",
    ),
    "a relative output": (lambda g: curate(g.list, "run"), "is a relative path"),
    "an unknown protocol as output": (lambda g: curate(g.list, "nosuch://run"), "nosuch"),
    "a rule on no column": (
        lambda g: curate(g.list, g.output, rules__punsafe__max=0.5),
        "rules",
    ),
    "no block list": (
        lambda g: curate(g.list, g.output, block__urls=g.folder / "no.txt"),
        "block.urls",
    ),
    "a block list of no hashes": (
        lambda g: curate(g.list, g.output, block__sha256=g.write("bad.txt", "12ab\n")),
        "is not a sha256 digest",
    ),
    "a block list of no domains": (
        lambda g: curate(g.list, g.output, block__domains=g.write("bad.txt", "a/b\n")),
        "is not a domain",
    ),
    "a block list of two columns": (
        lambda g: curate(g.list, g.output, block__urls=g.table(a=["x"], b=["y"])),
        "has one column",
    ),
    "a block list that is no Parquet": (
        lambda g: curate(g.list, g.output, block__urls=g.write("bad.parquet", b"x")),
        "block.urls",
    ),
    "no list of words": (
        lambda g: curate(g.list, g.output, select__rules=f"[{{block_words: {g.folder}/no.txt}}]"),
        "no.txt",
    ),
    "no list of keys": (
        lambda g: curate(g.list, g.output, select__rules=f"[{{block_keys: {g.folder}/no.txt}}]"),
        "no.txt",
    ),
    "a condition on no column": (
        lambda g: curate(g.list, g.output, select__rules='[{sql: "nothing > 1"}]'),
        "nothing",
    ),
    "no reference set": (
        lambda g: curate(
            g.list,
            g.output,
            select__duplicates=f"{{references: [{{path: {g.folder}/no, by: [sha256]}}]}}",
        ),
        "select.duplicates.references",
    ),
    "a reference set that is no Parquet": (
        lambda g: curate(
            g.list,
            g.output,
            select__duplicates=(
                f"{{references: [{{path: {g.write('bad.parquet', b'x')}, by: [sha256]}}]}}"
            ),
        ),
        "select.duplicates.references",
    ),
    "no weights": (
        lambda g: curate(g.list, g.output, score__aesthetic_v1__weights=g.folder / "no.pth"),
        "score.aesthetic_v1.weights",
    ),
    "other weights than are pinned": (
        lambda g: curate(g.list, g.output, score__aesthetic_v1__sha256="'" + "0" * 64 + "'"),
        "has sha256",
    ),
    "a head of another length": (
        lambda g: curate(g.list, g.output, score__aesthetic_v1__weights=long_head(g)),
        "embeddings of length 512",
    ),
    "a head that is none": (
        lambda g: curate(
            g.list, g.output, score__aesthetic_v1__weights=g.write("head.safetensors", b"x")
        ),
        "head.safetensors cannot be read",
    ),
    "a CLIP that is cut off": (
        lambda g: curate(g.list, g.output, score__clip__name=cut_clip(g)),
        "open_clip_model.safetensors cannot be read",
    ),
    "a CLIP whose tokenizer lacks its vocabulary": (
        lambda g: curate(
            g.list,
            g.output,
            score__clip__name=without(without(g.model("clip"), "vocab.json"), "merges.txt"),
        ),
        "knows no word",
    ),
    "a folder that is no CLIP": (
        lambda g: curate(g.list, g.output, score__clip__name=g.model("autoencoder")),
        "autoencoder",
    ),
    "an autoencoder of another kind": (
        lambda g: curate(
            g.list,
            g.output,
            encode=f"{{autoencoder: {{model: {g.model('model') / 'unet'}}}, "
            "text_encoder: {clip: {name: preset:tiny/clip}}}",
            select__rules="[]",
        ),
        "is a UNet2DConditionModel",
    ),
}


@pytest.mark.parametrize("name", CURATE)
def test_curate_refuses(name: str, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    check(curate_job.main, CURATE[name], given, capsys)


GENERATE: dict[str, Case] = {
    "unknown key": (lambda g: generate(g.prompts, g.output, genrate__x=1), "unknown key"),
    "unknown step": (lambda g: generate(g.prompts, g.output, "--steps", "x"), "allowed: generate"),
    "a step that is null": (
        lambda g: generate(g.prompts, g.output, "--steps", "score"),
        "--steps score: null in the configuration",
    ),
    "no prompts": (lambda g: generate(g.folder / "no.parquet", g.output), "no.parquet"),
    "prompts without rows": (
        lambda g: generate(g.table(prompt=pa.array([], pa.string())), g.output),
        "no prompts",
    ),
    "prompts without their column": (
        lambda g: generate(g.table(a=["x"], b=["y"]), g.output),
        "among the columns: a, b",
    ),
    "prompts that are no Parquet": (
        lambda g: generate(g.write("broken.parquet", b"x"), g.output),
        "cannot be read as Parquet",
    ),
    "a file as output": (lambda g: generate(g.prompts, g.prompts), "is a file"),
    "a curation as output": (
        lambda g: generate(g.prompts, g.run),
        "holds a run of another job (curate)",
    ),
    "an output of other things": (lambda g: generate(g.prompts, other_folder(g)), "notes.txt"),
    "no model": (
        lambda g: generate(g.prompts, g.output, generate__model__model=g.folder / "no"),
        "generate.model",
    ),
    "a model of another kind": (
        lambda g: generate(g.prompts, g.output, generate__model__model=g.model("clip")),
        "clip",
    ),
    **{
        f"a model without the weights of its {name.partition('/')[0]}": (
            lambda g, name=name: generate(
                g.prompts, g.output, generate__model__model=without(g.model("model"), name)
            ),
            f"{name.partition('/')[0]} holds no {name.partition('/')[2]}",
        )
        for name in (f"unet/{WEIGHTS}", f"vae/{WEIGHTS}", "text_encoder/model.safetensors")
    },
    "a model whose denoiser does not fit its configuration": (
        lambda g: generate(g.prompts, g.output, generate__model__model=deeper(g)),
        "does not fit its config.json",
    ),
    "a LoRA that is none": (
        lambda g: generate(
            g.prompts,
            g.output,
            generate__model__loras=f"[{{model: {g.write('lora.safetensors', b'x')}}}]",
        ),
        "lora",
    ),
    "no run to start from": (
        lambda g: generate(g.prompts, g.output, generate__init=f"{{path: {g.folder / 'no'}}}"),
        "generate.init.path",
    ),
}


@pytest.mark.parametrize("name", GENERATE)
def test_generate_refuses(name: str, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    check(generate_job.main, GENERATE[name], given, capsys)


def training(g: Given, latents: Path, output: Path | None = None, **changes: object) -> list[str]:
    path = write_config(g.folder / "train.yaml", latents, output or g.output, **changes)
    return ["--config", str(path)]


TRAIN: dict[str, Case] = {
    "unknown task": (lambda g: training(g, g.run / "latents", task="x"), "task"),
    "unknown key": (lambda g: training(g, g.run / "latents", looop=1), "looop: unknown key"),
    "no cache": (lambda g: training(g, g.folder / "no"), "no cache can be read there"),
    "a file in place of a cache": (lambda g: training(g, g.list), "list.parquet"),
    "a cache of another autoencoder": (
        lambda g: training(g, g.run / "latents", model__autoencoder__model=str(rescaled(g))),
        "cannot be used together",
    ),
    "a cache of an autoencoder with other weights": (
        lambda g: training(g, g.run / "latents", model__autoencoder__model=str(retrained(g))),
        "identity.autoencoder.weights_sha256",
    ),
    "no model": (
        lambda g: training(g, g.run / "latents", model={"model": str(g.folder / "no")}),
        "there is nothing at",
    ),
    "a curation as output": (
        lambda g: training(g, g.run / "latents", g.run),
        "holds a run of another job (curate)",
    ),
    "an output of other things": (
        lambda g: training(g, g.run / "latents", other_folder(g)),
        "notes.txt",
    ),
    "no run of images": (
        lambda g: [
            "--config",
            str(curation.ROOT / "configs/train/autoencoder_tiny.yaml"),
            *("--set", f"output={g.output}", "--set", f"data.0.path={g.folder / 'no'}"),
        ],
        "no curated run",
    ),
}


@pytest.mark.parametrize("name", TRAIN)
def test_train_refuses(name: str, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    check(train.main, TRAIN[name], given, capsys)


TAKEDOWN: dict[str, Case] = {
    "no list": (lambda g: [str(g.run)], "give a list"),
    "a list that is not there": (
        lambda g: [str(g.run), "--urls", str(g.folder / "no.txt")],
        "--urls",
    ),
    "an empty list": (
        lambda g: [str(g.run), "--urls", str(g.write("urls.txt", "# none\n"))],
        "the lists are empty",
    ),
    "keys that are none": (
        lambda g: [str(g.run), "--keys", str(g.write("keys.txt", "http://a/b\n"))],
        "16 hex digits",
    ),
    "hashes that are none": (
        lambda g: [str(g.run), "--sha256", str(g.write("hashes.txt", "12ab\n"))],
        "64 hex digits",
    ),
    "domains that are none": (
        lambda g: [str(g.run), "--domains", str(g.write("domains.txt", "a.com/x\n"))],
        "is not a domain",
    ),
    "no run": (
        lambda g: [str(g.folder / "no"), "--urls", str(g.write("urls.txt", "http://a/b"))],
        "not a run",
    ),
}


@pytest.mark.parametrize("name", TAKEDOWN)
def test_takedown_refuses(name: str, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    check(takedown.main, TAKEDOWN[name], given, capsys)
    assert not (given.folder / "no").exists()


def a_training(g: Given) -> str:
    return str(begun(g, "run.json", json.dumps({"job": "train", "steps": {}})))


@pytest.mark.parametrize("job", [verify, report, clean], ids=lambda job: job.__name__)
@pytest.mark.parametrize(
    "case",
    [
        (lambda g: [str(g.folder / "no")], "not a run"),
        (lambda g: [str(other_folder(g))], "not a run"),
        (lambda g: [str(g.list)], "is a file"),
        (lambda g: ["run"], "is a relative path"),
        (lambda g: ["nosuch://run"], "nosuch"),
        (lambda g: [], "required"),
    ],
    ids=["nothing", "other things", "a file", "a relative path", "a protocol", "no argument"],
)
def test_what_is_no_run_is_refused_and_left_as_it_is(
    job: object, case: Case, given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    check(job.main, case, given, capsys)  # type: ignore[attr-defined]
    assert not (given.folder / "no").exists()


def test_other_jobs_name_what_is_wrong(given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    no = given.folder / "no"
    photos = given.write("photos/captions.jsonl", '{"file": "a.jpg"}\n').parent
    for job, arguments, named in (
        (verify, [str(no)], "not a run"),
        (report, [str(given.run), "--output", str(no / "page.html")], "its folder is not there"),
        (report, [a_training(given)], "select is not complete"),
        (clean, [str(given.run), "--grace", "soon"], "give seconds"),
        (bench, ["downlaod"], "invalid choice"),
        (bench, ["download", "--photos", str(no), "--metadata", str(no)], str(no)),
        (bench, ["select", "--json", str(no / "x.json")], "its folder is not there"),
        (demo, ["--output", str(given.list)], "is a file"),
        (demo, ["--output", str(other_folder(given))], "not empty"),
        (photographs, ["--photos", str(no)], "there is nothing at"),
        (photographs, [], "required"),
        (
            photographs,
            ["--photos", photos, "--autoencoder", TINY, "--heads", photos],
            "sa_0_4_vit_b_32_linear.pth",
        ),
    ):
        check(job.main, (lambda g, found=arguments: found, named), given, capsys)  # type: ignore[attr-defined, misc]
