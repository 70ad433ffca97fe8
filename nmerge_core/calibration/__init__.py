"""What merging may know of a model beside its weights, measured on texts: Fisher information, its layers' inputs."""

from nmerge_core.calibration.collect import cache_folder, cached, collect
from nmerge_core.calibration.store import KINDS, Statistics, open_statistics, stacked_statistics

__all__ = ["KINDS", "Statistics", "cache_folder", "cached", "collect", "open_statistics", "stacked_statistics"]
