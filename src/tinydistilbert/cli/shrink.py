"""shrink from the command line: its flags as a call of `api.shrink`, and its output."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tinydistilbert.api import shrink as api
from tinydistilbert.api.outcomes import TaskModel
from tinydistilbert.api.run import plan
from tinydistilbert.api.task import Call
from tinydistilbert.cli.output import log_to, print_json, print_model, print_tables, table_as_json
from tinydistilbert.errors import MissedTarget
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe, to_dict
from tinydistilbert.report.use import facts_of_best


def shrink(parsed: argparse.Namespace, command_line: str) -> None:
    """Run the parsed command.

    Raises:
        MissedTarget: no variant reaches the target; everything was printed and written.
    """
    teacher = parsed.teacher or api.TEACHER
    data = api.data_of(
        teacher, parsed.train, parsed.validation, text=parsed.text or "", label=parsed.label or "",
        text_pair=parsed.text_pair or "", kind=parsed.kind or "classification",
        label_separator=parsed.label_separator or "",
    )  # fmt: skip
    budget = parsed.time_budget or ""
    changes = api.changes_of(
        teacher,
        to=parsed.to or (),
        keep=parsed.keep,
        soft_labels=parsed.soft_labels or "",
        unlabelled=parsed.unlabelled or "",
        seeds=parsed.seeds or 1,
        settings=getattr(parsed, "settings", {}),
        time_budget=budget,
    )
    output: Path = parsed.output or Path("runs") / f"shrink-{data.name}"
    if parsed.print_recipe or parsed.dry_run:
        recipe = api.recipe_for(data, changes, output, budget, threads=parsed.threads, jobs=parsed.jobs)
        if parsed.print_recipe:
            print(toml.dumps(_differences(to_dict(recipe), to_dict(Recipe()))), end="")
            return
        planned = plan(recipe, output, until="report", threads=parsed.threads, as_data=parsed.json, jobs=parsed.jobs)
        print_json(planned) if parsed.json else print(planned)
        return
    call = Call(output, None, parsed.threads, parsed.quiet, None, command_line, parsed.jobs)
    log = log_to(as_json=parsed.json, quiet=parsed.quiet)
    made = api.shrunk(data, changes, call, time_budget=budget, log=log)
    _print(made, as_json=parsed.json)
    if made.missed:
        raise MissedTarget(made.missed)


def _print(made: TaskModel, *, as_json: bool) -> None:
    facts = facts_of_best(made.folder, made.task)
    if as_json:
        print_json(
            {
                "model": str(made.model), "run": str(made.folder), "page": str(made.page), "missed": made.missed,
                "facts": facts.as_data, "tables": [table_as_json(table) for table in made.tables],
                "measurements": [dataclasses.asdict(measurement) for measurement in made.measurements],
            }
        )  # fmt: skip
        return
    print_tables(made.tables)
    print_model(facts, made.page)


def _differences(content: Any, standard: Any) -> Any:
    """Return the settings that are not the defaults, in their sections; a section without defaults is whole."""
    if not isinstance(content, dict) or not isinstance(standard, dict):
        return content
    changed = {key: value for key, value in content.items() if key not in standard or value != standard[key]}
    return {key: _differences(value, standard.get(key)) for key, value in changed.items() if value is not None}
