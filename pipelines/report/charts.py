"""Charts by matplotlib, as `data:` URIs of SVG: each is a picture of its own on the page."""

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.report.histograms import Histogram
from pipelines.report.speeds import Rates

_KEPT, _DROPPED, _LINE = "#1f77b4", "#d9a441", "#b3261e"
ChartValues = npt.NDArray[np.float64] | npt.NDArray[np.int64]
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "latent-foundry", "font.size": 9}


def histogram_chart(histogram: Histogram) -> str:
    """Kept rows below, dropped ones on top of them, thresholds as lines."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        _stack(axes, histogram.edges, kept=histogram.kept, dropped=histogram.dropped)
        for bound in histogram.bounds:
            axes.axvline(bound.value, color=_LINE, linestyle="--", label=str(bound))
        axes.set_xlabel(histogram.column)
        axes.set_ylabel("rows")
        return _uri(figure, axes)


def rates_chart(rates: Rates) -> str:
    """Rows a second over a step's time: those that it kept below, the others on top of them."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        _stack(axes, rates.edges_s, kept=rates.kept, dropped=rates.dropped)
        axes.set_xlabel("seconds of the step's jobs")
        axes.set_ylabel("rows a second")
        return _uri(figure, axes)


def _stack(axes: Axes, edges: ChartValues, *, kept: ChartValues, dropped: ChartValues) -> None:
    widths, left = np.diff(edges), edges[:-1]
    axes.bar(left, kept, widths, align="edge", color=_KEPT, label="kept")
    axes.bar(left, dropped, widths, bottom=kept, align="edge", color=_DROPPED, label="dropped")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _uri(figure: Figure, axes: Axes) -> str:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=4, frameon=False, fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
