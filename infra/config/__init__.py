"""The config keys: their types and rules, the one reading of them, and every problem in one error."""
