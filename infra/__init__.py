"""The stack's components, one module each; the data flows settings -> network -> cluster -> registry -> image -> service -> endpoint."""
