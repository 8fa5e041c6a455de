"""The Linux kernel's interfaces: one file each, thin, with the kernel's own words."""
