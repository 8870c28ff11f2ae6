"""From a model file to the folder that the server serves: `python -m tools.model MODEL ...` (docs/models.md).

`settings` reads the options, `formats` tells what the file is, and `worker` runs its converter as a process of its own,
in an environment with that format's packages. `package` runs the result in the ONNX Runtime that will serve it and
compares it with the original's answers, before a folder is written.
"""
