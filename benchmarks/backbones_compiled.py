"""Inference, training step and memory of our backbones against their peers, both compiled.

What is compared, and how, stands in ``backbones.py``; here both sides go through ``torch.compile``
first. That takes a minute or more for each family on a CPU, an hour and more for all of them.

    python benchmarks/backbones_compiled.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.backbones import main

if __name__ == '__main__':
    sys.exit(main(compiled=True))
