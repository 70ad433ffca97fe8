"""The command line: `python -m nmerge_core COMMAND …`."""

from nmerge_core.cli import end_with_status

if __name__ == "__main__":
    end_with_status()
