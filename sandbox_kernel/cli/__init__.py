"""The command `sandbox-kernel`: docker's words, one module for each verb or small group of them."""
