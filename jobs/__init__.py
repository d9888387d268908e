"""One file a step of the refresh; read top to bottom in `jobs.run.STEPS` it is the data flow."""

from infra import compiled

compiled.find_place()  # every process that computes comes by here, Spark's workers too, and before numba is loaded
