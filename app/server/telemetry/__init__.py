"""Observability: metrics, drift, traces and the prediction log."""
