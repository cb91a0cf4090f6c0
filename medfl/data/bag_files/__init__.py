"""Folders of feature vectors as other tools lay them out: found, read, written, and the tables beside them."""
