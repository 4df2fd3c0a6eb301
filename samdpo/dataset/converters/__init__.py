"""Converters: published downloads, and folders of one's own, into nnU-Net's raw layout."""
