"""The type of the file system that a path is on, and whether other hosts share it."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2",
    "gfs2", "pvfs2", "virtiofs",
}  # fmt: skip
"""File systems that several machines may have mounted."""
LOCAL_FUSE = {"fuseblk", "fuse.ext4", "fuse.ntfs", "fuse.overlayfs", "fuse.fuse-overlayfs", "fuse.lxcfs"}
"""Other types that begin with `fuse` are taken for network file systems: sshfs, juicefs, mounts of object stores."""
OBJECT_STORES = re.compile(r"fuse\.(s3fs|rclone|gcsfuse|goofys|geesefs|mountpoint-s3|blobfuse2?)|s3fs|rclone")
"""File systems over an object store: no atomic rename, no hard links, no locks."""


def file_system(path: Path, table: str | None = None) -> str:
    """Type of the file system of `path`, such as `ext4`, from the mount table of this process; `unknown` without one.

    `table`: text of a mount table, in the format of /proc/mounts.
    """
    if table is None:
        table = MOUNTS.read_text() if MOUNTS.exists() else ""
    best, found = Path(), "unknown"
    place = path.resolve()
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]))
        if place.is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):  # later mounts hide earlier ones
            best, found = mounted, fields[2]
    return found


def is_network(kind: str) -> bool:
    """Whether several hosts may use a file system of this type at the same time."""
    return kind in NETWORK or (kind.startswith("fuse") and kind not in LOCAL_FUSE)


def is_object_store(kind: str) -> bool:
    """Whether it shows objects as files, without the guarantees of a file system."""
    return bool(OBJECT_STORES.fullmatch(kind))
