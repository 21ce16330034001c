"""Init: write a first configuration for the data and the machine that are there.

    latent-foundry init /data/pictures
    latent-foundry init urls.csv --to my.yaml && latent-foundry curate --config my.yaml

DATA is whatever curate reads: a folder of pictures, a list of URLs, tars, what img2dataset wrote,
Parquet with pictures, a data set of Hugging Face's on disk or, as hub:org/name@revision, in the
cache of `datasets`. Nothing is overwritten.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.command_line import PROJECT, check_output_file, home_path, job_parser, run_job
from jobs.exit_codes import ExitCode
from sd_core.errors import InputError
from sd_core.home import expand_home

if TYPE_CHECKING:
    from pipelines.workflows.first_config import Machine

_MODELS_FROM = "configs/curate/laion.yaml"
_MODEL_SECTIONS = ("score", "encode")


def main(arguments: list[str] | None = None) -> int:
    """Write the configuration; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options))


def _run(options: argparse.Namespace) -> int:
    from pipelines.config import load_config
    from pipelines.sources.sniff import sniff
    from pipelines.workflows.curate_config import CurateConfig
    from pipelines.workflows.first_config import first_config

    to = options.to.expanduser().absolute()
    if to.exists():
        raise InputError(f"--to {to}: is there already and stays as it is; give another file")
    check_output_file(to, "--to")
    path = _whole(options.data)
    named = {"url_column": options.url_column, "caption_column": options.caption_column}
    found = sniff(path, options={key: name for key, name in named.items() if name is not None})
    text = first_config(
        path,
        found,
        _this_machine(),
        output=_whole(options.output or _output_beside(to, path)),
        model_sections="\n".join(_model_sections()),
    )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "init.yaml"
        made.write_text(text, encoding="utf-8")
        load_config(CurateConfig, made)
        with to.open("x", encoding="utf-8") as stream:
            stream.write(text)
    print(f"{to}: written; look at it, then: latent-foundry curate --config {options.to}")
    return ExitCode.DONE


def _whole(path: str) -> str:
    is_url = "://" in path or path.startswith("hub:")
    return path if is_url else os.path.abspath(os.path.expanduser(path))


def _output_beside(to: Path, path: str) -> str:
    """A folder named after the data, beside the configuration."""
    name = re.sub(r"[^\w.-]+", "-", path.rstrip("/").rpartition("/")[2]).strip("-.") or "data"
    return str(to.parent / f"{name.partition('.')[0]}-run")


def _this_machine() -> "Machine":
    import torch

    from jobs.hardware import describe_hardware
    from pipelines.workflows.first_config import Machine

    hardware, spool = describe_hardware(), tempfile.gettempdir()
    gpus = range(torch.cuda.device_count())
    return Machine(
        num_cores=hardware.num_cores,
        memory_bytes=hardware.memory_bytes,
        spool=spool,
        spool_bytes=shutil.disk_usage(spool).free,
        gpus=[torch.cuda.get_device_name(gpu) for gpu in gpus],
    )


def _model_sections() -> Iterator[str]:
    """The lines of the shipped configuration that say which models there are."""
    section = ""
    for line in (PROJECT / _MODELS_FROM).read_text(encoding="utf-8").splitlines():
        section = line.partition(":")[0] if line[:1].isalpha() else section
        if section in _MODEL_SECTIONS and line:
            yield line


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    parser.add_argument(
        "data", type=expand_home, help="a file, a folder or a glob, here or by its URL"
    )
    parser.add_argument(
        "--to", type=home_path, default=Path("curate.yaml"), help="the file to write (curate.yaml)"
    )
    parser.add_argument(
        "--output", type=expand_home, help="the run's folder; by default one beside the file"
    )
    parser.add_argument("--url-column", metavar="NAME", help="where it goes by no usual name")
    parser.add_argument("--caption-column", metavar="NAME", help="the same; '' says there is none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
