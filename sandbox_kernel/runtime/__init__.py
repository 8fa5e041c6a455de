"""Making containers real: the launcher, the embedded runtime, cgroup drivers."""
