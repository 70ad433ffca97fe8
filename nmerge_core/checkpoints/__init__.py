"""Hugging Face checkpoint folders: headers, lazy reads, adapters, families, fingerprints, and the writer of merges."""

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.fingerprint import fingerprint, fingerprint_files, fingerprint_weights
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.inspection import FamilyReport, ModelFacts, inspect_family
from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.checkpoints.reference import absolute, halves, is_hub_id, label, labels, on_this_machine, resolve

__all__ = [
    "Checkpoint",
    "FamilyReport",
    "ModelFacts",
    "TensorInfo",
    "absolute",
    "fingerprint",
    "fingerprint_files",
    "fingerprint_weights",
    "halves",
    "inspect_family",
    "is_hub_id",
    "label",
    "labels",
    "on_this_machine",
    "open_checkpoint",
    "resolve",
]
