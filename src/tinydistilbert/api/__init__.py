"""Python's side: finetune, distill, compress, shrink and the others as functions, which the command line calls too."""
