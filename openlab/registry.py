"""Every registry of openlab, and the packages each one searches.

A class registers itself with ``@MODELS.register_module()``. Nothing is imported to know that it
exists: a registry reads the *source* of its packages for that decorator, and imports a module
only when one of its classes is asked for. Adding a component is therefore adding a file.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mmengine import registry as root

ENTRY_POINT_GROUP = 'openlab.components'
_REGISTRATION = re.compile(
    r'^@(?:\w+\.)?(?P<registry>[A-Z_]+)\.register_module\([^)]*\)[ \t]*\n'
    r'(?:@[^\n]*\n)*(?:class|def)[ \t]+(?P<name>\w+)',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Entry:
    """Where a component is defined, known without importing it."""

    name: str
    registry: str
    module: str
    file: str
    line: int


class UnknownComponentError(KeyError):
    """A name that no package of the registry defines; the message lists near matches."""

    def __init__(self, message: str, near: list[str]):
        super().__init__(message)
        self.message = message
        self.near = near

    def __str__(self) -> str:
        return self.message


class Registry(root.Registry):
    """A child of one of mmengine's registries that finds its components by reading source.

    Args:
        name: word for a single component, as in ``openlab registry ls NAME``.
        parent: the mmengine root that this registry extends.
        packages: packages of openlab whose files may register components.
        libraries: modules whose public classes count as components under their own name.
    """

    def __init__(
        self,
        name: str,
        parent: root.Registry,
        packages: tuple[str, ...],
        libraries: tuple[str, ...] = (),
    ):
        super().__init__(name, parent=parent, scope='openlab')
        self.packages = packages
        self.libraries = libraries
        self._scanned: dict[str, dict[str, Entry]] = {}

    def get(self, key: str) -> Any:
        """Return the class (or function) registered as ``key`` or living at that dotted path.

        Raises:
            UnknownComponentError: if there is none.
        """
        if key in self._module_dict:
            return self._module_dict[key]
        entry = self.entries().get(key)
        if entry is not None:
            return getattr(importlib.import_module(entry.module), key)
        if '.' in key or ':' in key:
            return import_object(key)
        for library in self.libraries:
            found = getattr(importlib.import_module(library), key, None)
            if found is not None:
                return found
        if self.parent is not None and key in self.parent.module_dict:
            return self.parent.module_dict[key]
        near = difflib.get_close_matches(key, self.names(), n=3, cutoff=0.5)
        hint = f'; did you mean {" or ".join(near)}?' if near else ''
        raise UnknownComponentError(f'no {self.name} named {key!r}{hint}', near)

    def entries(self) -> dict[str, Entry]:
        """All components that source files register here, by name; nothing is imported."""
        found: dict[str, Entry] = {}
        for package in (*self.packages, *outside_packages()):
            if package not in self._scanned:
                self._scanned[package] = {
                    e.name: e for e in scan_package(package) if REGISTRIES.get(e.registry) is self
                }
            found.update(self._scanned[package])
        return found

    def names(self) -> list[str]:
        """Names of all components: registered, found in source, and from the libraries."""
        names = set(self._module_dict) | set(self.entries())
        for library in self.libraries:
            module = importlib.import_module(library)
            names |= {n for n, v in vars(module).items() if isinstance(v, type) and n[0] != '_'}
        return sorted(names)


def scan_package(package: str) -> list[Entry]:
    """Read all files of a package (or of a single module) for registrations."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f'no package named {package!r} to search for components')
    entries = []
    for folder in spec.submodule_search_locations or ():
        for file in sorted(Path(folder).rglob('*.py')):
            parts = file.relative_to(folder).with_suffix('').parts
            module = '.'.join((package, *(p for p in parts if p != '__init__')))
            entries += _scan_file(file, module)
    if not spec.submodule_search_locations and spec.origin:
        entries += _scan_file(Path(spec.origin), package)
    return entries


def _scan_file(file: Path, module: str) -> list[Entry]:
    text = file.read_text(encoding='utf-8')
    return [
        Entry(m['name'], m['registry'], module, str(file), text.count('\n', 0, m.start('name')) + 1)
        for m in _REGISTRATION.finditer(text)
    ]


def outside_packages() -> tuple[str, ...]:
    """Packages that other installed projects offer through the entry-point group."""
    return tuple(e.value for e in entry_points(group=ENTRY_POINT_GROUP))


def import_object(path: str) -> Any:
    """Import ``package.module.Name`` (or ``package.module:Name``, nested names allowed).

    Raises:
        UnknownComponentError: if the module or the name does not exist.
    """
    parts = path.replace(':', '.').split('.')
    for cut in range(len(parts) - 1, 0, -1):
        module_name = '.'.join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only "this very module is missing" means "try a shorter one"; a module that
            # exists and fails on an import of its own must say so.
            if error.name is None or not (module_name + '.').startswith(error.name + '.'):
                raise
            continue
        for depth, part in enumerate(parts[cut:], start=cut):
            if not hasattr(found, part):
                near = difflib.get_close_matches(part, dir(found), n=3)
                hint = f'; did you mean {" or ".join(near)}?' if near else ''
                owner = '.'.join(parts[:depth])
                raise UnknownComponentError(f'{owner} has no {part!r}{hint}', near)
            found = getattr(found, part)
        return found
    raise UnknownComponentError(f'cannot import {path!r}: no module named {parts[0]!r}', [])


MODELS = Registry(
    'model', root.MODELS,
    ('openlab.layers', 'openlab.backbones', 'openlab.necks', 'openlab.losses', 'openlab.targets',
     'openlab.heads', 'openlab.algorithms', 'openlab.data.preprocessors'),
    libraries=('torch.nn',),
)
DATASETS = Registry('dataset', root.DATASETS, ('openlab.data.datasets',))
TRANSFORMS = Registry('transform', root.TRANSFORMS, ('openlab.data.transforms',))
SAMPLERS = Registry('sampler', root.DATA_SAMPLERS, ('openlab.data.samplers',))
METRICS = Registry('metric', root.METRICS, ('openlab.metrics',))
HOOKS = Registry('hook', root.HOOKS, ('openlab.engine.hooks',))
OPTIMIZERS = Registry('optimizer', root.OPTIMIZERS, ('openlab.engine.optim',), ('torch.optim',))
SCHEDULERS = Registry(
    'scheduler', root.PARAM_SCHEDULERS, ('openlab.engine.schedulers',),
    libraries=('torch.optim.lr_scheduler',),
)
LOOPS = Registry('loop', root.LOOPS, ('openlab.engine.loops',))
LOGGERS = Registry('logger', root.VISBACKENDS, ('openlab.engine.loggers',))

REGISTRIES: dict[str, Registry] = {
    name: value for name, value in list(globals().items()) if isinstance(value, Registry)
}
