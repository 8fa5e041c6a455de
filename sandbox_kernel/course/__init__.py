"""The course: what is in it, checks that look at the kernel, what was done, and its notebooks."""
