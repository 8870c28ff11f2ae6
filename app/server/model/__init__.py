"""The model folder: read, checked, loaded and run. Knows no JSON and no HTTP."""
