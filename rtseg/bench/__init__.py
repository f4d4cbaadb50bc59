"""Benchmark models side by side: three clocks, interleaved rounds, one record."""
