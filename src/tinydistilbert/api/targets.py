"""Targets of a compression as users write them: 5ms, 20MB, 100M operations."""

from collections.abc import Iterable

from tinydistilbert.errors import UserError


def targets(to: str | Iterable[str], where: str = "to") -> dict[str, str]:
    """Return the keys of `compress` for `5ms`, `20MB` and `100M`.

    Raises:
        UserError: one is none of these, or two are of the same kind.
    """
    endings = {"ms": "target_latency", "kB": "target_size", "MB": "target_size", "GB": "target_size"}
    endings |= {"M": "target_operations", "G": "target_operations", "T": "target_operations"}
    by_key: dict[str, str] = {}
    for target in [to] if isinstance(to, str) and to else to:
        number, unit = target.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ").strip(), ""
        unit = target.strip()[len(number) :].strip()
        key = endings.get(unit)
        if key is None or not _is_number(number):
            expected, fix = "5ms, 20MB or 100M (operations)", "write a number with its unit"
            raise UserError(where, expected=expected, found=repr(target), fix=fix)
        if key in by_key:
            problem = f"{by_key[key]} and {target} are targets of the same kind"
            raise UserError(where, problem=problem, fix="delete one")
        by_key[key] = number + unit
    return by_key


def _is_number(text: str) -> bool:
    return bool(text) and text.replace(".", "", 1).isdecimal() and float(text) > 0
