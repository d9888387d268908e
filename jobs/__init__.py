"""One file a step of the refresh; read top to bottom in `jobs.run.STEPS` it is the data flow."""
