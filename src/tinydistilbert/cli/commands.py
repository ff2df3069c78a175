"""What each command does. torch and transformers are imported only inside a command, to keep `--help` quick."""

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydistilbert import notices, progress
from tinydistilbert.cli.output import log_to, print_entries, print_json, print_run, print_tables, table_as_json
from tinydistilbert.errors import MissedTarget, NonFiniteLoss, UserError
from tinydistilbert.training import launcher, ranks

if TYPE_CHECKING:
    pass


def _report(parsed: argparse.Namespace, command_line: str) -> None:
    """Run the stages of a recipe up to the report; for a folder, only make its page."""
    if parsed.recipe is None or not os.path.isdir(parsed.recipe):  # noqa: PTH112 # False for a long text
        _stages(parsed, command_line)
        return
    launcher.refuse_several("report of a folder")
    folder = Path(parsed.recipe)
    flags = {"--output": parsed.output, "--dry-run": parsed.dry_run, "--threads": parsed.threads, "--jobs": parsed.jobs}
    settings = {f"--{key}": True for key in {**getattr(parsed, "settings", {}), **getattr(parsed, "custom_task", {})}}
    if given := [flag for flag, value in {**flags, **settings}.items() if value]:
        fix = f"leave {given[0]} out, or give a recipe"
        raise UserError(
            f"report {folder}", problem="with a folder the page is made from its stored results alone", fix=fix
        )
    from tinydistilbert.ablate import run as ablation
    from tinydistilbert.report.paper_tables import console_tables
    from tinydistilbert.report.remake import remake
    from tinydistilbert.run_folder import AblationFolder, RunFolder

    run, ablated = RunFolder(folder), AblationFolder(folder)
    if ablated.recipe.is_file() and not run.recipe.is_file():
        tables, page = [ablation.remake(ablated)], ablated.report
    else:
        page = remake(folder)
        tables = console_tables(folder)
    print_run(folder, tables, run.results, page, (), as_json=parsed.json)


def _stages(parsed: argparse.Namespace, command_line: str) -> None:
    from tinydistilbert.cli.request import request

    asked = request(parsed)
    recipe, command = asked.recipe, asked.command
    # A given model has no later stage that its user would call: its scores are wanted at once.
    given = recipe.compress.model if command == "compress" else recipe.finetune.model
    is_whole = command == "replicate" or (command in ("finetune", "compress") and given)
    until = "report" if is_whole else command
    _check_command(command, recipe)
    from tinydistilbert.api import run as api
    from tinydistilbert.api.outcomes import Run
    from tinydistilbert.run_folder import RunFolder
    from tinydistilbert.storage import atomic

    log = log_to(as_json=asked.json, quiet=asked.quiet)
    if asked.dry_run:
        planned = api.plan(
            recipe, asked.output, until=until, threads=asked.threads, as_data=asked.json, jobs=asked.jobs
        )
        print_json(planned) if asked.json else print(planned)
        return
    if asked.part:
        api.run_part(recipe, asked.output, asked.part, until=command, log=log, threads=asked.threads)
        return
    folder, missed = RunFolder(asked.output), None
    try:
        made = api.run(
            recipe, asked.output, until=until, log=log, command=command_line, threads=asked.threads, jobs=asked.jobs
        )
    except MissedTarget as error:  # everything was made, so it is printed too
        made, missed = Run(asked.output, until), error
    tables = made.tables if until in api.MEASURED else ()
    page = folder.report if until == "report" else None
    # A task whose model failed has nothing compressed.
    finished = [name for name in recipe.compress.tasks if page and atomic.is_finished(folder.compressed(name).summary)]
    print_run(
        asked.output, tables, folder.results, page, made.failures, as_json=asked.json, missed=str(missed or ""),
        compressed=finished,
    )  # fmt: skip
    if missed:
        raise missed
    if made.failures:
        raise NonFiniteLoss("; ".join(made.failures))


def _check_command(command: str, recipe: Any) -> None:
    """Refuse a recipe that does not fit the command.

    Raises:
        UserError: it does not fit.
    """
    from tinydistilbert.cli.flags import GIVEN_MODEL

    if command == "compress" and not recipe.compress.tasks:
        fix = "give --task TASK, one of finetune.tasks, or the folder of a fine-tuned model"
        problem = "no task is named whose model is to be compressed"
        raise UserError("compress, key compress.tasks", problem=problem, fix=fix)
    if recipe.compress.model and command != "compress":
        fix = "give a recipe, or use compress"
        raise UserError("command line", expected="a recipe", found="a model folder", fix=fix)
    if recipe.finetune.model and command not in GIVEN_MODEL:
        problem = f"{command} does not work on the model of finetune.model (--model)"
        fix = f"leave that out, or use one of {', '.join(GIVEN_MODEL)}"
        raise UserError("command line", problem=problem, fix=fix)


def _ablate(parsed: argparse.Namespace, command_line: str) -> None:
    from tinydistilbert.cli.request import request

    asked = request(parsed)
    from tinydistilbert.ablate.plan import plan_ablation, planned_rows
    from tinydistilbert.ablate.run import ablate, run_row
    from tinydistilbert.run_folder import AblationFolder
    from tinydistilbert.training.device import use_threads
    from tinydistilbert.workers.jobs import jobs_of

    workers = jobs_of(asked.jobs, asked.threads, asked.recipe.device)
    use_threads(asked.threads)
    if asked.dry_run and asked.json:
        rows = planned_rows(asked.recipe, asked.output)
        print_json({"rows": [dataclasses.asdict(row) for row in rows], "seconds": sum(row.seconds for row in rows)})
        return
    if asked.dry_run:
        print(plan_ablation(asked.recipe, asked.output))
        return
    log = log_to(as_json=asked.json, quiet=asked.quiet)
    if asked.part:
        run_row(asked.recipe, asked.output, asked.part, log=log)
        return
    table, failed = ablate(asked.recipe, asked.output, log=log, command=command_line, workers=workers)
    folder = AblationFolder(asked.output)
    failures = [f"row {name!r}, {why}" for name, why in failed.items()]
    print_run(asked.output, [table], folder.results, folder.report, failures, as_json=asked.json)
    if failures:
        raise NonFiniteLoss("; ".join(failures))


def _sweep(parsed: argparse.Namespace, command_line: str) -> None:
    from tinydistilbert.cli.request import request

    asked = request(parsed)
    from tinydistilbert.run_folder import SweepFolder
    from tinydistilbert.training.device import use_threads
    from tinydistilbert.tuning import run as tuning
    from tinydistilbert.workers.jobs import jobs_of

    workers = jobs_of(asked.jobs, asked.threads, asked.recipe.device)
    use_threads(asked.threads)
    trials, output = parsed.trials or tuning.TRIALS, parsed.output or Path("runs") / f"{asked.recipe.name}-sweep"
    if asked.dry_run:
        planned = tuning.plan(asked.recipe, parsed.space, output, trials=trials)
        print_json(planned) if asked.json else print(tuning.plan_in_words(planned))
        return
    storage, log = parsed.storage or "", log_to(as_json=asked.json, quiet=asked.quiet)
    if asked.part:
        tuning.run_trial(asked.recipe, parsed.space, output, asked.part, storage=storage, log=log)
        return
    table, best = tuning.sweep(
        asked.recipe, parsed.space, output, trials=trials, storage=storage, log=log, command=command_line,
        workers=workers,
    )  # fmt: skip
    folder = SweepFolder(output)
    if asked.json:
        print_json({"best": best, "recipe": str(folder.best), "report": str(folder.report), **table_as_json(table)})
        return
    print_tables([table])
    print(f"\n{best}\n\nits recipe   {folder.best}\npage         {folder.report}")


def _compare(parsed: argparse.Namespace, command_line: str) -> None:
    from tinydistilbert.api.compare import compare

    comparison = compare(parsed.first, parsed.second, output=parsed.output, seed=parsed.seed or 0, command=command_line)
    if parsed.json:
        differences = [_difference_as_json(difference) for difference in comparison.differences]
        print_json({"page": str(comparison.page) if comparison.page else None, "differences": differences})
        return
    print_tables([comparison.table])
    print(
        f"The page: {comparison.page}"
        if comparison.page
        else "--output FOLDER also writes the examples that only one side gets right."
    )


def _difference_as_json(difference: Any) -> dict[str, Any]:
    pairing, paired = difference.pairing, difference.paired
    sides = {
        name: {"run": str(predicted.side.run), "row": predicted.side.row, "value": value, "seeds": seeds}
        for name, predicted, value, seeds in zip(
            ("first", "second"), (pairing.first, pairing.second), (paired.first, paired.second), difference.seeds,
            strict=True,
        )
    }  # fmt: skip
    return {
        "task": pairing.task.name, "split": pairing.split, "metric": difference.metric, **sides,
        "difference": paired.difference, "interval": list(paired.interval), "p": paired.p,
        "p_adjusted": difference.adjusted, "examples": len(pairing.first.ids),
    }  # fmt: skip


def _predict(parsed: argparse.Namespace, command_line: str) -> None:
    from tinydistilbert.cli.predict import predict

    predict(parsed, command_line)


def _export(parsed: argparse.Namespace, _command_line: str) -> None:
    if parsed.half and (parsed.int8 or parsed.plain):
        raise UserError("--half", problem="it cannot be combined with --int8 or --plain", fix="delete one")
    from tinydistilbert.api.task import export

    export(parsed.folder, parsed.output, int8=parsed.int8, plain=parsed.plain, half=parsed.half)
    print(f"written: {parsed.output}")


def _serve(parsed: argparse.Namespace, _command_line: str) -> None:
    from tinydistilbert.serve.limits import HOST, LIMITS, PORT
    from tinydistilbert.serve.run import serve

    limits = dataclasses.replace(
        LIMITS, text_bytes=parsed.max_bytes or LIMITS.text_bytes, waiting=parsed.max_waiting or LIMITS.waiting,
        request_bytes=max(LIMITS.request_bytes, 7 * (parsed.max_bytes or 0)),  # a byte may be written as \u00XX
    )  # fmt: skip
    serve(
        parsed.folder, port=PORT if parsed.port is None else parsed.port, host=parsed.host or HOST,
        threads=parsed.threads or 0, defer_below=parsed.defer_below, limits=limits,
    )  # fmt: skip


def _push(parsed: argparse.Namespace, _command_line: str) -> None:
    from tinydistilbert.api.push import push

    made = push(parsed.folder, parsed.name, private=parsed.private, dry_run=parsed.dry_run)
    if parsed.json:
        print_json({**dataclasses.asdict(made), "folder": str(made.folder)})
        return
    kind, total = "private" if made.private else "public", sum(made.files.values())
    print(f"{made.name} ({kind}): {notices.counted(len(made.files), 'file')}, {total / 1e6:,.1f} MB")
    for name, size in made.files.items():
        print(f"  {size / 1e6:>10,.3f} MB  {name}")
    for name, why in made.left_out.items():
        print(f"  stays here: {name} ({why})")
    print(f"It is at {made.url}" if made.url else "Nothing was uploaded: a dry run.")


def _doctor(parsed: argparse.Namespace, _command_line: str) -> None:
    from tinydistilbert.api.doctor import doctor

    checkup = doctor()
    print_json(checkup.as_data) if parsed.json else print(checkup)


def _demo(parsed: argparse.Namespace, _command_line: str) -> None:
    from tinydistilbert.demo.build import demo, read_examples
    from tinydistilbert.demo.show import show

    if parsed.port is not None and not parsed.open:
        raise UserError("--port", problem="it has a meaning with --open alone", fix="add --open, or leave --port out")
    examples = read_examples(parsed.examples) if parsed.examples else ()
    output = parsed.output or Path("demo")
    folder = demo(parsed.folders, output, examples=examples, offline_assets=parsed.offline_assets)
    print(f"written: {folder}", flush=True)
    if parsed.open:
        show(folder, parsed.port or 0)
    else:
        print(f"It is a static site and a Hugging Face Space. To see it: python -m http.server --directory {folder}")


def _elmo(parsed: argparse.Namespace, _command_line: str) -> None:
    from tinydistilbert.storage import locks

    with locks.new_output(parsed.output):
        from tinydistilbert.models.elmo.published import write_published

        write_published(parsed.weights, parsed.options, parsed.output)
    print(f"written: {parsed.output}")


def _convert(parsed: argparse.Namespace, _command_line: str) -> None:
    from tinydistilbert.storage import locks

    with locks.new_output(parsed.output):
        from tinydistilbert.models.convert import convert

        convert(parsed.model, parsed.output)
    print(f"written: {parsed.output}")


def _recipes(parsed: argparse.Namespace, _command_line: str) -> None:
    from tinydistilbert.recipe import schema, toml
    from tinydistilbert.recipe.json_schema import json_schema

    presets = toml.presets()
    if parsed.schema:
        if parsed.name is not None:
            raise UserError(
                "--schema", problem=f"it cannot be combined with a preset ({parsed.name!r})", fix="delete one"
            )
        print_json(json_schema())
        return
    if parsed.name is None:
        lines = {name: text.splitlines()[0].lstrip("# ") for name, text in presets.items()}
        if parsed.json:
            print_json([{"name": name, "description": line} for name, line in lines.items()])
        else:
            print_entries(lines)
        return
    if parsed.name not in presets:
        toml.load(parsed.name)  # says which preset was meant; a path to a file is no preset, and is refused below
        raise UserError(
            "recipes", expected=f"one of {', '.join(presets)}", found=repr(parsed.name), fix="name a preset"
        )
    if parsed.json:
        print_json(schema.to_dict(toml.load(parsed.name)))
    else:
        print(presets[parsed.name], end="")


def _tasks(parsed: argparse.Namespace, _command_line: str) -> None:
    from tinydistilbert.tasks import TASKS

    if parsed.json:
        print_json([{"name": task.name, "kind": task.kind, "metrics": list(task.metrics)} for task in TASKS.values()])
        return
    for task in TASKS.values():
        print(f"{task.name:14} {task.kind:15} {', '.join(task.metrics)}")


def _completion(parsed: argparse.Namespace, _command_line: str) -> None:
    import shtab

    from tinydistilbert.cli.parser import build

    print(shtab.complete(build(everything=True), parsed.shell))


def _shrink(parsed: argparse.Namespace, command_line: str) -> None:
    from tinydistilbert.cli.shrink import shrink

    shrink(parsed, command_line)


OTHER: dict[str, Callable[[argparse.Namespace, str], None]] = {
    "report": _report, "ablate": _ablate, "sweep": _sweep, "shrink": _shrink,
    "compare": _compare, "predict": _predict, "export": _export, "push": _push, "elmo": _elmo, "convert": _convert,
    "recipes": _recipes, "tasks": _tasks, "doctor": _doctor, "completion": _completion,
    "serve": _serve, "demo": _demo,
}  # fmt: skip
"""The commands that are not stages of a recipe, or not always."""


def call(parsed: argparse.Namespace, command_line: str) -> None:
    """Run the parsed command.

    Args:
        parsed: the result of `cli.parser.parse`.
        command_line: the command line, for pages that show how they were made.
    """
    notices.begin()
    if parsed.command in OTHER and parsed.command != "report":  # with a recipe, it is the last stage
        launcher.refuse_several(parsed.command)
    with progress.reporting(quiet=getattr(parsed, "quiet", False)), ranks.only_main_prints():
        OTHER.get(parsed.command, _stages)(parsed, command_line)
