"""MLflow, as a function of the run folder: mirrored round by round, logged as a model, registered behind gates.

Nothing here is needed to train or to measure: a run without a tracking server is complete in its folder, and
`medfl track RUN` brings MLflow up to date later. MLflow is imported inside functions only.
"""
