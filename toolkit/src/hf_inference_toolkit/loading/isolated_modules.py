"""User code of several models in one process: each model's modules have names of their own.

The folder of a model's code becomes a package with a name of its own. Import statements in its modules find the modules
beside them first, as a script does, and Python's `sys.modules` has them below the name of the package. So two models
may both have a module `helpers`.
"""

import builtins
import importlib
import importlib.util
import itertools
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Dict, Mapping, Optional, Sequence

PREFIX = "_model_code_"
_NUMBERS = itertools.count(1)
Names = Optional[Mapping[str, object]]


class Package(MetaPathFinder):
    """The modules in one folder."""

    def __init__(self, folder: Path) -> None:
        self.name = "{}{}".format(PREFIX, next(_NUMBERS))
        self._folder = str(folder)
        self._own: Dict[str, bool] = {}
        # Import statements call `__import__` of the builtins of their module.
        self._builtins: Dict[str, object] = dict(vars(builtins), __import__=self._import)
        package = ModuleType(self.name)
        package.__path__ = [self._folder]
        sys.modules[self.name] = package
        sys.meta_path.insert(0, self)

    def load(self, name: str) -> ModuleType:
        """Import a module of the folder."""
        return importlib.import_module("{}.{}".format(self.name, name))

    def remove(self) -> None:
        """Forget all modules."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        # Copies, because other threads import modules meanwhile.
        for name in list(sys.modules):
            if name == self.name or name.startswith(self.name + "."):
                del sys.modules[name]
        for path in list(sys.path_importer_cache):
            if path.startswith(self._folder):
                sys.path_importer_cache.pop(path, None)

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        """See MetaPathFinder. The modules of this package only."""
        if not fullname.startswith(self.name + "."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self._builtins)
        return spec

    def _import(
        self,
        name: str,
        globals: Names = None,  # noqa: A002 - the names of the function that this replaces
        locals: Names = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` of the modules of this package."""
        first = name.partition(".")[0]
        if level or not self._has(first):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        inner = "{}.{}".format(self.name, name)
        if fromlist:
            return builtins.__import__(inner, globals, locals, fromlist, 0)
        importlib.import_module(inner)
        return sys.modules["{}.{}".format(self.name, first)]

    def _has(self, name: str) -> bool:
        """Whether the folder has a module. A folder in it without `__init__.py` comes after installed packages."""
        if name not in self._own:
            spec = PathFinder.find_spec("{}.{}".format(self.name, name), [self._folder])
            is_package = spec is not None and spec.loader is not None
            self._own[name] = is_package or (spec is not None and importlib.util.find_spec(name) is None)
        return self._own[name]


class _Loader(SourceFileLoader):
    """Runs a module with other builtins, and writes no byte code into the model's folder."""

    def __init__(self, fullname: str, path: str, names: Dict[str, object]) -> None:
        super().__init__(fullname, path)
        self._builtins = names

    def exec_module(self, module: ModuleType) -> None:
        """See Loader."""
        module.__dict__["__builtins__"] = self._builtins
        super().exec_module(module)

    def get_code(self, fullname: str) -> Optional[CodeType]:
        """See Loader."""
        return self.source_to_code(self.get_data(self.path), self.path)
