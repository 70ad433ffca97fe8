"""What merges measured on the way and left in the cache, on the Runs page: its size, and how it goes."""

import pandas as pd
import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.figures import style
from nmerge_core.files.in_use import remove_unused
from nmerge_core.files.kept_files import digest
from nmerge_core.runs.on_the_way import Measured, measured_on_the_way
from pages.shared.frame.text import verbatim

_TOLD = (
    "Statistics of models on texts, and the points of searches: merges leave them so that the next one need not "
    "measure the same, and one that was stopped goes on. No finished merge needs them: what is removed is measured "
    "again where a merge asks for it. Pick rows to remove them."
)


def draw_measured() -> None:
    """Draw what there is, folded, with its size; what is picked can be removed, but for what a merge is going by."""
    found = measured_on_the_way(cache_root())
    for message in st.session_state.pop("measured_stayed", ()):
        st.error(message)
    if not found:
        return
    disk = style.size(sum(each.size for each in found))
    title = f"Measured by merges on the way: {style.counted(len(found), 'measurement')}, {disk} on the disk"
    with st.expander(title, key="measured"):
        st.caption(_TOLD)
        event = st.dataframe(
            _table(found),
            hide_index=True,
            key=f"measured_{digest([str(each.path) for each in found])}",  # picked rows are none of another list
            on_select="rerun",
            selection_mode="multi-row",
            column_config={
                "what": st.column_config.TextColumn(width=210),
                "of": st.column_config.TextColumn(width=180),
                "used last": st.column_config.DatetimeColumn(format="D MMM, HH:mm", timezone=st.context.timezone),
                "disk": st.column_config.NumberColumn(format="bytes"),
            },
        )
        picked = [found[row] for row in event["selection"]["rows"] if row < len(found)]
        if picked:
            _draw_remove(picked)


def _table(found: list[Measured]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "what": [each.what for each in found],
            "of": [each.of or "–" for each in found],
            "state": ["whole" if each.whole else "unfinished" for each in found],
            "used last": [pd.Timestamp(each.used, unit="s", tz="UTC") for each in found],
            "disk": [each.size for each in found],
        }
    )


def _draw_remove(picked: list[Measured]) -> None:
    with st.popover(
        f"Remove {style.counted(len(picked), 'measurement')}", icon=":material/delete:", key="measured_ask"
    ):
        st.markdown("Remove these? A merge that wants one measures it again.")
        if st.button("Remove for good", type="primary", key="measured_remove"):
            stayed = []
            for each in picked:
                try:
                    remove_unused(each.path)
                except (InputError, OSError) as error:
                    stayed.append(f"**{verbatim(each.what)}** stays. {verbatim(error)}")
            st.session_state["measured_stayed"] = stayed
            st.rerun()
