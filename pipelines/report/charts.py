"""Charts by matplotlib, as `data:` URIs of SVG: each is a picture of its own on the page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.report.histograms import Histogram
from pipelines.report.progress import Commit

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


def progress_chart(commits: Sequence[Commit]) -> str:
    """Rows finished over time: those with an image, and all."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        minutes = [commit.after_s / 60 for commit in commits]
        images = np.cumsum([commit.images for commit in commits])
        rows = np.cumsum([commit.rows for commit in commits])
        axes.fill_between(minutes, images, color=_KEPT, step="post", label="with an image")
        axes.fill_between(minutes, images, rows, color=_DROPPED, step="post", label="failed")
        axes.set_xlabel("minutes after the first shard")
        axes.set_ylabel("rows finished")
        return _uri(figure, axes)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _uri(figure: Figure, axes: Axes) -> str:
    axes.legend(frameon=False, fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
