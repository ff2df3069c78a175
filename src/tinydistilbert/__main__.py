"""`python -m tinydistilbert`: the command line, also for launchers that start modules."""

from tinydistilbert.cli.main import main

if __name__ == "__main__":
    main()
