"""The command line: `python -m nmerge_core COMMAND …`."""

import sys

from nmerge_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
