"""The same as `openlab probe`, from a checkout that is not installed."""

import sys
from pathlib import Path

# Replaces tools/ itself, where config.py and test.py would hide modules of those names.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from openlab.cli import main

if __name__ == '__main__':
    sys.exit(main(['probe', *sys.argv[1:]]))
