"""What medfl costs beside the training itself, as ratios measured in one run. `python -m benchmarks` runs it all."""
