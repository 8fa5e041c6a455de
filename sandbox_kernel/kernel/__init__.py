"""The outside of the kernel: a relay between Jupyter and an ipykernel in a container."""
