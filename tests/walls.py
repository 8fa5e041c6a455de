"""Which walls `tests/weakened.py` makes weak, by which words, and which tests have to miss each.

A change is exact: its old text stands once in its file, which a unit test checks, so that a wall
that is built otherwise has to be weakened otherwise. No change takes a wall away behind which the
test could harm the machine that it runs on: limits are multiplied and not lifted, and the user
namespace stays.
"""

from __future__ import annotations

from typing import NamedTuple


class Change(NamedTuple):
    """Other words in one file of the copy."""

    file: str
    old: str
    new: str


class Wall(NamedTuple):
    """A wall, how it is weak, and the tests of which one for each of their entries goes red."""

    name: str
    weak: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]


def _wall(name: str, weak: str, changes: list[tuple[str, str, str]], *tests: str) -> Wall:
    made = tuple(Change(f"sandbox_kernel/{file}", old, new) for file, old, new in changes)
    return Wall(name, weak, made, tests)


_SECCOMP = "bundle/seccomp_profile.py"
_NO_FILTER = (
    "bundle/make.py",
    'if "seccomp=unconfined" in plan.security_opt:\n        return None',
    "if True:\n        return None",
)
_ALL_CAPABILITIES = ("bundle/make.py", "added: set[str] = set()", "added = {*capabilities.NAMES}")

_LOOPBACK = (
    "image/registry/foreign.py",
    "        if is_loopback(host):\n            raise",
    "        if False:\n            raise",
)
_NEAR = ("image/registry/foreign.py", "if distance(address) <= 1:", "if False:")

OF_CONTAINERS = (
    _wall(
        "files-of-the-host",
        "all of /etc of the host is in the image `host`",
        [("image/host.py", "CONFIGURATION = (\n", 'CONFIGURATION = (\n    "shadow",\n')],
        "test_a01_no_file_of_the_host_is_read_by_its_path",
    ),
    _wall(
        "filter-and-capabilities",
        "no filter of system calls, and all capabilities of the container",
        [_NO_FILTER, _ALL_CAPABILITIES],
        "test_a02_no_walk_out_of_the_root",
        "test_a09_every_mount_call_is_refused",
        "test_b35_no_mount_and_no_namespace_is_ever_made",
    ),
    _wall(
        "filter-of-system-calls",
        "no filter of system calls",
        [_NO_FILTER],
        "test_a08_no_new_namespace",
        "test_a11_dangerous_calls_answer_as_published",
        "test_a12_calls_of_x32_and_numbers_that_nobody_knows_never_run",
        "test_a14_nothing_is_held_and_nothing_can_be_gained",
        "test_b34_keyrings_are_denied",
    ),
    _wall(
        "filter-all-64-bits",
        "the filter compares 64 bits, where the kernel uses 32",
        [(_SECCOMP, "_ALL = 0xFFFFFFFF\n_Cond", "_ALL = 0xFFFFFFFFFFFFFFFF\n_Cond")],
        "test_a15_nothing_is_typed_into_a_terminal_of_the_host",
    ),
    _wall(
        "descriptors",
        "the descriptors that were not declared stay open, and so does one of the root folder",
        [
            (
                "runtime/becoming.py",
                "        processes.close_all_but("
                "(*wanted, report) if report >= 0 else tuple(wanted))",
                '        os.dup2(os.open("/", os.O_RDONLY), above + 9, inheritable=True)',
            )
        ],
        "test_a03_only_declared_descriptors_are_open",
    ),
    _wall(
        "pid-1",
        "the program of pid 1 can be read, and others in the container have its capabilities",
        [
            ("linux/first_process.py", "uname().machine), 0o111)", "uname().machine), 0o755)"),
            _ALL_CAPABILITIES,
        ],
        "test_a04_pid_1_and_all_others_are_closed",
    ),
    _wall(
        "who-enters",
        "a program that enters a container brings a file from outside with it",
        [
            (
                "runtime/becoming.py",
                "        processes.close_all_but("
                "(*wanted, report) if report >= 0 else tuple(wanted))",
                '        os.dup2(os.memfd_create("ours"), above + 9, inheritable=True)',
            )
        ],
        "test_a05_the_entering_process_can_t_be_caught",
    ),
    _wall(
        "standard-input",
        "standard input is a terminal",
        [
            (
                "runtime/becoming.py",
                'os.open("/dev/null", os.O_RDWR)',
                'os.open("/dev/ptmx", os.O_RDWR)',
            )
        ],
        "test_b42_there_is_no_terminal_to_write_to_and_nothing_of_a_pty_reaches_the_host",
    ),
    _wall(
        "copying-out",
        "the number of files that are copied out has no bound",
        [("runtime/transfer.py", "        if self._files_left < 0:", "        if False:")],
        "test_a22_an_endless_file_a_sparse_one_and_very_many_end_at_the_bound",
    ),
    _wall(
        "names-of-accounts",
        "the C library looks accounts up, with what the image gives it for that",
        [
            (
                "runtime/becoming.py",
                '    name = str(user.get("username", ""))\n',
                '    __import__("grp").getgrall()\n    name = str(user.get("username", ""))\n',
            )
        ],
        "test_a25_poisoned_files_are_opened_by_no_process_of_the_host",
    ),
    _wall(
        "read-only-parts-of-proc",
        "what is to be read-only in /proc can be written",
        [("runtime/rootfs.py", 'for path in linux.get("readonlyPaths", ()):', "for path in ():")],
        "test_a06_no_switch_of_the_kernel_can_be_moved",
    ),
    _wall(
        "masked-paths",
        "nothing covers what is to be hidden in /proc and /sys",
        [("runtime/rootfs.py", 'for path in linux.get("maskedPaths", ()):', "for path in ():")],
        "test_a07_masked_entries_are_empty_and_stay_masked",
    ),
    _wall(
        "namespace-of-groups",
        "the container is in the host's namespace of control groups",
        [("bundle/defaults.py", '"uts", "cgroup", "time")', '"uts", "time")')],
        "test_a08_no_namespace_is_the_host_s",
        "test_a10_the_cgroup_is_out_of_reach",
    ),
    _wall(
        "namespace-of-IPC",
        "the container shares queues and shared memory with the host",
        [("bundle/defaults.py", '"network", "ipc", "uts",', '"network", "uts",')],
        "test_a17_shared_memory_of_the_host_and_the_neighbour_is_not_there",
    ),
    _wall(
        "namespace-of-networks",
        "the container is in the network of the host",
        [
            ("bundle/defaults.py", '"pid", "network", "ipc"', '"pid", "ipc"'),
            ("bundle/make.py", "    if _shares(plan.network):  #", "    if True:  #"),
        ],
        "test_a16_abstract_sockets_of_the_host_are_not_there",
        "test_h89_there_is_only_loopback_and_no_other_family",
    ),
    _wall(
        "devices",
        "/dev has one device more of the host",
        [("runtime/held.py", '    "tty": (5, 0),\n', '    "tty": (5, 0),\n    "kmsg": (1, 11),\n')],
        "test_a13_no_device_is_made_or_found",
    ),
    _wall(
        "bounding-set",
        "capabilities stay in the bounding set",
        [
            (
                "runtime/payload.py",
                'capabilities.drop_bounding(capabilities.to_mask(kept.get("bounding", ())))',
                "pass",
            )
        ],
        "test_a14_nothing_is_held_and_nothing_can_be_gained",
    ),
    _wall(
        "no_new_privs",
        "the filter is installed with a capability, and no_new_privs is not set",
        [
            (
                "runtime/payload.py",
                "    capabilities.set_sets(\n",
                "    if program is not None:\n"
                "        seccomp_install.install(program, no_new_privs=False)\n"
                "    capabilities.set_sets(\n",
            ),
            (
                "runtime/payload.py",
                '    with step("set", "no_new_privs"):\n'
                "        processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)\n",
                "",
            ),
            (
                "runtime/payload.py",
                "    if program is not None:\n        seccomp_install.install(program)\n",
                "",
            ),
        ],
        "test_a14_nothing_is_held_and_nothing_can_be_gained",
    ),
    _wall(
        "nosuid-and-nodev",
        "the mounts of the root honour setuid bits and device nodes",
        [
            (
                "runtime/rootfs.py",
                "attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV\n        base",
                "attributes = 0\n        base",
            )
        ],
        "test_a14_every_mount_ignores_setuid_and_device_nodes",
    ),
    _wall(
        "core-files",
        "a crash may write a core",
        [("bundle/defaults.py", 'RLIMITS = {"RLIMIT_CORE": (0, 0)}', "RLIMITS = {}")],
        "test_a14_a_crash_writes_no_core",
    ),
    _wall(
        "environment",
        "the environment of the caller goes into the container",
        [
            (
                "bundle/make.py",
                "values = dict(defaults.ENVIRONMENT)",
                'values = {**__import__("os").environ, **defaults.ENVIRONMENT}',
            )
        ],
        "test_a20_no_secret_of_the_server_is_inside",
    ),
    _wall(
        "read-only-mounts",
        "a mount that is to be read-only is not",
        [
            (
                "runtime/held.py",
                "        attributes |= mounts.ATTRIBUTE_OF_OPTION.get(option, 0)",
                '        attributes |= mounts.ATTRIBUTE_OF_OPTION.get(option.strip("or"), 0)',
            )
        ],
        "test_a21_a_read_only_input_stays_as_it_is",
    ),
    _wall(
        "end-of-a-run",
        "what a run leaves behind lives on",
        [
            (
                "runtime/held.py",
                "        if run.group:\n            run.group.kill()\n",
                "        if run.group and not run.group.entrances():\n",
            )
        ],
        "test_a23_daemons_end_with_the_run_that_made_them",
    ),
    _wall(
        "links-in-mount-targets",
        "links on the way to a mount target are followed, out of the root too",
        [
            (
                "linux/paths.py",
                "FINDING = (os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_IN_ROOT)",
                "FINDING = (os.O_PATH, 0)",
            ),
            (
                "linux/paths.py",
                "STEPPING = (os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)",
                "STEPPING = (os.O_PATH, 0)",
            ),
            (
                "linux/paths.py",
                "c.OPENAT2, root, encoded(path), asked, HOW_SIZE",
                'c.OPENAT2, root, encoded(path.lstrip("/") or "."), asked, HOW_SIZE',
            ),
        ],
        "test_a24_a_mount_target_that_is_swapped_for_a_link_leads_nowhere_else",
    ),
    _wall(
        "limit-of-processes",
        "four times as many processes as asked for",
        [
            (
                "bundle/make.py",
                'found["pids"] = {"limit": plan.pids_limit}',
                'found["pids"] = {"limit": 4 * plan.pids_limit}',
            )
        ],
        "test_b26_a_fork_bomb_meets_its_limit_and_is_stopped_in_time",
    ),
    _wall(
        "limit-of-memory",
        "eight times the memory that was asked for",
        [
            (
                "bundle/make.py",
                'memory["limit"] = plan.memory\n',
                'memory["limit"] = 8 * plan.memory\n',
            ),
            (
                "bundle/make.py",
                'memory["swap"] = plan.memory_swap\n',
                'memory["swap"] = 8 * plan.memory_swap\n',
            ),
        ],
        "test_b27_out_of_memory_ends_this_container_alone_and_is_said_so",
        "test_b28_locked_and_swapped_memory_count_and_huge_pages_are_no_way_out",
        "test_b29_a_flood_of_dirty_pages_is_charged_to_the_container_and_others_go_on",
        "test_b32_every_place_in_memory_is_bounded_and_counted",
        "test_b41_a_cell_that_blows_itself_up_fails_alone",
    ),
    _wall(
        "limit-of-processors",
        "three times the processor time that was asked for",
        [("bundle/make.py", "round(plan.cpus * CPU_PERIOD)", "round(3 * plan.cpus * CPU_PERIOD)")],
        "test_b36_a_busy_loop_on_all_processors_stays_in_its_quota",
    ),
    _wall(
        "size-of-the-writable-layer",
        "the writable layer is four times as large, with more inodes",
        [
            ("runtime/rootfs.py", '("size", str(size))', '("size", str(4 * size))'),
            ("runtime/rootfs.py", "1 / 8192", "1 / 1024"),
        ],
        "test_b30_a_full_writable_layer_is_no_space_at_its_own_size",
        "test_b31_inodes_run_out_inside_only",
    ),
    _wall(
        "limit-of-descriptors",
        "rlimits of the plan are left out",
        [("bundle/make.py", "for limit in plan.ulimit}", "for limit in ()}")],
        "test_b33_floods_of_descriptors_end_inside",
    ),
    _wall(
        "time-outs",
        "a time-out is a hundred times as long",
        [
            (
                "runtime/containers.py",
                "deadline = time.monotonic() + run.timeout",
                "deadline = time.monotonic() + 100 * run.timeout",
            )
        ],
        "test_b39_sleeping_for_ever_and_ignoring_signals_ends_at_the_time_out",
    ),
)

OF_IMAGES = (
    _wall(
        "names-in-layers",
        "`..` in the name of a member is let through, and long names are",
        [
            ("image/layers/names.py", 'if part == b"..":', "if False:"),
            (
                "image/layers/placing.py",
                'if name in (b"", b".", b".."):',
                'if name in (b"", b"."):',
            ),
            (
                "image/layers/placing.py",
                "if member.kind != tar.DIRECTORY:\n            raise",
                "if False:\n            raise",
            ),
        ],
        "test_c43_a_name_that_leads_out_is_refused",
    ),
    _wall(
        "links-in-layers",
        "a link in the way of a member is followed by the kernel",
        [
            (
                "image/layers/folders.py",
                "            fd = os.open(part, _DIRECTORY, dir_fd=folder.fd)\n"
                "        except FileNotFoundError:",
                "            fd = os.open(part, _DIRECTORY & ~os.O_NOFOLLOW, dir_fd=folder.fd)\n"
                "        except FileNotFoundError:",
            )
        ],
        "test_c44_writing_through_a_link_stays_in_the_layer",
        "test_c44_a_hard_link_through_a_link_stays_in_the_layer",
    ),
    _wall(
        "whiteouts",
        "what a whiteout hides is not looked at",
        [("image/layers/names.py", 'if hidden in (b"", b".", b".."):', "if False:")],
        "test_c45_a_whiteout_of_what_can_not_be_hidden_is_refused",
    ),
    _wall(
        "attributes-of-layers",
        "all attributes that a layer brings are set",
        [("image/layers/placing.py", 'if kept and not key.startswith(b"user.overlay.") and', "if")],
        "test_c46_attributes_that_mean_something_to_the_host_are_dropped",
    ),
    _wall(
        "bombs-in-layers",
        "sizes and ratios of a layer have no cap",
        [
            ("image/layers/compression.py", "if produced > limits.plain:", "if False:"),
            (
                "image/layers/compression.py",
                "if produced > limits.ratio_from and produced > limits.ratio * count:",
                "if False:",
            ),
        ],
        "test_c47_more_than_the_limits_allow_is_refused",
    ),
    _wall(
        "digest-of-the-plain-layer",
        "the diff id of a layer is not compared",
        [
            (
                "image/layers/worker.py",
                "if expected is not None and plain.diff_id != expected:",
                "if False:",
            )
        ],
        "test_c48_a_wrong_diff_id_is_named",
    ),
    _wall(
        "layers-and-diff-ids",
        "a layer may have two diff ids, or none",
        [
            ("image/documents.py", "    if layers != diff_ids:", "    if False:"),
            (
                "image/documents.py",
                "if known.setdefault(layer.digest, diff_id) != diff_id:",
                "if False:",
            ),
        ],
        "test_49_layers_and_diff_ids_go_together",
    ),
    _wall(
        "documents",
        "a key may stand twice, and a document may be manifest and index",
        [
            ("image/documents.py", "if len(found) != len(pairs):", "if False:"),
            (
                "image/documents.py",
                'if "manifests" in keys and ("layers" in keys or "config" in keys):',
                "if False:",
            ),
        ],
        "test_50_a_document_that_can_be_read_in_two_ways_or_none_is_refused",
    ),
    _wall(
        "spelling-of-digests",
        "a digest has any length and case, and what follows it",
        [
            (
                "image/digest.py",
                'r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"',
                'r"sha[0-9]+:[0-9a-fA-F./]+"',
            )
        ],
        "test_51_a_digest_is_whole_before_anything_is_made_of_it",
        "test_51_a_digest_has_one_spelling",
    ),
    _wall(
        "size-of-blobs",
        "a blob may have another size than was said",
        [
            (
                "image/store/blobs.py",
                "if self.size is not None and self.offset != self.size:",
                "if False:",
            )
        ],
        "test_52_a_blob_of_another_size_is_not_kept",
    ),
    _wall(
        "working-folder",
        "the working folder of an image may lie anywhere",
        [
            (
                "bundle/make.py",
                'if fine and not _below(clean, (*defaults.KERNEL_TREES, "/dev")):',
                "if fine:",
            ),
            (
                "runtime/becoming.py",
                'if directory == "/proc" or directory.startswith("/proc/"):',
                "if False:",
            ),
        ],
        "test_53_a_user_or_folder_that_can_not_be_starts_nothing",
    ),
    _wall(
        "account-files",
        "an account file is read whatever it is, and with its links",
        [
            (
                "runtime/accounts.py",
                "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC",
                "os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC",
            ),
            ("runtime/accounts.py", "if not stat.S_ISREG(os.fstat(file).st_mode):", "if False:"),
        ],
        "test_c54_an_account_file_that_is_a_trap_finds_nobody",
    ),
    _wall(
        "places-of-the-kernel",
        "links and files at /proc, /sys and /dev of an image are not looked for",
        [
            (
                "runtime/rootfs.py",
                "directory=True,\n                passing=(errno.ENOENT,),",
                "directory=False,\n                passing=(errno.ENOENT,),",
            ),
            (
                "linux/paths.py",
                "FINDING = (os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_IN_ROOT)",
                "FINDING = (os.O_PATH, RESOLVE_IN_ROOT)",
            ),
        ],
        "test_c55_a_link_or_file_at_a_place_of_the_kernel_is_refused",
    ),
)

OF_REGISTRIES = (
    _wall(
        "digest-of-blobs",
        "the digest of a blob is not compared",
        [
            (
                "image/store/blobs.py",
                "if self.expected is not None and found != self.expected:",
                "if False:",
            ),
            (
                "image/store/blobs.py",
                "self.places.blob(found))\n            flush",
                "self.places.blob(self.expected or found))\n            flush",
            ),
        ],
        "test_57_right_length_wrong_bytes",
    ),
    _wall(
        "sizes-of-documents",
        "a document of a registry may have any size",
        [("image/registry/client.py", "            if size > most:\n", "            if False:\n")],
        "test_58_a_manifest_larger_than_any",
    ),
    _wall(
        "redirects",
        "a registry may lead to this machine, to plain http, and keep the password",
        [
            _LOOPBACK,
            _NEAR,
            ("image/registry/client.py", "has_left = True  #", "has_left = False  #"),
        ],
        "test_59_redirected_to_this_machine_or_its_link",
    ),
    _wall(
        "places-of-tokens",
        "the password goes wherever the registry says that tokens are made, this machine too",
        [
            _LOOPBACK,
            _NEAR,
            (
                "image/registry/authentication.py",
                "    if origin == endpoint.origin:\n",
                "    if True:\n",
            ),
        ],
        "test_60_tokens_of_another_place",
    ),
    _wall(
        "tries",
        "who is refused asks for a token again and again",
        [("image/registry/client.py", "and refused < 2 and", "and refused < 50 and")],
        "test_61_unauthorized_for_ever",
    ),
    _wall(
        "certificates",
        "any certificate is taken",
        [
            (
                "image/registry/transport.py",
                "context.minimum_version = ssl.TLSVersion.TLSv1_2",
                "context.check_hostname, context.verify_mode = False, ssl.CERT_NONE",
            )
        ],
        "test_62_certificates_that_are_wrong",
    ),
)

OF_BUILDS = (
    _wall(
        "sources-of-COPY",
        "a source may have `..`, and links lead out of the context",
        [
            (
                "runtime/gathering.py",
                "WITHIN = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_MAGICLINKS",
                "WITHIN = 0",
            ),
        ],
        "test_e63_a_link_out_of_the_context_leads_nowhere",
    ),
    _wall(
        "addresses-of-ADD",
        "ADD fetches of private addresses",
        [("building/remote.py", "if not number.is_global and", "if False and")],
        "test_e64_no_private_address_and_no_git_is_fetched",
        "test_e64_a_redirect_to_a_private_address_is_judged_too",
        "test_99_what_a_build_adds_from_elsewhere_is_public",
    ),
    _wall(
        "mounts-of-RUN",
        "unknown options of a mount are passed over, and so are its sources' links",
        [
            (
                "containerfile/mounts.py",
                "        if key not in OPTIONS[kind]:\n",
                "        if False:\n",
            ),
            (
                "runtime/building.py",
                "resolve = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS",
                "resolve = 0",
            ),
        ],
        "test_e65_a_mount_that_is_not_of_the_listed_kind_is_refused",
        "test_e65_a_mount_source_that_is_a_link_out_of_the_context_is_refused",
    ),
    _wall(
        "keys-of-the-cache",
        "a step is known by which inputs it has, not by what they are",
        [("building/cache.py", "json.dumps([VERSION, inputs]", "json.dumps([VERSION, [*inputs]]")],
        "test_e68_the_cache_of_steps_sees_every_input",
    ),
    _wall(
        "working-folder-of-a-build",
        "WORKDIR may lie in /proc",
        [
            (
                "building/evaluate.py",
                '        if path.split("/")[1] in _KERNEL_TREES:',
                "        if False:",
            )
        ],
        "test_e67_a_word_that_leads_elsewhere_is_refused",
    ),
    _wall(
        "patterns-of-ignore-files",
        "a pattern may begin above the context",
        [
            (
                "containerfile/ignore.py",
                '    if clean == ".." or clean.startswith("../"):',
                "    if False:",
            )
        ],
        "test_e69_an_ignore_file_can_not_reach_out_of_the_context",
    ),
    _wall(
        "sizes-in-Containerfiles",
        "values, stages and lines have no cap",
        [
            ("containerfile/lines.py", "    if len(text) > MOST_BYTES:", "    if False:"),
            ("containerfile/parse.py", "MOST_STAGES = 1_000", "MOST_STAGES = 1_000_000"),
            (
                "containerfile/lines.py",
                "MOST_INSTRUCTIONS = 10_000",
                "MOST_INSTRUCTIONS = 1_000_000",
            ),
        ],
        "test_e66_a_bomb_is_a_named_error_in_bounded_time",
    ),
)

OF_TRAFFIC = (
    _wall(
        "signatures",
        "a signature is not compared, nor remembered",
        [
            ("kernel/wire.py", "if not hmac.compare_digest(signature, right):", "if False:"),
            ("kernel/wire.py", "if self._seen is None:", "if True:"),
        ],
        "test_70_71_frames_that_are_not_one_signed_message_are_refused",
        "test_71_a_replayed_signature_is_refused_and_the_memory_of_them_is_bounded",
    ),
    _wall(
        "replies",
        "a reply and a status are taken whatever they are to, and how often they came",
        [
            (
                "kernel/outgoing.py",
                'state == "starting" or getattr(request, state):',
                'state == "starting":',
            ),
            (
                "kernel/outgoing.py",
                "            or request.replied\n            or request.channel != channel\n",
                "",
            ),
            (
                "kernel/outgoing.py",
                "            or message.header.msg_type != request.reply_type\n",
                "",
            ),
        ],
        "test_72_73_75_what_is_not_allowed_now_is_dropped",
        "test_73_a_reply_of_another_kind_or_channel_is_dropped",
    ),
    _wall(
        "questions",
        "the inside may ask for a line at any time",
        [
            (
                "kernel/outgoing.py",
                "            or not (request.is_cell and request.allow_stdin)\n",
                "",
            ),
        ],
        "test_73_81_a_question_is_asked_only_where_it_is_allowed",
    ),
    _wall(
        "comms",
        "a comm need not be open, and may be one of the relay's",
        [
            (
                "kernel/outgoing.py",
                "taken = comm_id in self._comms or self._widgets.owns(comm_id)",
                "taken = False",
            ),
            (
                "kernel/outgoing.py",
                "        elif comm_id not in self._comms:\n",
                "        elif False:\n",
            ),
            (
                "kernel/outgoing.py",
                "            of_all = self._comms[comm_id]",
                "            of_all = self._comms.get(comm_id, False)",
            ),
        ],
        "test_74_the_inside_can_not_use_a_comm_of_the_relay",
        "test_74_a_comm_lives_from_its_opening_to_its_closing",
    ),
    _wall(
        "limit-of-outputs",
        "outputs of a cell have no limit",
        [
            (
                "kernel/outgoing.py",
                "        if request.bytes_out <= self._limit:\n",
                "        if True:\n",
            ),
            (
                "kernel/outgoing.py",
                "if display_id is None or display_id not in self._displays:",
                "if False:",
            ),
        ],
        "test_37_75_past_the_limit_there_is_one_notice_and_the_reply_still_passes",
        "test_74_a_flood_of_small_messages_reaches_the_limit_too",
    ),
    _wall(
        "level-of-outputs",
        "outputs are shown as they are",
        [
            (
                "output_policy/markup.py",
                "    return without_tex_commands(_cleaner()(html))",
                "    return html",
            )
        ],
        "test_76_no_attack_in_html_stands_in_the_page",
    ),
    _wall(
        "escapes-of-terminals",
        "escapes are passed on",
        [
            (
                "output_policy/terminal.py",
                'return _ESCAPES.sub(lambda found: found[1] or "", text)',
                "return text",
            )
        ],
        "test_f77_a_terminal_gets_colours_and_no_other_escape",
        "test_77_escapes_in_text_are_gone_and_colours_stay",
    ),
    _wall(
        "kinds-of-values",
        "an array of objects is written as one of numbers",
        [("inside/values.py", "    if array.dtype.hasobject:\n", "    if False:\n")],
        "test_f79_a_value_that_would_run_code_is_refused_and_runs_nothing",
    ),
    _wall(
        "payloads",
        "payloads of replies are passed on",
        [
            (
                "kernel/outgoing.py",
                'contents.encode(self._payloads(fields["payload"]))',
                'fields["payload"]',
            )
        ],
        "test_78_payloads_are_filtered_by_list",
    ),
)

OF_SETTINGS = (
    _wall(
        "mounts",
        "a notebook may mount any folder",
        [
            (
                "ceilings.py",
                "            if layer.bound:\n                _hold_to_roots(",
                "            if False:\n                _hold_to_roots(",
            )
        ],
        "test_g82_a_mount_that_leads_out_is_refused",
    ),
    _wall(
        "ceilings",
        "no ceiling holds",
        [
            (
                "ceilings.py",
                "    if ceiling is None or ceiling.value is None:\n        return",
                "    if True:\n        return",
            ),
            ("ceilings.py", 'if item not in allowed and "ALL" not in allowed:', "if False:"),
        ],
        "test_g83_only_the_user_widens",
    ),
    _wall(
        "owners-of-settings",
        "a file of settings may be anybody's",
        [("settings_files.py", "    elif seen.st_mode & stat.S_IWOTH:\n", "    elif False:\n")],
        "test_g84_a_file_that_others_can_write_is_refused",
    ),
    _wall(
        "values-of-settings",
        "sizes are taken as they are written",
        [
            (
                "grammar.py",
                "if number is None or not least <= number <= MOST_BYTES:",
                "if number is None:",
            )
        ],
        "test_g85_a_wrong_value_in_a_file_is_named_with_its_line",
    ),
    _wall(
        "names",
        "any name is one",
        [
            (
                "grammar.py",
                "    if not isinstance(value, str) or not re.fullmatch(NAME, value):",
                "    if not isinstance(value, str):",
            )
        ],
        "test_g86_a_name_that_is_none_is_refused",
    ),
    _wall(
        "environment-of-the-launcher",
        "the launcher gets the environment of the program",
        [
            (
                "runtime/client.py",
                '    kept = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}',
                "    kept = dict(os.environ)",
            )
        ],
        "test_g87_the_launcher_gets_nothing_of_the_environment",
    ),
    _wall(
        "runtime-folder",
        "a runtime folder may be anybody's",
        [("runtime/state.py", "    if not _is_private(path, uid):\n", "    if False:\n")],
        "test_g87_a_prepared_folder_in_tmp_is_refused",
    ),
    _wall(
        "control-characters-in-paths",
        "a path may have a line feed",
        [
            (
                "ceilings.py",
                '    if any(c < " " or c == "\\x7f" for c in resolved):',
                "    if False:",
            ),
        ],
        "test_g88_a_line_feed_in_a_path_is_refused",
    ),
)

OF_NETWORKS = (
    _wall(
        "special-addresses",
        "private, loopback and link-local addresses are let through",
        [
            (
                "network/firewall.py",
                '            for name in ("special", "own")\n',
                '            for name in ("own",)\n',
            ),
            (
                "network/answering.py",
                "    return not allowing.is_special(number) or any(",
                "    return True or any(",
            ),
        ],
        "test_91_no_metadata_service_is_reached_in_any_notation",
        "test_92_a_name_that_leads_to_a_private_address_leads_nowhere",
        "test_92_of_many_addresses_only_public_ones_are_told",
    ),
    _wall(
        "addresses-of-the-machine",
        "the machine's own addresses are let through",
        [
            (
                "network/firewall.py",
                '            for name in ("special", "own")\n',
                '            for name in ("special",)\n',
            )
        ],
        "test_90_no_listener_of_the_host_is_reached",
    ),
    _wall(
        "lists-of-addresses",
        "what is on no list is let through too",
        [
            (
                "network/firewall.py",
                '            *self._refuse(chain, "not-allowed"),',
                '            self._ip.add_rule(chain, words.goto("admitted")),',
            )
        ],
        "test_93_the_address_decides_and_not_what_is_said_to_it",
        "test_95_there_is_no_other_resolver_under_a_list",
    ),
    _wall(
        "names-on-lists",
        "every name is asked for",
        [
            (
                "network/answering.py",
                "    return None if client.allow.of_name(query.name) else NOT_LISTED",
                "    return None",
            )
        ],
        "test_92_names_that_only_look_like_an_allowed_one_are_asked_of_nobody",
    ),
    _wall(
        "faces",
        "a frame may have any addresses",
        [
            (
                "network/firewall.py",
                '"internet", words.is_in("faces", *face, words.SOURCE), words.accept()\n',
                '"internet", words.accept()\n',
            )
        ],
        "test_96_who_pretends_to_be_another_one_is_not_heard",
    ),
    _wall(
        "published-ports",
        "a port is published on all addresses of the machine",
        [("grammar.py", 'len(parts) == 3 else "127.0.0.1"', 'len(parts) == 3 else "0.0.0.0"')],
        "test_97_only_declared_ports_lead_in_and_on_loopback_only",
    ),
    _wall(
        "flows-of-one-container",
        "a container may have sixteen times as many flows",
        [("network/firewall.py", "MOST_FLOWS = 4096", "MOST_FLOWS = 65536")],
        "test_98_nobody_fills_the_table_of_flows",
    ),
)

WALLS = (
    *OF_CONTAINERS,
    *OF_IMAGES,
    *OF_REGISTRIES,
    *OF_BUILDS,
    *OF_TRAFFIC,
    *OF_SETTINGS,
    *OF_NETWORKS,
)

NOT_WEAKENED = {
    18: "with no pid namespace of its own a container has no /proc, and is not made",
    19: "no program of ours asks a container for descriptors: there is no wall to weaken",
    38: "pid 1 reaps by one call of its machine code, with which it ends or does not start",
    40: "it looks for what a hundred at once leave: a weak wall would leave it on this machine",
    56: "nothing reads the addresses of foreign layers: there is no wall to weaken",
    80: "it looks for a relay that is wedged: no one wall keeps it from that",
    94: "a container has no address, no route and no name of IPv6: there is no wall to weaken",
}
"""Entries that no weak wall proves, and why."""
