"""The stack's components, one module each.

The data flows settings -> network -> cluster -> registry -> image -> service -> endpoint.
"""
