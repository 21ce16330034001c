"""What a child process holds, read from /proc."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.steps.download.decoder_process import DecodeResult, DecoderProcess
from tests.pipelines.steps.download import drawn

_BROKEN = drawn.saved(Image.new("RGB", (64, 64)), "PNG")[:-60]
_SMALL = [drawn.saved(Image.new("RGB", (64, 64)), name) for name in ("PNG", "JPEG", "WEBP")]


def memory_mib(pid: int, field: str) -> float:
    """A memory figure of /proc/<pid>/status, such as VmRSS or VmHWM, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What became of an original, and by how much its decoder grew above idleness."""

    result: DecodeResult
    peak_mib: float
    cpu_s: float


def decode_and_measure(decoder: DecoderProcess, data: bytes) -> Decoded:
    """Decodes in a process that has only decoded what is small: a broken file makes the one before
    retire."""
    assert decoder.submit(_BROKEN).result().reason is not None
    for small in _SMALL:
        assert decoder.submit(small).result().reason is None
    pid = decoder.pid
    idle_mib, before = memory_mib(pid, "VmRSS"), _cpu_s(pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
    result = decoder.submit(data).result()
    if decoder.pid != pid:  # it has retired, or died
        return Decoded(result=result, peak_mib=0.0, cpu_s=0.0)
    peak_mib = memory_mib(pid, "VmHWM") - idle_mib
    return Decoded(result=result, peak_mib=peak_mib, cpu_s=_cpu_s(pid) - before)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100
