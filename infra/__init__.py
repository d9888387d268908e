"""The outside world: settings, the lake, Spark, the store, logs."""
