"""Benchmarks for asv. Only append: a figure stays comparable while its code, parameters and version stay."""
