"""Speed and size beside peers, in pairs: `make bench`, or `python -m benchmarks --help`."""
