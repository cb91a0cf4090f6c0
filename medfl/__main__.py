"""`python -m medfl` is the command line."""

from medfl.cli import main

main()
