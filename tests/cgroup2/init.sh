#!/bin/sh
# Process 1 of the machine with cgroup v2 (see machine.py): makes the file systems that tests need,
# runs the command that lies in $machine_folder, writes its exit status beside it, switches off.
# The root file system is the host's, read-only: what a test writes goes to a disk of its own.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mount -t devtmpfs -o nosuid devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
mkdir /run/disk
mount -t ext4 -o nosuid,nodev /dev/ubda /run/disk
mkdir -m 1777 /run/disk/tmp /run/disk/var-tmp
mount --bind /run/disk/tmp /tmp
mount --bind /run/disk/var-tmp /var/tmp
umount -l /run/disk
rmdir /run/disk
if ! [ -e "$machine_checkout" ]; then  # it lies below a directory that is the machine's own now
    mkdir -p "$machine_checkout"
    mount -t hostfs -o "$machine_checkout" none "$machine_checkout"
fi
mkdir -p /run/machine /tmp/home /run/lock
mount -t hostfs -o "$machine_folder" none /run/machine
python=/usr/bin/python3
"$python" -I "$machine_checkout/tests/cgroup2/prepare.py"

export HOME=/tmp/home SANDBOX_KERNEL_TEST_MACHINE=cgroup2
/bin/sh /run/machine/command >/run/machine/output 2>&1 </dev/null
echo $? >/run/machine/status
sync
# LINUX_REBOOT_CMD_POWER_OFF of include/uapi/linux/reboot.h: no program is needed for it.
exec "$python" -I -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321FEDC)'
