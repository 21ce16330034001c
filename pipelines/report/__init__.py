"""What a person looks at: one page that shows a run, and the card that goes with its data."""

from pipelines.report.captions import say_cut_captions
from pipelines.report.card import CARD_FILE, write_card
from pipelines.report.page import REPORT_FILE, ReportError, make_report, write_report

__all__ = [
    "CARD_FILE",
    "REPORT_FILE",
    "ReportError",
    "make_report",
    "say_cut_captions",
    "write_card",
    "write_report",
]
