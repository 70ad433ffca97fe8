"""Taking a merge away: its files, the Hub, a LoRA of it, and the command that makes a GGUF."""

import subprocess
import sys
import time
from pathlib import Path

import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.places import child_environment
from pages.shared.results import Merged, read_table, zipped
from pages.shared.runs import run_button, run_panel
from pages.shared.text import verbatim

DOWNLOAD_LIMIT = 64e6  # bytes of a checkpoint that is offered as a zip
PUBLISHING = "merge_publishing"  # the key of the process that publishes, and of what


def draw_carrying(merge: Merged, family: Family) -> None:
    """Ways to take a merge elsewhere, each in a menu of its own."""
    folder = Path(merge.reference)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with st.container(horizontal=True, gap="small"):
        if size <= DOWNLOAD_LIMIT:
            st.download_button(
                f"Download ({style.size(size)})",
                lambda: zipped(folder),
                f"{merge.run.id}.zip",
                "application/zip",
                key="merge_download",
                icon=":material/download:",
                on_click="ignore",
            )
        hub = st.popover("Hub", icon=":material/cloud_upload:", key="merge_hub", on_change="rerun")
        lora = st.popover("LoRA", icon=":material/layers:", key="merge_lora", on_change="rerun")
        gguf = st.popover("GGUF", icon=":material/terminal:", key="merge_gguf", on_change="rerun")
    if hub.open:
        with hub:
            _draw_hub(folder, size)
    if lora.open:
        with lora:
            _draw_lora(merge, family)
    if gguf.open:
        with gguf:
            st.markdown("llama.cpp makes one of the folder:")
            made = f"{merge.run.id}.gguf"
            st.code(f"python convert_hf_to_gguf.py {folder} --outfile {made} --outtype auto", language="bash")


def _draw_lora(merge: Merged, family: Family) -> None:
    st.markdown(
        "As much of what the merge changed of the base as layers of this rank hold, as an adapter that PEFT opens. "
        "Changes of embeddings, norms and biases are not in it."
    )
    rank = st.number_input("Rank of each layer's change", 1, 1024, 16, key="merge_lora_rank")
    asked = {"base": family.base, "model": merge.reference, "rank": int(rank)}
    run = run_button("extract", asked, "Extract it", "merge_extract", f"LoRA of {merge.name}")
    if run is not None and run_panel(run):
        st.code(str(run.results / "adapter"), language=None, wrap_lines=True)
        table = read_table(run, "changes.csv")
        held = float((table["share"] * table["captured"]).sum())
        st.markdown(f"It has **{style.percent(held)}** of the change's squared norm; a higher rank has more.")


def _draw_hub(folder: Path, size: int) -> None:
    going: tuple[subprocess.Popen[str], str, float] | None = st.session_state.get(PUBLISHING)
    if going is not None:
        _draw_publishing(*going)
        return
    name = st.text_input("Repository", key="merge_hub_name", placeholder="you/name-of-the-merge")
    token = st.text_input(
        "Token", type="password", key="merge_hub_token", help="One that may write. It is used once and kept nowhere"
    )
    public = st.toggle("Public", key="merge_hub_public", help="Else only you see it, and those you let")
    if st.button(f"Push {style.size(size)}", type="primary", key="merge_hub_push", disabled=not (name and token)):
        command = [sys.executable, "-P", "-m", "nmerge_core.publishing", str(folder), name.strip()]
        process = subprocess.Popen(
            [*command, *(["--public"] if public else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=child_environment(),
        )
        assert process.stdin is not None
        process.stdin.write(f"{token.strip()}\n")
        process.stdin.close()
        st.session_state[PUBLISHING] = (process, name.strip(), time.monotonic())
        st.rerun()


@st.fragment(run_every=1)
def _draw_publishing(process: "subprocess.Popen[str]", name: str, began: float) -> None:
    """How far a push is, with the way to stop it; what it said at its end."""
    if process.poll() is None:
        st.markdown(f"Pushing to {verbatim(name)} for {style.duration(time.monotonic() - began)}")
        if st.button("Stop", key="merge_hub_stop", icon=":material/close:"):
            process.terminate()
        return
    assert process.stdout is not None
    if "merge_hub_said" not in st.session_state:
        st.session_state["merge_hub_said"] = process.stdout.read().strip().splitlines()[-1:] or ["Stopped."]
    [said] = st.session_state["merge_hub_said"]
    if process.returncode == 0:
        st.success(f"It is at {verbatim(said)}")
    else:
        st.error(verbatim(said))
    if st.button("Push again", key="merge_hub_again"):
        del st.session_state[PUBLISHING], st.session_state["merge_hub_said"]
        st.rerun()
