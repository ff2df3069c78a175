"""The estimates behind `--dry-run`: for each stage what is left to do, and the time, memory and disk that it takes.

Steps come from the functions that the stages use, the checks from `pipeline.Run`; only the sizes of what is not there
yet are estimated. Nothing is written, not even into the token cache.
"""

from tinydistilbert.dry_run.basis import Line
from tinydistilbert.dry_run.stages import Planner

__all__ = ["Line", "Planner"]
