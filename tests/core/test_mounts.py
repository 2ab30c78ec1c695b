"""Types of file systems, by mount tables of several machines."""

from pathlib import Path

import pytest

from pipeline.core import mounts

TABLE = """\
/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
filer:/export /srv/homes nfs4 rw,vers=4.2 0 0
filer:/two\\040words /srv/two\\040words nfs rw 0 0
tmpfs /srv/homes/local tmpfs rw 0 0
s3fs /srv/bucket fuse.s3fs rw 0 0
user@host: /srv/remote fuse.sshfs rw 0 0
torn line
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/home/me", "ext4", False),
        ("/srv/homes/shop/warehouse", "nfs4", True),
        ("/srv/homes-of-others", "ext4", False),
        ("/srv/homes/local/x", "tmpfs", False),
        ("/srv/two words/x", "nfs", True),
        ("/srv/remote", "fuse.sshfs", True),
        ("/srv/bucket/x", "fuse.s3fs", True),
    ],
)
def test_the_innermost_mount_counts(path, kind, network):
    found = mounts.file_system(Path(path), TABLE)
    assert (found, mounts.is_network(found)) == (kind, network)
    assert mounts.is_object_store(found) == (kind == "fuse.s3fs")


def test_a_later_mount_hides_an_earlier_one_of_the_same_place():
    assert mounts.file_system(Path("/srv/homes/x"), TABLE + "/dev/vdb /srv/homes xfs rw 0 0\n") == "xfs"


def test_this_machine_and_one_without_a_table():
    assert mounts.file_system(Path("/proc/self")) == "proc"
    assert mounts.file_system(Path("/x"), "") == "unknown" and not mounts.is_network("unknown")
