"""What every test replaces, and every process that forks for one: measuring the machine takes a run half a second."""

from typing import Any

SETTINGS: dict[str, Any] = {
    "tinydistilbert.training.device.busy_elsewhere": lambda: 0.0,  # its line would be in the first training's output
    "tinydistilbert.dry_run.machine.PROBE_SECONDS": 0.0,
    "tinydistilbert.dry_run.machine.PROBE_SIZE": 96,
    "tinydistilbert.dry_run.machine.COPIED": 100_000,
    "os.fsync": lambda _: None,  # what is flushed, and in which order, tests of durability read from `disk.hook`
}
