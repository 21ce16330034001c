"""The loss over the steps, as a picture."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

LOSS_CURVE_FILE = "loss_curve.png"
_WINDOW_SHARE = 20  # the running mean is over a twentieth of the lines


def draw_loss_curve(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of every loss in the lines of metrics.jsonl: the values, and their running mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = sorted({name for line in lines for name in line if name.split("/")[-1] == "loss"})
    for name in names:
        steps = [line["step"] for line in lines if name in line]
        values = [line[name] for line in lines if name in line]
        (dots,) = axes.plot(steps, values, ".", markersize=3, alpha=0.4)
        axes.plot(steps, _running_mean(values), color=dots.get_color(), label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _running_mean(values: Sequence[float]) -> list[float]:
    window = max(1, len(values) // _WINDOW_SHARE)
    means = []
    for place in range(len(values)):
        part = values[max(0, place - window + 1) : place + 1]
        means.append(sum(part) / len(part))
    return means
