"""The make targets' programs; the standard library is all it needs, because it comes before everything else."""
