"""Distil a BERT-like teacher into a small fast student, and prove what was kept and what was won.

```python
import tinydistilbert as td

teacher = td.finetune("bert-base-uncased", train="reviews.csv", text="review", label="stars")
student = td.shrink(teacher, to="5ms")
student.predict(["A fine place."])
```
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "Recipe": "recipe.schema", "ShrunkClassifier": "api.estimator", "compare": "api.compare", "compress": "api.task",
    "distill": "api.task", "doctor": "api.doctor", "evaluate": "api.score", "export": "api.task",
    "finetune": "api.task", "load": "predictor", "push": "api.push", "replicate": "api.run",
    "serve": "serve.run", "shrink": "api.shrink", "sweep": "api.sweep", "demo": "demo.build",
}  # fmt: skip
"""The module of each public name. It is imported on first use, because torch takes seconds to import. `__init__.pyi`
lists the same names for type checkers; a test compares the two."""
__all__ = [
    "Recipe", "ShrunkClassifier", "compare", "compress", "demo", "distill", "doctor", "evaluate", "export", "finetune",
    "load", "push", "replicate", "serve", "shrink", "sweep",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return _public(name)
    raise AttributeError(f"module 'tinydistilbert' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def _public(name: str) -> Any:
    return getattr(importlib.import_module(f"tinydistilbert.{_HOMES[name]}"), name)


class _Room(ModuleType):
    """A subpackage that shares its name with a public function, such as `compress`: calling it calls the function."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return _public(self.__name__.rpartition(".")[2])(*arguments, **settings)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):  # Python sets it when the subpackage is imported
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
