"""What is compared and drawn: the benchmark, baselines, peers, ablations. It stands on everything else."""
