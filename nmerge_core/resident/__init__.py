"""A family that stays in memory, and merges of it whose weights follow their recipe."""

from nmerge_core.resident.live import Family, Followed, LiveMerge, hold_family

__all__ = ["Family", "Followed", "LiveMerge", "hold_family"]
