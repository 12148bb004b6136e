"""Run the benchmarks one after the other; ``--write FILE`` turns what they print into a page.

The page is generated so that each figure in it stands beside the command that made it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = """\
# Benchmarks

This page is written by `make bench`. Each benchmark measures its peers in the same run, in
turns, and compares medians or turn by turn. A limit that is not kept is a `MISS` and makes
the command fail. They are not part of the continuous checks, because a shared machine would
make them lie.

"""


def benchmarks() -> list[Path]:
    """The scripts of this folder, without helpers and this runner."""
    return sorted(f for f in HERE.glob('*.py') if f.stem != 'run_all' and f.stem[0] != '_')


def run(script: Path) -> tuple[int, str]:
    """Run one benchmark; return its exit code and what it printed."""
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get('PYTHONPATH')])])
    env = {**os.environ, 'PYTHONPATH': path}
    lines = []
    with subprocess.Popen([sys.executable, '-u', str(script)], stdout=subprocess.PIPE, text=True,
                          env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end='', flush=True)
            lines.append(line)
    return process.returncode, ''.join(lines)


def limits(text: str) -> list[list[str]]:
    """The ``NAME VALUE LIMIT ok|MISS`` lines at the end of a benchmark's output."""
    rows = [line.split() for line in text.splitlines()]
    return [row for row in rows if len(row) == 4 and row[-1] in ('ok', 'MISS')]


def section(script: Path, code: int, text: str) -> str:
    """Markdown of one benchmark: command, limits, everything it printed."""
    rows = ''.join(f'| {" | ".join(row)} |\n' for row in limits(text))
    table = f'| name | value | limit | |\n|---|---:|---:|---|\n{rows}\n' if rows else ''
    ended = '' if code == 0 else f'It ended with exit code {code}.\n\n'
    return (f'## {script.stem}\n\n`python benchmarks/{script.name}`\n\n{ended}{table}'
            f'```text\n{text.strip()}\n```\n')


def sections_of(page: Path) -> dict[str, str]:
    """The sections of a page written before, by the name of their benchmark."""
    text = page.read_text('utf-8') if page.is_file() else ''
    parts = text.split('\n## ')[1:]
    return {part.partition('\n')[0].strip(): f'## {part.rstrip()}\n' for part in parts}


def main() -> int:
    """Run all (or the named) benchmarks; 1 if any of them misses a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', help='benchmarks to run, by default all of them')
    parser.add_argument('--write', type=Path, metavar='FILE',
                        help='Markdown page to write; what it says of benchmarks that are not run '
                             'now stays')
    args = parser.parse_args()
    chosen = [s for s in benchmarks() if not args.names or s.stem in args.names]
    known = {script.stem for script in benchmarks()}
    unknown = sorted(set(args.names) - known)
    if unknown:
        parser.error(f'no benchmark {unknown[0]!r}; there are {", ".join(sorted(known))}')
    sections, failed = {}, 0
    for script in chosen:
        start = time.perf_counter()
        code, text = run(script)
        took = f'took {time.perf_counter() - start:.0f} s\n'
        print(took, flush=True)
        text += took
        failed += code != 0
        sections[script.stem] = section(script, code, text)
    if args.write:
        kept = {name: part for name, part in sections_of(args.write).items() if name in known}
        found = {**kept, **sections}
        args.write.write_text(HEAD + '\n'.join(found[name] for name in sorted(found)), 'utf-8')
    return min(failed, 1)


if __name__ == '__main__':
    sys.exit(main())
