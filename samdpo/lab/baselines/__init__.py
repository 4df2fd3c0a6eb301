"""Methods to compare with: baselines of the paper and semi-supervised peers of stage 2."""
