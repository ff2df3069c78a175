"""Names that both the recipe and the tasks need, without loading what the tasks are made of."""

GLUE_NAMES = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
SYNTHETIC_NAMES = ("acceptability", "adjacency", "cloze-qa")
SPAN_NAMES = ("squad", "cloze-qa")
TASK_NAMES = (*GLUE_NAMES, "imdb", "squad", *SYNTHETIC_NAMES)
MEASURED = ("pretraining", "size", "latency")
"""What stands in place of a task in measurements of other things."""
