"""What must be known of a class of denoisers, whatever its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sd_core.model.conditioning import Conditioning
from sd_core.model.settings_check import Decisions

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DenoiserFamily:
    """One of diffusers' classes; an entry of `DENOISERS`.

    Attributes:
        part: Its name in a pipeline's folder.
        decisions: Which keys of its `config.json` are honoured.
        conditions: What its call takes beside inputs, timesteps and text, of its settings, the
            conditioning and the weights' dtype.
        out_channels: Where its settings do not say.
        predicts_variance: It may give a variance beside, in as many channels, which is left out.
        computes_tensors: Some of its tensors are computed as it is built, so that it is built with
            values before it is filled.
        pipeline: The class of pipeline that opens it; None: as the task and the text say.
        completed: The settings with what diffusers itself makes of a missing one.
    """

    part: str
    decisions: Decisions
    conditions: Callable[[Settings, Conditioning, torch.dtype], dict[str, Any]]
    out_channels: int
    predicts_variance: bool = False
    computes_tensors: bool = False
    pipeline: str | None = None
    completed: Callable[[Settings], Settings] = lambda settings: settings
