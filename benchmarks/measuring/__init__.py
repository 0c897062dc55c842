"""How the benchmarks measure: processes, their CPU time, a bounded load, a table."""
