"""Target `local`: the app as a supervised process on this machine."""
