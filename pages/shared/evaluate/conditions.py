"""How models are asked what they are scored on: the parameters of the run that are the same for every task."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import streamlit as st

from nmerge_core.parameters.settings import (
    BACKEND,
    CHAT_TEMPLATE,
    DECODING,
    EVALUATE_BATCH,
    EVALUATE_SEED,
    RUN_DTYPE,
    SHOTS,
    VLLM,
)
from nmerge_core.runs.kinds import KINDS
from pages.shared.frame.address import forget_endless
from pages.shared.frame.scoring import Scoring
from pages.shared.frame.settings import KEPT


def opened(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the controls are set to, by their keys, where the page opens on a run that was asked so."""
    batch = asked.get(EVALUATE_BATCH.name)
    return {
        "evaluate_decoding": asked.get(DECODING.name, DECODING.default),
        "evaluate_chat": asked.get(CHAT_TEMPLATE.name, False),
        "evaluate_shots": asked.get(SHOTS.name),
        "evaluate_batch": batch if isinstance(batch, int) else None,
        "evaluate_seed": asked.get(EVALUATE_SEED.name, EVALUATE_SEED.default),
        "evaluate_dtype": asked.get(RUN_DTYPE.name, RUN_DTYPE.default),
        "evaluate_backend": asked.get(BACKEND.name, BACKEND.default),
    }


def conditions(asked: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Draw how problems are asked, folded, and return what is no default."""
    given: dict[str, Any] = {}
    began = opened(asked)
    with st.expander("How they are asked", icon=":material/tune:"):
        if kind == Scoring.kind:
            left, right = st.columns(2)
            with left:
                key = "evaluate_decoding"
                place = DECODING.choices.index(began[key])
                given[DECODING.name] = st.selectbox(
                    "Decoding", DECODING.choices, place, key=key, help=DECODING.help, **KEPT
                )
                key = "evaluate_chat"
                given[CHAT_TEMPLATE.name] = st.toggle(
                    "In the chat template", began[key], key=key, help=CHAT_TEMPLATE.help, **KEPT
                )
            with right:
                for key, label, parameter, unset in (
                    ("evaluate_shots", "Examples", SHOTS, "as the task says"),
                    ("evaluate_batch", "Batch size", EVALUATE_BATCH, "found by itself"),
                    ("evaluate_seed", "Seed", EVALUATE_SEED, str(EVALUATE_SEED.default)),
                ):
                    low = int(parameter.low or 0)
                    forget_endless(key)
                    given[parameter.name] = st.number_input(
                        label, low, None, began[key], key=key, placeholder=unset, help=parameter.help, **KEPT
                    )
        key = "evaluate_dtype"
        place = RUN_DTYPE.choices.index(began[key])
        given[RUN_DTYPE.name] = st.selectbox(
            "Number format", RUN_DTYPE.choices, place, key=key, help=RUN_DTYPE.help, **KEPT
        )
        if kind == Scoring.kind and (find_spec(VLLM) or began["evaluate_backend"] == VLLM):
            key = "evaluate_backend"
            place = BACKEND.choices.index(began[key])
            given[BACKEND.name] = st.selectbox("Run by", BACKEND.choices, place, key=key, help=BACKEND.help, **KEPT)
    by_name = KINDS[kind].by_name
    return {name: value for name, value in given.items() if value is not None and value != by_name[name].default}
