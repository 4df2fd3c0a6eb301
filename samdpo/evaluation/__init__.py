"""Metrics, summaries in nnU-Net's form, overlays and figures."""
