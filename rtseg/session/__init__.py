"""A run: sources, one model, effects and sinks, from the first frame to the report."""
