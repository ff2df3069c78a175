"""Names of tasks that the recipe needs too, in a module that imports nothing."""

GLUE_NAMES = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
LIBRARY_NAMES = ("library-area", "same-module", "what-does-it-do")
SYNTHETIC_NAMES = ("acceptability", "adjacency", "cloze-qa")
SPAN_NAMES = ("squad", "squad_v2", "what-does-it-do", "cloze-qa")
TASK_NAMES = (*GLUE_NAMES, "imdb", "squad", "squad_v2", *LIBRARY_NAMES, *SYNTHETIC_NAMES)
BASELINE_NAMES = TF_IDF, STATIC_EMBEDDINGS = "tf-idf", "static embeddings"
"""Rows of cheap models that a student has to beat."""
MEASURED = ("pretraining", "size", "latency")
"""Values of the field `task` in measurements that belong to no task."""
