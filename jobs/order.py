"""The steps by name. It imports nothing, so that whoever only names a step starts at once."""

STEPS = ("pull", "catalog", "embed", "classify", "candidates", "similar", "evaluate", "publish")
"""The steps of a refresh, in order."""
APART = ("train_embedding", "train_look", "search", "looks")
"""Steps that a refresh does without."""
