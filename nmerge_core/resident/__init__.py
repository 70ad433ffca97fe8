"""A family that stays in memory, and merges of it whose weights follow their recipe."""

from nmerge_core.resident.live import Family, Followed, LiveMerge, hold_family
from nmerge_core.resident.stream import Place

__all__ = ["Family", "Followed", "LiveMerge", "Place", "hold_family"]
