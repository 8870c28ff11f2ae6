"""HTTP/1.1: bytes on a socket <-> Request and Response."""
