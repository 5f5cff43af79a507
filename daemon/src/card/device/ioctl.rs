//! The block-device calls that nix has no wrapper for (linux/fs.h).
#![allow(unsafe_code, reason = "ioctl(2) is untyped")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

mod raw {
    use nix::{ioctl_none, ioctl_read};

    ioctl_none!(blkrrpart, 0x12, 95);
    ioctl_none!(blkflsbuf, 0x12, 97);
    ioctl_read!(blkgetdiskseq, 0x12, 128, u64);
    // Declared with size_t in linux/fs.h, though the kernel writes 64 bits everywhere.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, nix::libc::size_t);
}

/// Size of a block device in bytes.
pub(super) fn size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // u64, for the kernel writes eight bytes where size_t has four.
    let mut size: u64 = 0;
    // SAFETY: fd is open for the call and the kernel writes eight bytes to `size`.
    unsafe { raw::blkgetsize64(fd.as_raw_fd(), (&raw mut size).cast()) }?;
    Ok(size)
}

/// The medium's number since boot; `None` before Linux 5.15.
pub(super) fn diskseq(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut seq: u64 = 0;
    // SAFETY: fd is open for the call and the kernel writes eight bytes to `seq`.
    unsafe { raw::blkgetdiskseq(fd.as_raw_fd(), &raw mut seq) }.ok().map(|_| seq)
}

/// BLKFLSBUF: writes back and drops the device's page cache; needs CAP_SYS_ADMIN.
pub(super) fn flush_buffers(fd: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: fd is open for the call; there is no argument.
    unsafe { raw::blkflsbuf(fd.as_raw_fd()) }.map(drop)
}

/// BLKRRPART: reads the partition table; needs CAP_SYS_ADMIN.
pub(super) fn reread_table(fd: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: fd is open for the call; there is no argument.
    unsafe { raw::blkrrpart(fd.as_raw_fd()) }.map(drop)
}
