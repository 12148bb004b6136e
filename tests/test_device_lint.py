"""``openlab/device.py`` is the only file that knows chips."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHIPS = {'cuda', 'mps', 'xpu', 'npu', 'mlu', 'hpu'}


def uses_of_chips(source: str) -> list[tuple[int, str]]:
    """Lines that reach for ``torch.cuda`` and its like: by attribute, import or ``.cuda()``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in CHIPS:
            of_torch = isinstance(node.value, ast.Name) and node.value.id == 'torch'
            of_backends = isinstance(node.value, ast.Attribute) and node.value.attr == 'backends'
            if of_torch or of_backends:
                found.append((node.lineno, f'torch.{node.attr}'))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in CHIPS and not node.args:
                found.append((node.lineno, f'.{node.func.attr}()'))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names
                      if a.name.split('.')[0] == 'torch' and CHIPS & set(a.name.split('.'))]
        elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'torch':
            names = {*(node.module or '').split('.'), *(a.name for a in node.names)}
            if names & CHIPS:
                found.append((node.lineno, f'from {node.module} import ...'))
    return found


def test_the_rule_finds_every_way_to_name_a_chip():
    source = '\n'.join([
        'import torch.cuda', 'from torch import cuda', 'from torch.cuda import amp',
        'torch.cuda.synchronize()', 'model.cuda()', 'torch.backends.mps.is_available()'])
    assert {line for line, _ in uses_of_chips(source)} == {1, 2, 3, 4, 5, 6}
    assert uses_of_chips("device = torch.device('cuda'); x.to(device)") == []


def test_no_other_file_names_a_chip():
    offenders = []
    for folder in ('openlab', 'tools', 'configs'):
        for file in sorted((ROOT / folder).rglob('*.py')):
            if file == ROOT / 'openlab' / 'device.py':
                continue
            offenders += [
                f'{file.relative_to(ROOT)}:{line} {what}'
                for line, what in uses_of_chips(file.read_text(encoding='utf-8'))]
    assert not offenders, f'use openlab.device instead: {offenders}'
