"""The report of a run: one HTML file that needs no network, and the same as Markdown."""

from advisor.report.collect import collect
from advisor.report.schema import RunReport
from advisor.report.write import write_report

__all__ = ["RunReport", "collect", "write_report"]
