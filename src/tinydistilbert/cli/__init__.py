"""The command line: the only package that prints results and exits."""
