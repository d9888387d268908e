"""One file a step of the refresh; read top to bottom in `jobs.order.STEPS` it is the data flow."""

from infra import compiled
from infra.terminal import quiet_tensorflow

# Here, as every process that computes imports this package first, a worker of Spark's too.
compiled.find_place()
quiet_tensorflow()
