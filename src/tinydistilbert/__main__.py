"""`python -m tinydistilbert`: the command line, also for launchers that start a module."""

from tinydistilbert.cli.main import main

if __name__ == "__main__":
    main()
