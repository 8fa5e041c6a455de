"""What runs inside a container: standard library only, Python 3.8 or later, shipped as data."""
