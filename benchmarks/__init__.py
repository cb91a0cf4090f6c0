"""Measurements of medfl itself; each is a module to be run and writes what the documents quote."""

from medfl.idle_threads import wait_briefly

wait_briefly()  # as the command line has it
