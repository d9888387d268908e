"""One file a step of the refresh; read top to bottom in `jobs.run.STEPS` it is the data flow.

Whatever runs a step imports this first, and pyarrow, whose threads could have an arena of their own, after it.
"""

from ml.features import share_one_arena

share_one_arena()
