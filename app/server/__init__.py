"""One model behind HTTP: `python -m server`."""
