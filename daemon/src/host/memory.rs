//! What of this process stays in memory.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Unmaps the pages of program and libraries that starting has touched and nothing has changed; what runs again comes back from the page
/// cache. Starting touches most of the program, and an idle daemon hardly any of it. Returns the bytes that were advised on.
///
/// # Errors
/// `/proc/self/smaps` cannot be read; nothing has changed then.
pub fn let_go_of_startup_code() -> std::io::Result<usize> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    Ok(unchanged(&smaps).filter(|(start, length)| let_go(*start, *length)).map(|(_, length)| length.get()).sum())
}

/// Start and length of private mappings of files that may not be written to and of which no page was ever written (proc_pid_smaps(5)).
fn unchanged(smaps: &str) -> impl Iterator<Item = (NonNull<std::ffi::c_void>, NonZeroUsize)> + '_ {
    let lines: Vec<&str> = smaps.lines().collect();
    // Fields begin with a capital letter, mappings with the hexadecimal digit of an address.
    let heads: Vec<usize> = (0..lines.len()).filter(|at| !lines[*at].starts_with(|first: char| first.is_ascii_uppercase())).collect();
    let ends = heads.iter().skip(1).copied().chain([lines.len()]);
    let found: Vec<_> = heads
        .iter()
        .zip(ends)
        .filter_map(|(head, end)| {
            let own = ["Anonymous:", "Private_Dirty:", "Swap:"];
            let clean = own.iter().all(|field| lines[*head..end].iter().any(|line| line.split_whitespace().take(2).eq([*field, "0"])));
            mapping(lines[*head]).filter(|_| clean)
        })
        .collect();
    found.into_iter()
}

/// A private mapping of a file that may not be written to.
fn mapping(line: &str) -> Option<(NonNull<std::ffi::c_void>, NonZeroUsize)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let rights = words.next()?;
    let path = words.nth(3).unwrap_or_default();
    let wanted = matches!(rights, "r-xp" | "r--p") && path.starts_with('/');
    let range = NonNull::new(std::ptr::with_exposed_provenance_mut(start)).zip(NonZeroUsize::new(end.saturating_sub(start)));
    range.filter(|_| wanted)
}

#[allow(unsafe_code, reason = "madvise(2) is unsafe for what it does to private pages that were written")]
fn let_go(start: NonNull<std::ffi::c_void>, length: NonZeroUsize) -> bool {
    // SAFETY: the range is a private mapping of a file that may not be written to and has no page of its own: what MADV_DONTNEED drops
    // comes back with the same content.
    unsafe { madvise(start, length.get(), MmapAdvise::MADV_DONTNEED) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55e5f63cb000-55e5f6a9e000 r--p 00000000 fe:00 10972926                   /usr/sbin/metisd
Rss:                2708 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
55e5f6a9f000-55e5f79da000 r-xp 006d3000 fe:00 10972926                   /usr/sbin/metisd
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
55e5f79da000-55e5f7aaa000 r--p 0160d000 fe:00 10972926                   /usr/sbin/metisd
Private_Dirty:       832 kB
Anonymous:           832 kB
Swap:                  0 kB
7f8f7e937000-7f8f7e938000 r--p 001d2000 fe:00 10972926                   /usr/lib/libm.so.6
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  4 kB
55e5f7aaa000-55e5f7ae3000 rw-p 016dc000 fe:00 10972926                   /usr/sbin/metisd
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
7f8f7ea46000-7f8f7ea4e000 r--s 00000000 fe:00 10824119                   /var/lib/metis/journal.db-shm
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
7ffd1f5f9000-7ffd1f5fb000 r-xp 00000000 00:00 0                          [vdso]
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
";

    #[test]
    fn only_what_comes_back_the_same_is_let_go() {
        let found: Vec<_> = unchanged(SMAPS).map(|(start, length)| (start.addr().get(), length.get())).collect();
        assert_eq!(found, [(0x55e5_f63c_b000, 0x6d_3000), (0x55e5_f6a9_f000, 0xf3_b000)]);
        assert_eq!(unchanged("").count(), 0);
        // A kernel that does not say what is dirty: nothing is touched.
        assert_eq!(unchanged("55e5f63cb000-55e5f6a9e000 r--p 00000000 fe:00 1 /usr/sbin/metisd\nRss: 4 kB\n").count(), 0);
    }

    #[test]
    fn this_process_goes_on_with_less() {
        let resident = || {
            let smaps = std::fs::read_to_string("/proc/self/statm").unwrap();
            smaps.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        assert!(let_go_of_startup_code().unwrap() > 1 << 20);
        let after = resident();
        assert!(after < before, "{before} {after}");
    }
}
