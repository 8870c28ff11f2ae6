"""The server against its peers: the same ONNX files, on one core, with the load on another.

models makes the models; peers says how each server is started and asked; process starts and stops one at a time; load
drives it with wrk; runs measures in interleaved rounds; report judges the claims by that, and shows it with plot.
"""
