"""The command line of the OCI runtime specification: our walls for podman, buildah and others."""
