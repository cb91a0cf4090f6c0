"""A run as a folder that a quality manager files: model card, reporting checklists, data sheets, hashes.

What a run knows is pointed at; what only people know comes from a file of answers and from the sites' `about:`; what
nobody answered stands as unanswered.
"""
