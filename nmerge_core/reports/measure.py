"""Measuring what a report shows, part by part: what is there already is read, so that a stopped report goes on."""

from nmerge_core.reports.measure_answers import answer_steps, measure_alone, measure_knockouts
from nmerge_core.reports.measure_merges import measure_merges, merge_steps
from nmerge_core.reports.measure_texts import measure_linearity, measure_neurons, text_steps
from nmerge_core.reports.measure_weights import STEPS, measure_weights
from nmerge_core.reports.measuring import Measuring


def measure(report: Measuring) -> None:
    """Measure everything that the family allows, in the order in which later parts need earlier ones."""
    report.total = _total(report)
    folders = measure_neurons(report)
    report.total = _total(report)  # a small corpus has texts for fewer votes
    measure_weights(report)
    measure_alone(report)
    measure_knockouts(report, folders)
    measure_linearity(report, folders)
    measure_merges(report, folders)


def _total(report: Measuring) -> float:
    return STEPS + text_steps(report) + answer_steps(report) + merge_steps(report)
