"""A disk after a power cut: real code is watched, and every state that it may leave behind can be built.

The model is the strict one of POSIX. A file's content is safe once the file was flushed; a name - a new one, another
one, a deleted one - once its folder was. All else may have arrived or not, whatever the order in which it was issued,
and content in any part. (File systems keep more than that, each something else.) One rename is either there or not.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tinydistilbert.storage import disk

Names = Mapping[int, Mapping[str, int]]
"""Of every folder, by its number: the numbers of what is in it, by name."""
Contents = Mapping[int, bytes]
"""Of every file, by its number."""
Tree = Mapping[str, "Tree | bytes"]
"""A folder as it can be built."""


@dataclass(frozen=True)
class Moment:
    """What was issued and what was safe, just before or after an operation."""

    label: str
    names: Names
    contents: Contents
    safe_names: Names
    safe_contents: Contents
    promised: Any
    """The last thing that the code had told its caller to be durable."""


@dataclass(frozen=True)
class State:
    """What somebody may find after the power came back."""

    label: str
    tree: Tree = field(repr=False)
    promised: Any


class WatchedFolder:
    """Watches what happens in a folder between `with` and its end; what is there before is safe.

    Changes that are not announced to `disk.hook` - other libraries' files, new folders - are seen at the next
    operation.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moments: list[Moment] = []
        self._promised: Any = None
        self._numbers: dict[int, int] = {}
        self._held: list[int] = []
        self._contents: dict[int, bytes] = {}
        """As last seen; files that are deleted stay."""
        self._safe_names: dict[int, Mapping[str, int]] = {}
        self._safe_contents: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        self._record_moment("all that was there before")
        self._safe_names, self._safe_contents = dict(self.moments.pop().names), dict(self._contents)
        self._record_moment("the beginning")
        self._hook, disk.hook = disk.hook, self._watched
        return self

    def __exit__(self, *_error: object) -> None:
        disk.hook = self._hook
        self._record_moment("the end")
        for descriptor in self._held:
            os.close(descriptor)

    def promise(self, what: Any) -> None:
        """From here on every state must have kept `what`."""
        self._promised = what
        self._record_moment(f"the promise of {what}")

    @contextmanager
    def _watched(self, operation: disk.Operation) -> Iterator[None]:
        name = operation.target or operation.path
        what = f"{operation.kind} {name.relative_to(self.root) if name.is_relative_to(self.root) else name}"
        self._record_moment(f"before {what}")
        yield
        self._record_moment(f"after {what}", operation)

    def _record_moment(self, label: str, done: disk.Operation | None = None) -> None:
        names: dict[int, Mapping[str, int]] = {}

        def visit(path: Path) -> int:
            number = self._number(path)
            if path.is_dir():
                names[number] = {inner.name: visit(inner) for inner in sorted(path.iterdir())}
            else:
                self._contents[number] = path.read_bytes()
                self._safe_contents.setdefault(number, b"")
            return number

        visit(self.root)
        if done is not None and done.path.is_relative_to(self.root):
            if done.kind == "sync":
                self._safe_contents[self._number(done.path)] = self._contents[self._number(done.path)]
            if done.kind == "sync folder":
                self._safe_names[self._number(done.path)] = names[self._number(done.path)]
        contents, safe_names, safe_contents = map(dict, (self._contents, self._safe_names, self._safe_contents))
        self.moments.append(Moment(label, names, contents, safe_names, safe_contents, self._promised))

    def _number(self, path: Path) -> int:
        """Of the file or folder, whatever it is called; it is held open, so that no other one gets its inode."""
        inode = path.stat().st_ino
        if inode not in self._numbers:
            self._held.append(os.open(path, os.O_RDONLY))
            self._numbers[inode] = len(self._numbers)
        return self._numbers[inode]

    def states(self, wanted: Callable[[Moment], bool] = lambda _: True) -> list[State]:
        """Every state that differs from the others, after a power cut at any of the wanted moments."""
        distinct_states: dict[Hashable, State] = {}
        root = next(iter(self._numbers.values()))
        for moment in filter(wanted, self.moments):
            for which, names in _names_that_arrived(moment):
                for how, contents in _contents_that_arrived(moment):
                    tree = _tree(root, names, contents)
                    # A later promise is the stricter one.
                    distinct_states[_key(tree)] = State(f"{moment.label}, {which}, {how}", tree, moment.promised)
        return list(distinct_states.values())


def _names_that_arrived(moment: Moment) -> Iterator[tuple[str, Names]]:
    """What the folders may hold: nothing but what is safe, all that was issued, each change alone, all but each."""
    changes: dict[int, list[tuple[int, str]]] = defaultdict(list)
    """Of names, together where they are those of one thing: it was renamed."""
    for folder in {**moment.safe_names, **moment.names}:
        before, after = moment.safe_names.get(folder, {}), moment.names.get(folder, {})
        for name in {**before, **after}:
            if before.get(name) != after.get(name):
                changes[after.get(name, before.get(name, 0))].append((folder, name))
    groups = list(changes.values())

    def with_only(chosen: list[list[tuple[int, str]]]) -> Names:
        names = {folder: dict(inner) for folder, inner in moment.safe_names.items()}
        for folder, name in (change for group in chosen for change in group):
            inner, number = names.setdefault(folder, {}), moment.names.get(folder, {}).get(name)
            if number is None:
                inner.pop(name, None)
            else:
                inner[name] = number
        return names

    yield "with safe names", with_only([])
    if groups:
        yield "with all names", with_only(groups)
    if len(groups) > 1:
        for group in groups:
            changed_names = ", ".join(name for _, name in group)
            yield f"with {changed_names} beside safe names", with_only([group])
            yield f"with all names but {changed_names}", with_only([other for other in groups if other is not group])


def _contents_that_arrived(moment: Moment) -> Iterator[tuple[str, Contents]]:
    """What the files may hold: what was flushed, and nothing, half, zeros, or all of what was written since."""
    yield "flushed content", moment.safe_contents
    for how, part in _PARTS.items():
        yield (
            how,
            {number: _arrived(moment.safe_contents[number], new, part) for number, new in moment.contents.items()},
        )


_PARTS: Mapping[str, Callable[[bytes], bytes]] = {
    "no new content": lambda _: b"",
    "half of new content": lambda new: new[: len(new) // 2],
    "zeros for new content": lambda new: bytes(len(new)),
    "all content": lambda new: new,
}


def _arrived(safe: bytes, issued: bytes, part: Callable[[bytes], bytes]) -> bytes:
    """The content of a file of which only a part of what is new in it arrived."""
    if safe.startswith(issued):  # it was cut off, if anything
        return issued
    if issued.startswith(safe):  # something was appended
        return safe + part(issued[len(safe) :])
    return part(issued)


def _tree(number: int, names: Names, contents: Contents) -> Tree:
    """The folder of that number."""
    return {
        name: contents[inner] if inner in contents else _tree(inner, names, contents)
        for name, inner in names.get(number, {}).items()
    }


def _key(tree: Tree | bytes) -> Hashable:
    return tree if isinstance(tree, bytes) else frozenset((name, _key(inner)) for name, inner in tree.items())


def build(tree: Tree, folder: Path) -> None:
    """Write the tree as `folder`, which is not there yet."""
    folder.mkdir()
    for name, inner in tree.items():
        if isinstance(inner, bytes):
            (folder / name).write_bytes(inner)
        else:
            build(inner, folder / name)


def read(folder: Path) -> dict[str, bytes]:
    """The content of every file below the folder, by its path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
