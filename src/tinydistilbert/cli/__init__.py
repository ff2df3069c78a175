"""The command line: the only room that prints results and exits."""
