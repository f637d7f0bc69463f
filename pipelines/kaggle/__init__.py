"""Kaggle: the client's process, credentials, downloads, submissions and kernels."""
