"""The Python interface: finetune, distill, compress, shrink and others as functions, which the command line uses."""
