"""``python -m openlab`` is the ``openlab`` command."""

import sys

from openlab.cli import main

if __name__ == '__main__':
    sys.exit(main())
