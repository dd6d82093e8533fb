"""The four papers, a folder each: `model.py` is what serving loads, `objective.py` what export throws away."""
