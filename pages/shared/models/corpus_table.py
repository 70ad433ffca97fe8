"""What is in a family's corpus, category by category, and what of it to look at before anything is classified."""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.corpus.corpus import corpus_files, whole_and_slice
from nmerge_core.corpus.facts import SHORT
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.family.texts import corpus_of, warnings_of
from pages.shared.frame.text import verbatim


@st.cache_data(max_entries=8, show_spinner="Reading the corpus")
def _read(_family: Family, asked: Any) -> pd.DataFrame | None:
    """The table; `asked` makes the cache forget what was said of other models, tasks, or texts since rewritten."""
    return corpus_of(_family, cache_root())


def draw_corpus(family: Family) -> None:
    """The table of the family's corpus, unless some of it is on the Hub, and warnings under it."""
    if not family.corpus:
        return
    st.subheader("The corpus", anchor=False)
    files = corpus_files(Path(whole_and_slice(family.corpus)[0]))
    changed = [(str(file), file.stat().st_mtime_ns) for file in files if file.is_file()]
    try:
        frame = _read(family, (family.corpus, family.base, family.tasks, changed))
    except InputError as error:
        st.error(verbatim(str(error)))
        return
    if frame is None:
        st.caption("Its sources are read when a run needs them.")
        return
    length = "In tokens of the base; in words where it has no tokenizer.json"
    counts = {name: st.column_config.NumberColumn(format="localized") for name in frame.columns[1:]}
    helps = {
        "tokens": length,
        "shortest": length,
        "median": length,
        "longest": length,
        "repeated": "Texts that are there before, in this category or another; they vote twice",
        "short": f"Texts of fewer than {SHORT} tokens, which say little of what they are about",
    } | {
        name: "Texts that share 13 words in a row with a problem of the task, or 8 with a short one: a score on it may "
        "be of what is remembered"
        for name in frame.columns
        if name.startswith("in ")
    }
    counts |= {name: st.column_config.NumberColumn(format="localized", help=said) for name, said in helps.items()}
    st.dataframe(frame, hide_index=True, column_config=counts, key="models_corpus_table")
    for warning in warnings_of(frame):
        st.caption(f":material/warning: {verbatim(warning[0].upper() + warning[1:])}.")
