"""The kernelspec's template and logos; `sandbox-kernel install` fills it in and installs it."""
