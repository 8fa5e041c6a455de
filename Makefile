# Everything starts here: `make demo` shows what this is, `make test` proves it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# A clone has no byte code yet, and without it each command and kernel would compile all it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
UV ?= $(or $(shell command -v uv),.venv-uv/bin/uv)
VENV ?= .venv
BIN := $(VENV)/bin
# The newest Python of those that are supported, also where it is no command: then pyenv may know it.
NEWEST = $(shell root="$$(pyenv root 2>/dev/null)"; for version in 3.13 3.12 3.11; do \
	for found in python$$version "$$root"/versions/$$version.*/bin/python$$version; do \
	"$$found" -c '' 2>/dev/null && echo "$$found" && exit; done; done; echo $(PYTHON))

# What an installed system may lack. newuidmap gives an ordinary user a range of ids; libseccomp
# builds the system call filter.
PACKAGES_TO_RUN := ca-certificates libseccomp2 uidmap
# The peers that the tests and benchmarks compare with, a second kernel with cgroup v2, a browser,
# a registry, and who else makes and reads images; assemblers for the code of pid 1.
PACKAGES_TO_TEST := $(PACKAGES_TO_RUN) apache2-utils binutils binutils-aarch64-linux-gnu bubblewrap \
	buildah busybox-static chromium docker-registry docker.io e2fsprogs fonts-noto-cjk gcc git iperf3 iproute2 \
	libc6-dev mmdebstrap mount openssl passt passwd podman python3 python3-venv redis-server runc runsc \
	skopeo strace umoci user-mode-linux util-linux

.PHONY: help demo lab test hostile chaos soak fuzz check bench format docs clean packages packages-to-test
help:
	@echo "make demo    install, run a notebook in a sandbox, and print what that proves"
	@echo "make lab     open JupyterLab with the kernel \"Sandbox (Python 3)\""
	@echo "make test    run every check and every test"
	@echo "make hostile run the corpus of attacks, and print a table of its entries"
	@echo "make fuzz    feed the readers of foreign bytes, SECONDS=600 each, all or TARGET=name (ENGINE=atheris)"
	@echo "make chaos   kill, stop, fill and damage what runs, and look that all holds (SEEDS=20)"
	@echo "make soak    run hostile cells beside normal ones for two hours (SECONDS=300)"
	@echo "make bench   measure speed and size beside runc, bwrap and ipykernel"
	@echo "make format  put the code into its one format"
	@echo "make docs    make the reference pages of what the program declares"
	@echo "make clean   remove the environment that these commands made"

demo: $(VENV)/.ready-to-run
	@$(BIN)/python notebooks/demonstrate.py
	@echo
	@echo "Next: make lab   (JupyterLab with \"Sandbox (Python 3)\")"

lab: $(VENV)/.ready-to-run
	$(BIN)/jupyter lab --notebook-dir notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

check: $(VENV)/.ready-to-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Fast ones first.
test: packages-to-test check
	UV=$(UV) $(BIN)/python -m pytest tests/unit --numprocesses 2
	UV=$(UV) $(BIN)/python tests/lanes.py

# Each entry of the corpus as root and as an ordinary user, with control groups v1 and v2; or, with
# WEAKEN=all or names of tests/walls.py, proof that the tests miss each wall that is weak.
# Attacks that have to hit a moment race for so long there; a weak wall is missed at once.
hostile: export SANDBOX_KERNEL_RACE_SECONDS ?= $(if $(WEAKEN),5,60)
hostile: $(VENV)/.ready-to-test packages-to-test
	UV=$(UV) $(BIN)/python $(if $(WEAKEN),tests/weakened.py $(WEAKEN),tests/hostile_table.py $(COLUMNS))

# Each reader for so long. The short form is part of `make test`. With ENGINE=atheris, libFuzzer
# looks at which lines of a reader an input leads to; it is no part of `dev`, since not every Python
# and machine has a wheel of it.
fuzz: $(VENV)/.ready-to-test
	$(if $(filter atheris,$(ENGINE)),$(UV) pip install --quiet --python $(BIN)/python --only-binary :all: atheris)
	$(BIN)/python tests/fuzz.py --seconds $(or $(SECONDS),600) $(addprefix --target ,$(TARGET)) \
		$(addprefix --engine ,$(ENGINE))

# Faults at numbered points of a workload, and what has to hold afterwards. SEED=7 repeats one.
chaos: $(VENV)/.ready-to-test packages-to-test
	PYTHONPATH=tests $(BIN)/python -m chaos $(call given,SEED SEEDS SECONDS)

# Two hours of hostile cells beside normal ones: what leaks, what is dropped, who has to wait.
soak: $(VENV)/.ready-to-test packages-to-test
	PYTHONPATH=tests $(BIN)/python -m chaos.soak $(call given,SECONDS)

# Beside the peers, on a machine that does nothing else, with the newest Python, and installed as a
# user has it: a command of what is only linked to this folder starts later. The table is kept in
# docs/benchmarks.md.
bench: packages-to-test
	@$(MAKE) VENV=.venv-bench PYTHON=$(NEWEST) .venv-bench/.ready-to-test
	$(UV) pip install --quiet --python .venv-bench/bin/python --compile-bytecode \
		--no-deps --reinstall .
	cd .venv-bench && bin/python -c 'import runpy, sys; sys.path.append("$(CURDIR)"); \
		runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)' $(SETS)

format: $(VENV)/.ready-to-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.ready-to-test
	$(BIN)/python docs/reference/generate.py

clean:
	rm -rf .venv .venv-uv .venv-bench

# -- what the commands above stand on ------------------------------------------------------------

$(VENV)/.ready-to-run: pyproject.toml | packages $(VENV)
	$(call install_here,'.[lab]' nbclient)

$(VENV)/.ready-to-test: pyproject.toml | $(VENV)
	$(call install_here,'.[dev]')

$(VENV): | $(UV)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"make $(VENV): `$(PYTHON)` is Python " + sys.version.split()[0] \
		+ ": 3.11 or later is needed: name one by `make PYTHON=... demo`")'
	$(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)

.venv-uv/bin/uv: | packages
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet uv

# NAME=VALUE of those that were given on the command line.
given = $(foreach name,$(1),$(if $($(name)),$(name)=$($(name))))

define install_here
	$(UV) pip install --quiet --python $(BIN)/python --compile-bytecode --editable $(1)
	$(BIN)/sandbox-kernel install --sys-prefix
	$(BIN)/python -m compileall -q -j 0 sandbox_kernel magics kernelspec
	@touch $@
endef

define install
	@missing=; for package in $(1); do \
		test "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null)" = installed \
		|| missing="$$missing $$package"; \
	done; \
	if test -n "$$missing"; then \
		command -v apt-get >/dev/null || { \
			echo "no apt-get here: install what these Debian packages hold:$$missing"; exit 1; }; \
		as_root=; test "$$(id -u)" = 0 || as_root=sudo; \
		test -z "$$as_root" || command -v sudo >/dev/null || { \
			echo "as root, run: apt-get install --no-install-recommends$$missing"; exit 1; }; \
		echo "Installing system packages:$$missing"; \
		$$as_root apt-get update --quiet --quiet; \
		$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes \
			--no-install-recommends $$missing </dev/null; \
	fi
endef

packages:
	$(call install,$(PACKAGES_TO_RUN) $(if $(shell command -v uv),,python3-venv))

packages-to-test:
	$(call install,$(PACKAGES_TO_TEST))
