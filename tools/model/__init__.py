"""From a model file to the folder that the server serves: `make model FROM=file ...` (docs/models.md).

The command reads its settings, looks at what the file is, and has a process of its own convert it, in an environment
with that format's packages. What comes back is run by the same ONNX Runtime that will serve it and compared with what
the original model says, before a folder is written.
"""
