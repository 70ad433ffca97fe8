"""Taking a merge away: its files, the Hub, a LoRA of it, and the command that makes a GGUF."""

import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.places import child_environment
from pages.shared.frame.results import Merged, read_table, zipped
from pages.shared.frame.runs import run_button, run_panel
from pages.shared.frame.text import verbatim

DOWNLOAD_LIMIT = 64e6  # bytes of a checkpoint that is offered as a zip
PUSHES = "merge_pushes"  # the key of this visitor's pushes to the Hub, by folder
LONGEST = 4096  # bytes of what a push has said last


@dataclass(frozen=True)
class Push:
    """A process that pushes a folder to a repository, what it says, and when it began."""

    process: "subprocess.Popen[bytes]"
    said: IO[bytes]
    name: str
    began: float

    @property
    def last(self) -> str:
        """The last line that it has said: how far it is, the address, or what is wrong."""
        self.said.seek(max(0, self.said.seek(0, 2) - LONGEST))
        lines = re.split(r"[\r\n]+", self.said.read().decode(errors="replace").strip())
        return lines[-1].strip()


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
            draw_hub(folder, size)
    if lora.open:
        with lora:
            _draw_lora(merge, family)
    if gguf.open:
        with gguf:
            st.markdown("llama.cpp makes one of the folder:")
            made = f"{merge.run.id}.gguf"
            line = ["python", "convert_hf_to_gguf.py", str(folder), "--outfile", made, "--outtype", "auto"]
            st.code(shlex.join(line), language="bash")


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


def draw_hub(folder: Path, size: int) -> None:
    """A push of a checkpoint to the Hub: what it takes, and from then on how far it is."""
    pushes: dict[Path, Push] = st.session_state.setdefault(PUSHES, {})
    if folder in pushes:
        _draw_push(folder, pushes[folder])
        return
    name = st.text_input("Repository", key="merge_hub_name", placeholder="you/name-of-the-merge")
    token = st.text_input(
        "Token", type="password", key="merge_hub_token", help="One that may write. It is used once and kept nowhere"
    )
    public = st.toggle("Public", key="merge_hub_public", help="Else only you see it, and those you let")
    if st.button(f"Push {style.size(size)}", type="primary", key="merge_hub_push", disabled=not (name and token)):
        pushes[folder] = _push(folder, name.strip(), token.strip(), public=public)
        st.rerun()


def _push(folder: Path, name: str, token: str, *, public: bool) -> Push:
    """Start a process that pushes a folder; what it says goes to a file, as a pipe that nobody reads would stop it."""
    command = [sys.executable, "-P", "-m", "nmerge_core.publishing", str(folder), name]
    said = TemporaryFile("a+b")
    process = subprocess.Popen(
        [*command, *(["--public"] if public else [])],
        stdin=subprocess.PIPE,
        stdout=said,
        stderr=subprocess.STDOUT,
        env=child_environment(),
    )
    assert process.stdin is not None
    process.stdin.write(f"{token}\n".encode())
    process.stdin.close()
    return Push(process, said, name, time.monotonic())


@st.fragment(run_every=1)
def _draw_push(folder: Path, push: Push) -> None:
    """How far a push is, with the way to stop it; what it said at its end."""
    if push.process.poll() is None:
        st.markdown(f"Pushing to {verbatim(push.name)} for {style.duration(time.monotonic() - push.began)}")
        if push.last:
            st.caption(verbatim(push.last))
        if st.button("Stop", key="merge_hub_stop", icon=":material/close:"):
            push.process.terminate()
        return
    if push.process.returncode == 0:
        st.success(f"It is at {verbatim(push.last)}")
    else:
        st.error("Stopped." if push.process.returncode < 0 else verbatim(push.last))
    if st.button("Push again", key="merge_hub_again"):
        push.said.close()
        del st.session_state[PUSHES][folder]
        st.rerun()
