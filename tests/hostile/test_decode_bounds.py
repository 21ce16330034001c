"""Every format and mode near the limits: what is decoded takes at most what is allowed, and what is
a little larger is refused. `-s` prints the table of which the figures of `bounds` are made."""

from collections.abc import Iterator

import pytest

from pipelines.steps.download.decode import decode_to_crop
from pipelines.steps.download.decoder_process import DecoderProcess
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from tests.pipelines.steps.download.child_memory import decode_and_measure, memory_mib
from tests.pipelines.steps.download.large_images import MODES, fitting_size

pytestmark = pytest.mark.hostile

CONFIG = ImageConfig()
LIMIT = CONFIG.max_memory_bytes
MOST_CPU_S = 6.0  # about 3 where nothing else runs
KEPT_FREE_MIB = 64
IN_A_ROW = ["webp lossless", "png rgb 16", "jpeg progressive 4:4:4", "gif", "tiff lzw", "bmp"]


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess(CONFIG) as running:
        yield running


def test_the_largest_picture_of_each_mode_is_decoded_within_the_limits(decoder, tally) -> None:
    cases = tally("large pictures")
    for mode in cases.some(list(MODES)):
        width, height = fitting_size(mode, LIMIT)
        data = MODES[mode].make(width, height)
        found = decode_and_measure(decoder, data)
        print(
            f"{mode:34} {width * height / 1e6:5.1f} MP {len(data) / 1e6:5.1f} MB"
            f" {found.peak_mib:6.1f} MiB {found.cpu_s:5.2f} s",
            flush=True,
        )
        with cases.case(mode):
            assert found.result.reason is None, found.result.error_message
            assert found.peak_mib <= LIMIT >> 20
            assert found.cpu_s <= MOST_CPU_S
    cases.close()


def test_a_larger_picture_of_each_mode_is_refused_undecoded(tally) -> None:
    cases = tally("large pictures")
    small = ImageConfig(max_memory_bytes=64 << 20)
    for mode in cases.some(list(MODES)):
        width, height = fitting_size(mode, small.max_memory_bytes, share=1.2)
        if width * height > 0.9 * MODES[mode].most_pixels:
            continue
        with cases.case(mode):
            assert _reason(MODES[mode].make(width, height), small) == "decode_out_of_memory"
    cases.close()


def _reason(data: bytes, config: ImageConfig) -> str | None:
    try:
        decode_to_crop(data, config)
    except ImageRejected as rejected:
        return rejected.reason
    return None


def test_what_the_allocator_keeps_of_one_is_not_charged_to_the_next(decoder, tally) -> None:
    cases = tally("large pictures")
    pictures = [MODES[mode].make(*fitting_size(mode, LIMIT, share=0.9)) for mode in IN_A_ROW]
    decode_and_measure(decoder, pictures[0])
    pid, idle_mib = decoder.pid, memory_mib(decoder.pid, "VmRSS")
    for mode, data in zip(IN_A_ROW[1:] * 2, pictures[1:] * 2, strict=True):
        result = decoder.submit(data).result()
        with cases.case(mode):
            assert result.reason is None, result.error_message
            assert decoder.pid == pid, "it died of it"
    with cases.case("in all"):
        assert memory_mib(pid, "VmHWM") <= idle_mib + (LIMIT >> 20) + KEPT_FREE_MIB
    cases.close()
