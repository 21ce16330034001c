"""Charts by matplotlib, as `data:` URIs of SVG: each is a picture of its own on the page."""

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.report.histograms import Histogram
from pipelines.report.speeds import Rates

_KEPT, _DROPPED, _LINE = "#1f77b4", "#d9a441", "#b3261e"
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "latent-foundry", "font.size": 9}


def histogram_chart(histogram: Histogram) -> str:
    """Kept rows below, dropped ones on top of them, thresholds as lines."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        widths, left = np.diff(histogram.edges), histogram.edges[:-1]
        axes.bar(left, histogram.kept, widths, align="edge", color=_KEPT, label="kept")
        axes.bar(
            left,
            histogram.dropped,
            widths,
            bottom=histogram.kept,
            align="edge",
            color=_DROPPED,
            label="dropped",
        )
        for bound in histogram.bounds:
            axes.axvline(bound.value, color=_LINE, linestyle="--", label=str(bound))
        axes.set_xlabel(histogram.column)
        axes.set_ylabel("rows")
        return _uri(figure, axes)


def rates_chart(rates: Rates) -> str:
    """Rows a second over a step's time: those that passed it below, the others on top of them."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        widths, left = np.diff(rates.edges_s), rates.edges_s[:-1]
        axes.bar(left, rates.kept, widths, align="edge", color=_KEPT, label="passed")
        axes.bar(
            left,
            rates.dropped,
            widths,
            bottom=rates.kept,
            align="edge",
            color=_DROPPED,
            label="dropped",
        )
        axes.set_xlabel("seconds of the step's jobs")
        axes.set_ylabel("rows a second")
        return _uri(figure, axes)


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
