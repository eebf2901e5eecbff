//! Names of system calls.

use rustc_hash::FxHashMap;
use std::sync::LazyLock;

/// Architectures as `arch=` names them (`AUDIT_ARCH_*` of `linux/audit.h`), in the order of the table's columns.
const ARCHITECTURES: [&[u8]; 3] = [b"c000003e", b"40000003", b"c00000b7"];

/// What makes a number of x86_64 one of its 32-bit interface x32.
const X32: u32 = 0x4000_0000;

static NAMES: LazyLock<[FxHashMap<u32, &'static str>; 3]> = LazyLock::new(|| {
    let mut names: [FxHashMap<u32, &'static str>; 3] = Default::default();
    for line in include_str!("syscalls.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let Some(name) = words.next() else { continue };
        for (number, names) in words.zip(&mut names) {
            if let Ok(number) = number.parse() {
                names.insert(number, name);
            }
        }
    }
    names
});

/// The name of a system call; `None` for an architecture or a number the table does not know.
pub(crate) fn syscall(architecture: &[u8], number: &[u8]) -> Option<&'static str> {
    let column = ARCHITECTURES.iter().position(|known| *known == architecture)?;
    let number: u32 = std::str::from_utf8(number).ok()?.parse().ok()?;
    let number = if column == 0 { number & !X32 } else { number };
    NAMES[column].get(&number).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_what_its_architecture_says() {
        assert_eq!(syscall(b"c000003e", b"59"), Some("execve"));
        assert_eq!(syscall(b"40000003", b"11"), Some("execve"));
        assert_eq!(syscall(b"c00000b7", b"221"), Some("execve"));
        assert_eq!(syscall(b"c000003e", b"1073741865"), Some("socket"));
        assert_eq!(syscall(b"c000003e", b"99999"), None);
        assert_eq!(syscall(b"80000016", b"1"), None);
    }
}
