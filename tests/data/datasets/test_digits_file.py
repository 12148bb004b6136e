import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from openlab.data.datasets.digits import read_digits

ROOT = Path(__file__).resolve().parents[3]


def test_digits_are_those_that_scikit_learn_reads():
    counts, targets = read_digits()
    theirs = load_digits()
    assert np.array_equal(counts, theirs.images)
    assert np.array_equal(targets, theirs.target)


def test_reading_digits_does_not_import_scikit_learn():
    code = ('import sys\nfrom openlab.data.datasets.digits import Digits\n'
            'print(len(Digits("val")), "sklearn" in sys.modules)')
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == '449 False\n', done.stderr
