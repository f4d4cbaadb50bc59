"""The command line: the only place that prints, and that decides how the process ends."""
