"""Measuring what a report shows, part by part: what is there already is read, so that a stopped report goes on."""

from nmerge_core.reports.measure_answers import measure_alone, measure_knockouts
from nmerge_core.reports.measure_merges import measure_merges
from nmerge_core.reports.measure_texts import measure_linearity, measure_neurons
from nmerge_core.reports.measure_weights import measure_weights
from nmerge_core.reports.measuring import Measuring


def measure(report: Measuring) -> None:
    """Measure everything that the family allows, in the order in which later parts need earlier ones."""
    folders = measure_neurons(report)
    report.foresee()  # a small corpus has texts for fewer votes
    measure_weights(report)
    measure_alone(report)
    measure_knockouts(report, folders)
    measure_linearity(report, folders)
    measure_merges(report, folders)
