"""`python -m medfl` is the command line."""

from medfl.cli.app import main

main()
