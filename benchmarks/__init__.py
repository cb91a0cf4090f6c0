"""Measurements of medfl itself; each is a module to be run and writes what the documents quote."""
