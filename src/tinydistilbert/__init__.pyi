from tinydistilbert.api.compare import compare as compare
from tinydistilbert.api.doctor import doctor as doctor
from tinydistilbert.api.estimator import ShrunkClassifier as ShrunkClassifier
from tinydistilbert.api.push import push as push
from tinydistilbert.api.run import replicate as replicate
from tinydistilbert.api.score import evaluate as evaluate
from tinydistilbert.api.shrink import shrink as shrink
from tinydistilbert.api.sweep import sweep as sweep
from tinydistilbert.api.task import compress as compress
from tinydistilbert.api.task import distill as distill
from tinydistilbert.api.task import export as export
from tinydistilbert.api.task import finetune as finetune
from tinydistilbert.demo.build import demo as demo
from tinydistilbert.predictor import load as load
from tinydistilbert.recipe.schema import Recipe as Recipe
from tinydistilbert.serve.run import serve as serve

__version__: str
__all__ = [
    "Recipe", "ShrunkClassifier", "compare", "compress", "demo", "distill", "doctor", "evaluate", "export", "finetune",
    "load", "push", "replicate", "serve", "shrink", "sweep",
]  # fmt: skip
