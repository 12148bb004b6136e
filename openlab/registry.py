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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mmengine import registry as root

ENTRY_POINT_GROUP = 'openlab.components'
_REGISTRATION = re.compile(
    r'^@(?:\w+\.)?(?P<registry>[A-Z_]+)\.register_module\((?P<arguments>[^)]*)\)[ \t]*\n'
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
        self._scanned: dict[str, list[Entry]] = {}

    def get(self, key: str) -> Any:
        """Return the class (or function) registered as ``key`` or living at that dotted path.

        Raises:
            UnknownComponentError: if there is none.
        """
        if key in self._module_dict:
            return self._module_dict[key]
        entry = self.entries().get(key)
        if entry is not None:
            return import_object(f'{entry.module}.{entry.name}')
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
        """All components that source files register here, by name; nothing is imported.

        Raises:
            ValueError: if two files register the same name.
        """
        found: dict[str, Entry] = {}
        for package in (*self.packages, *outside_packages()):
            if package not in self._scanned:
                self._scanned[package] = [
                    e for e in scan_package(package) if REGISTRIES.get(e.registry) is self
                ]
            for entry in self._scanned[package]:
                other = found.setdefault(entry.name, entry)
                if (other.file, other.line) != (entry.file, entry.line):
                    raise ValueError(
                        f'two {self.name}s are named {entry.name}: {other.file}:{other.line} and '
                        f'{entry.file}:{entry.line}; rename one of them'
                    )
        return found

    def names(self) -> list[str]:
        """Names of all components: registered, found in source, and from the libraries."""
        names = set(self._module_dict) | set(self.entries())
        for library in self.libraries:
            module = importlib.import_module(library)
            names |= {n for n, v in vars(module).items() if isinstance(v, type) and n[0] != '_'}
        return sorted(names)


def scan_package(package: str) -> list[Entry]:
    """Read all files of a package (or of a single module) for registrations.

    Raises:
        ModuleNotFoundError: if there is no such package.
    """
    folders, file = _find_source(package)
    entries = []
    for folder in folders:
        for path in sorted(folder.rglob('*.py')):
            parts = path.relative_to(folder).with_suffix('').parts
            module = '.'.join((package, *(p for p in parts if p != '__init__')))
            entries += _scan_file(path, module)
    if file is not None:
        entries += _scan_file(file, package)
    return entries


def _find_source(package: str) -> tuple[list[Path], Path | None]:
    """Return the folders of a package, or the file of a module, importing at most its top."""
    top, *inner = package.split('.')
    spec = importlib.util.find_spec(top)
    folders = [Path(f, *inner) for f in (spec.submodule_search_locations if spec else None) or ()]
    found = [f for f in folders if f.is_dir()]
    if found:
        return found, None
    for folder in folders:
        if inner and folder.with_suffix('.py').is_file():
            return [], folder.with_suffix('.py')
    if spec is not None and not inner and spec.origin:
        return [], Path(spec.origin)
    raise ModuleNotFoundError(f'no package named {package!r} to search for components')


def _scan_file(file: Path, module: str) -> list[Entry]:
    text = file.read_text(encoding='utf-8')
    return [
        Entry(m['name'], m['registry'], module, str(file), text.count('\n', 0, m.start('name')) + 1)
        for m in _REGISTRATION.finditer(text)
    ]


@cache
def outside_packages() -> tuple[str, ...]:
    """Packages that other installed projects offer through the entry-point group."""
    return tuple(dict.fromkeys(e.module for e in entry_points(group=ENTRY_POINT_GROUP)))


def import_custom(custom_imports: Mapping[str, Any] | Sequence[str] | str | None) -> None:
    """Import the modules that a config names in ``custom_imports``, so that they register.

    Args:
        custom_imports: module names, or mmengine's ``dict(imports=[...],
            allow_failed_imports=False)``.

    Raises:
        ImportError: if a module cannot be imported and may not fail.
    """
    may_fail = False
    if isinstance(custom_imports, Mapping):
        may_fail = bool(custom_imports.get('allow_failed_imports'))
        custom_imports = custom_imports.get('imports', ())
    names = [custom_imports] if isinstance(custom_imports, str) else custom_imports or ()
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
                raise
            if not may_fail:
                raise ImportError(
                    f'custom_imports: no module named {error.name!r}; install its project, or '
                    f'run from the folder that holds it with PYTHONPATH=.'
                ) from error


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
OPTIMIZERS = Registry(
    'optimizer', root.OPTIMIZERS, ('openlab.engine.optim', 'openlab.engine.lars'),
    libraries=('torch.optim',),
)
SCHEDULERS = Registry(
    'scheduler', root.PARAM_SCHEDULERS, ('openlab.engine.schedulers',),
    libraries=('torch.optim.lr_scheduler',),
)
LOOPS = Registry('loop', root.LOOPS, ('openlab.engine.loops',))
LOGGERS = Registry('logger', root.VISBACKENDS, ('openlab.engine.loggers',))

REGISTRIES: dict[str, Registry] = {
    name: value for name, value in list(globals().items()) if isinstance(value, Registry)
}
