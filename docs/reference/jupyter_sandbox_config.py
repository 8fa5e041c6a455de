# Made from the options in `sandbox_kernel/settings.py` by `make docs`; change it there.
# Goes to ~/.jupyter/jupyter_sandbox_config.py; take away the `# ` before what you set.
# fmt: off
c = get_config()  # noqa: F821 - Jupyter knows it
#------------------------------------------------------------------------------
# Sandbox(Configurable) configuration
#------------------------------------------------------------------------------
## Everything that can be set for a container.

## With --network bridge: let only this through, [tcp:|udp:]HOST[:PORT], the host
#  a name, *.NAME, an address or a network. Private, link-local and metadata
#  addresses only when they are named as addresses.
#  Default: ()
# c.Sandbox.allow = ()

## With --network bridge: let through what is needed too. requirements: the
#  package index, as UV_DEFAULT_INDEX, UV_INDEX, PIP_INDEX_URL or
#  PIP_EXTRA_INDEX_URL name it, else pypi.org with its files.
#  Default: ()
# c.Sandbox.allow_from = ()

## Write down what runs and what is refused, for `sandbox-kernel audit`: off, on,
#  or content, with the text of the cells; in your own settings only.
#  Default: 'off'
# c.Sandbox.audit = 'off'

## How much its link carries each way, such as 10mbit.
#  Default: None
# c.Sandbox.bandwidth = None

## A capability over the container's own user namespace; there are none
#  otherwise.
#  Default: ()
# c.Sandbox.cap_add = ()

## Take away a capability that an earlier source added, or ALL.
#  Default: ()
# c.Sandbox.cap_drop = ()

## Start from nothing: no ready container, no interpreter that was forked.
#  Default: False
# c.Sandbox.cold = False

## Its weight against other containers when all want the processor; 1024 is
#  usual.
#  Default: None
# c.Sandbox.cpu_shares = None

## How much processor time for each second, such as 0.5.
#  Default: None
# c.Sandbox.cpus = None

## On which processors it may run, such as 0-2,5.
#  Default: None
# c.Sandbox.cpuset_cpus = None

## Read at most so fast from a block device, such as /dev/sda:1m.
#  Default: ()
# c.Sandbox.device_read_bps = ()

## Write at most so fast to a block device.
#  Default: ()
# c.Sandbox.device_write_bps = ()

## The program to start instead of the image's own.
#  Default: None
# c.Sandbox.entrypoint = None

## A variable of the environment in the container.
#  Default: ()
# c.Sandbox.env = ()

## Keep a kernel ready for the next start, in a process that ends when nobody
#  uses it.
#  Default: True
# c.Sandbox.holder = True

## The host name that the container sees.
#  Default: None
# c.Sandbox.hostname = None

## What the container is made of: host (this Python environment, read-only), a
#  name in a registry such as python:3.12-slim, oci:DIR, oci-archive:FILE,
#  docker-archive:FILE, dir:PATH (a root file system), build:PATH (a
#  Containerfile), requirements:FILE, pyproject:DIR, packages:A,B, conda:FILE, or
#  scratch (nothing).
#  Default: 'host'
# c.Sandbox.image = 'host'

## How long an interrupted cell may go on before its container is ended.
#  Default: 5.0
# c.Sandbox.interrupt_grace = 5.0

## The container stays after its first run; `rm` removes it.
#  Default: False
# c.Sandbox.keep = False

## A note that is kept with the container.
#  Default: ()
# c.Sandbox.label = ()

## How long its link takes each way, such as 50ms, where the kernel has `netem`.
#  Default: None
# c.Sandbox.latency = None

## The part of the packets that its link loses each way, such as 1%, where the
#  kernel has `netem`.
#  Default: None
# c.Sandbox.loss = None

## Memory of the container with its files; above it, the container is ended.
#  Default: None
# c.Sandbox.memory = None

## Memory and swap together.
#  Default: None
# c.Sandbox.memory_swap = None

## Of "Sandbox Cells". fresh: each cell in a container of its own. carry: each in
#  a fork of the state after the last one, so that it can be undone.
#  Default: 'fresh'
# c.Sandbox.mode = 'fresh'

## A file or folder of the host in the container: SOURCE:TARGET[:ro] or
#  type=bind|tmpfs,source=PATH,target=PATH,readonly.
#  Default: ()
# c.Sandbox.mount = ()

## A name for the container, to find it again.
#  Default: None
# c.Sandbox.name = None

## none: only a loopback of its own. NAME: a network of yours, whose containers
#  reach each other by name, with no way out. bridge: a way out, nothing in, and
#  no neighbours. container:NAME: that of another container. host: the network of
#  this machine.
#  Default: 'none'
# c.Sandbox.network = 'none'

## The first two bytes of the hardware addresses; in your own settings only.
#  Default: '02:5b'
# c.Sandbox.network_hardware = '02:5b'

## Private addresses, a /16, of which all your networks are; in your own settings
#  only.
#  Default: None
# c.Sandbox.network_range = None

## What outputs may do in the page that shows them. safe: HTML is cleaned,
#  scripts run in a frame with no way out, widgets are those of ipywidgets. text:
#  plain text only. trusted: all, as in Jupyter; then the code can do in the page
#  what its reader can.
#  Default: 'safe'
# c.Sandbox.output = 'safe'

## How much output of one run is passed on before it is cut.
#  Default: 134217728
# c.Sandbox.output_limit = 134217728

## How many processes and threads at once.
#  Default: 512
# c.Sandbox.pids_limit = 512

## A TCP port of this machine that leads into the container:
#  [[ADDRESS:]PORT:]PORT_INSIDE; on 127.0.0.1 unless told otherwise.
#  Default: ()
# c.Sandbox.publish = ()

## No writable layer: / can't be written. Temporary files need a mount of their
#  own, as `--tmpfs /tmp`, or `type=tmpfs,target=/tmp` where that is no option.
#  Default: False
# c.Sandbox.read_only = False

## What makes the container.
#  Default: 'embedded'
# c.Sandbox.runtime = 'embedded'

## Of the system calls that are allowed only those that were learnt and saved
#  under this name: see `sandbox-kernel learn-seccomp --help`.
#  Default: None
# c.Sandbox.seccomp = None

## no-new-privileges (always on) or seccomp=unconfined (no filter of system
#  calls).
#  Default: ()
# c.Sandbox.security_opt = ()

## How long `stop` waits after SIGTERM before everything is killed.
#  Default: 5.0
# c.Sandbox.stop_timeout = 5.0

## Size of the writable layer. It lies in memory and counts against its limit.
#  Default: None
# c.Sandbox.storage_size = None

## More walls, where the kernel has Landlock: no executable memory but of files,
#  only sockets that the network needs, /proc to be read only and without other
#  runs, nothing executable on what is mounted writable.
#  Default: False
# c.Sandbox.strict = False

## End a run that takes longer, with TimedOut. `none` for no limit.
#  Default: None
# c.Sandbox.timeout = None

## A limit of setrlimit(2) for each process, such as nofile=1024.
#  Default: ()
# c.Sandbox.ulimit = ()

## Who the processes are in the container: a number or a name of the image.
#  Default: None
# c.Sandbox.user = None

## A module that is imported before a cell asks for it, once for many containers.
#  Default: ()
# c.Sandbox.warm = ()

## The working folder in the container.
#  Default: None
# c.Sandbox.workdir = None
#------------------------------------------------------------------------------
# SandboxCeiling(Configurable) configuration
#------------------------------------------------------------------------------
## The most that a project, a kernelspec, a notebook or a magic may ask for.

## What may stand in `allow`; with no `allow` of its own a container gets all of
#  this.
#  Default: None
# c.SandboxCeiling.allow = None

## The highest `bandwidth`.
#  Default: None
# c.SandboxCeiling.bandwidth = None

## Capabilities that may be asked for.
#  Default: ()
# c.SandboxCeiling.cap_add = ()

## The highest `cpus`.
#  Default: None
# c.SandboxCeiling.cpus = None

## Patterns of image references that may be asked for, such as
#  `dir:/srv/images/*` or `ghcr.io/*`. A name of the default registry is
#  `docker.io/library/NAME:TAG`.
#  Default: None
# c.SandboxCeiling.image = None

## The highest `memory`.
#  Default: None
# c.SandboxCeiling.memory = None

## The highest `memory_swap`.
#  Default: None
# c.SandboxCeiling.memory_swap = None

## Folders whose content may be mounted. `.` is the working folder.
#  Default: None
# c.SandboxCeiling.mount_roots = None

## Patterns of networks that may be asked for. They stand for networks between
#  containers; `bridge`, `host` and `container:NAME` lead further and have to be
#  named.
#  Default: ('*',)
# c.SandboxCeiling.network = ('*',)

## The widest `output`: text, safe or trusted.
#  Default: None
# c.SandboxCeiling.output = None

## The highest `pids_limit`.
#  Default: None
# c.SandboxCeiling.pids_limit = None

## Addresses of this machine on which ports may be published.
#  Default: ('127.0.0.1',)
# c.SandboxCeiling.publish = ('127.0.0.1',)

## Runtimes that may be asked for.
#  Default: ('embedded',)
# c.SandboxCeiling.runtime = ('embedded',)

## Security options that may be asked for.
#  Default: ('no-new-privileges',)
# c.SandboxCeiling.security_opt = ('no-new-privileges',)

## The highest `storage_size`.
#  Default: None
# c.SandboxCeiling.storage_size = None

## The longest `timeout`.
#  Default: None
# c.SandboxCeiling.timeout = None
#------------------------------------------------------------------------------
# SandboxRegistry(Configurable) configuration
#------------------------------------------------------------------------------
## What a user can set for pulls and pushes.

## Certificates in PEM that are trusted beside those of the system.
#  Default: ()
# c.SandboxRegistry.ca_files = ()

## Where a registry's images are looked for first, such as
#  docker.io=https://mirror.example:5000.
#  Default: ()
# c.SandboxRegistry.mirrors = ()

## How many layers are fetched at once.
#  Default: 4
# c.SandboxRegistry.parallel = 4

## An insecure registry: it may be spoken to in plain http, so that everybody on
#  the way reads and changes what it says. Loopback may be without this.
#  Default: ()
# c.SandboxRegistry.plain_http = ()

## Which image is taken of those for many platforms.
#  Default: None
# c.SandboxRegistry.platform = None

## A host that may be given a registry's password for a token, beside the
#  registry itself, such as registry.gitlab.com=https://gitlab.com.
#  Default: ()
# c.SandboxRegistry.token_realms = ()
#------------------------------------------------------------------------------
# SandboxConda(Configurable) configuration
#------------------------------------------------------------------------------
## What a user can set for environments of conda.

## What a file of `conda:` may name as a channel, and where that is, such as
#  team=https://conda.example/team. Beside yours there is conda-forge, unless you
#  give that name another address.
#  Default: (Channel(name='conda-forge', address='https://conda.anaconda.org/conda-forge'),)
# c.SandboxConda.channels = (Channel(name='conda-forge', address='https://conda.anaconda.org/conda-forge'),)
