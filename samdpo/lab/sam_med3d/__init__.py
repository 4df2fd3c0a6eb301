"""SAM-Med3D (Wang et al. 2023, arXiv 2310.15161): a SAM in 3D, with the published names and shapes."""
