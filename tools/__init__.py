"""What the make targets run; the standard library is all it needs, because it comes before everything else."""
