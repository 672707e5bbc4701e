"""Acts when a module is imported that this package does not import itself."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ['act_before_import', 'act_on_import']


def act_before_import(name: str, action: Callable[[], None], undo: ExitStack) -> None:
    """Call `action` before a module's code is run, at once if it has been; `undo` forgets of it."""
    if name in sys.modules:
        action()
    else:
        _watch(_Watcher(name, before=action), undo)


def act_on_import(name: str, action: Callable[[ModuleType], None], undo: ExitStack) -> None:
    """Call `action` with a module when its code has been run, at once if it has been; `undo` forgets of it."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        _watch(_Watcher(name, after=action), undo)


class _Watcher(MetaPathFinder):
    """Lets the finders after it find one module, and acts around the running of its code."""

    def __init__(
        self,
        name: str,
        before: Callable[[], None] = lambda: None,
        after: Callable[[ModuleType], None] = lambda module: None,
    ) -> None:
        self.name, self.before, self.after = name, before, after
        self._is_searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As every finder's; None for other modules, and while the finders after it are asked."""
        if fullname != self.name or self._is_searching:
            return None
        self._is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_searching = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_act(module: ModuleType) -> None:
                self.before()
                run(module)
                self.after(module)

            spec.loader.exec_module = run_and_act  # type: ignore[method-assign]
        return spec


def _watch(watcher: _Watcher, undo: ExitStack) -> None:
    sys.meta_path.insert(0, watcher)
    undo.callback(sys.meta_path.remove, watcher)
