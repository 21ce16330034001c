"""Samplers as other programs name them, by our names.

Sources: the names of A1111's menu, which its log.csv and its images' parameters carry; those of
k-diffusion as ComfyUI and DiffusionDB write them; the codes of DiffusionDB's metadata.parquet by
its data card (Wang et al. 2022, arXiv:2210.14896).
"""

from collections.abc import Mapping
from typing import Any, Final

DIFFUSIONDB_CODES: Final[Mapping[int, str]] = {
    1: "ddim",
    2: "plms",
    3: "k_euler",
    4: "k_euler_ancestral",
    5: "k_heun",
    6: "k_dpm_2",
    7: "k_dpm_2_ancestral",
    8: "k_lms",
    9: "others",
}
_OURS: Final[Mapping[str, str]] = {
    "plms": "pndm",
    "k_euler": "euler",
    "euler_ancestral": "euler_a",
    "k_euler_a": "euler_a",
    "k_euler_ancestral": "euler_a",
    "dpm++_2m": "dpmpp_2m",
    "k_dpmpp_2m": "dpmpp_2m",
    "dpm++_2m_karras": "dpmpp_2m_karras",
    "dpm++_2m_sde": "dpmpp_2m_sde",
    "dpm++_2m_sde_karras": "dpmpp_2m_sde_karras",
    "dpm++_2s": "dpmpp_2s",
    "k_heun": "heun",
    "uni_pc": "unipc",
}
"""Beside our own names, in any case, with spaces or hyphens for the underscores. Whether there is
such a sampler, and whether it goes with the model, is not judged here."""


def sampler_name(found: Any, replaced: Mapping[str, str] | None = None) -> str:
    """Our name of a sampler; what we do not have stays as it is, for the model to refuse by name.

    Args:
        found: A name, or one of DiffusionDB's codes.
        replaced: `prompts.samplers`: names of the list, and ours to take in their place.
    """
    text = str(found).strip()
    code = _code(text)
    if code is not None:
        text = DIFFUSIONDB_CODES.get(code, text)
    plain = _plain(text)
    for name, ours in (replaced or {}).items():
        if _plain(name) in (plain, None if code is None else str(code)):
            return ours
    return _OURS.get(plain, plain if plain.isidentifier() else text)


def _code(text: str) -> int | None:
    """`8`, or `8.0` from a column of floating point numbers."""
    whole = text.removesuffix(".0")
    return int(whole) if whole.isascii() and whole.isdecimal() and len(whole) < 3 else None


def _plain(name: str) -> str:
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())
