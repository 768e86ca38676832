"""`python -m experiments run …`: the command line where the package itself is not installed, as inside `ray job submit`."""

from experiments.cli import main

main()
