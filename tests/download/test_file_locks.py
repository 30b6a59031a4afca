import fcntl
import mmap
import multiprocessing
import os

import pytest

from rspretrain.download.file_locks import Lease, evict, is_held, is_same_file, remove, try_lock

pytestmark = pytest.mark.timeout(30)


def opened(path):
    return os.open(path, os.O_RDWR | os.O_CREAT)


def lock_and_die(path, locked):
    assert try_lock(opened(path))
    locked.set()
    os.kill(os.getpid(), 9)


def test_a_lock_belongs_to_the_open_file(tmp_path):
    one, other = opened(tmp_path / "a"), opened(tmp_path / "a")
    assert try_lock(one)
    assert not try_lock(other)
    assert is_held(tmp_path / "a")
    os.close(one)
    assert not is_held(tmp_path / "a")
    assert not is_held(tmp_path / "b")
    os.close(other)


def test_a_lock_ends_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    locked = context.Event()
    process = context.Process(target=lock_and_die, args=(tmp_path / "a", locked))
    process.start()
    assert locked.wait(20)
    process.join()
    assert not is_held(tmp_path / "a")


def test_a_mapping_keeps_the_lock_of_a_lease(tmp_path):
    path = tmp_path / "set" / "a"
    path.parent.mkdir()
    path.write_bytes(b"data")
    descriptor = opened(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    lease = Lease(path, descriptor)
    mapping = mmap.mmap(lease.fileno(), 0, prot=mmap.PROT_READ)
    lease.close()
    lease.close()
    assert not lease.is_current
    assert not evict(path)
    mapping.close()
    assert evict(path)
    assert not path.parent.exists()
    assert not evict(path)


def test_a_path_may_refer_to_another_file(tmp_path):
    path = tmp_path / "set" / "a"
    path.parent.mkdir()
    descriptor = opened(path)
    assert is_same_file(path, descriptor)
    (tmp_path / "b").touch()
    (tmp_path / "b").rename(path)
    assert not is_same_file(path, descriptor)
    remove(path)
    assert not is_same_file(path, descriptor)
    os.close(descriptor)
