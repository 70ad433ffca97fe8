"""How models are asked what they are scored on: the parameters of the run that are the same for every task."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from nmerge_core.runs.kinds import KINDS
from nmerge_core.settings import CHAT_TEMPLATE, DECODING, EVALUATE_BATCH, EVALUATE_SEED, RUN_DTYPE, SHOTS
from pages.shared.scoreboard import Scoring
from pages.shared.settings import KEPT


def conditions(asked: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Draw how problems are asked, folded, and return what is no default."""
    given: dict[str, Any] = {}
    with st.expander("How they are asked", icon=":material/tune:"):
        if kind == Scoring.kind:
            left, right = st.columns(2)
            with left:
                given[DECODING.name] = st.selectbox(
                    "Decoding",
                    DECODING.choices,
                    DECODING.choices.index(asked.get(DECODING.name, DECODING.default)),
                    key="evaluate_decoding",
                    help=DECODING.help,
                    **KEPT,
                )
                given[CHAT_TEMPLATE.name] = st.toggle(
                    "In the chat template",
                    asked.get(CHAT_TEMPLATE.name, False),
                    key="evaluate_chat",
                    help=CHAT_TEMPLATE.help,
                    **KEPT,
                )
            with right:
                given[SHOTS.name] = st.number_input(
                    "Examples",
                    0,
                    None,
                    asked.get(SHOTS.name),
                    key="evaluate_shots",
                    placeholder="as the task says",
                    help=SHOTS.help,
                    **KEPT,
                )
                batch = asked.get(EVALUATE_BATCH.name)
                given[EVALUATE_BATCH.name] = st.number_input(
                    "Batch size",
                    1,
                    None,
                    batch if isinstance(batch, int) else None,
                    key="evaluate_batch",
                    placeholder="found by itself",
                    help=EVALUATE_BATCH.help,
                    **KEPT,
                )
                given[EVALUATE_SEED.name] = st.number_input(
                    "Seed",
                    0,
                    None,
                    asked.get(EVALUATE_SEED.name, EVALUATE_SEED.default),
                    key="evaluate_seed",
                    help=EVALUATE_SEED.help,
                    **KEPT,
                )
        given[RUN_DTYPE.name] = st.selectbox(
            "Number format",
            RUN_DTYPE.choices,
            RUN_DTYPE.choices.index(asked.get(RUN_DTYPE.name, RUN_DTYPE.default)),
            key="evaluate_dtype",
            help=RUN_DTYPE.help,
            **KEPT,
        )
    by_name = KINDS[kind].by_name
    return {name: value for name, value in given.items() if value is not None and value != by_name[name].default}
