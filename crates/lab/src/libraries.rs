//! The shared libraries a program needs, as the dynamic loader itself names them (`ldd`).

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files `program` loads, its dynamic loader included. None for a static program or a script.
pub(crate) fn of_program(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let missing = text.lines().find(|line| line.contains("not found"));
    match missing {
        Some(line) => Err(io::Error::new(io::ErrorKind::NotFound, line.trim().to_owned())),
        // For what is not dynamic, ldd fails and says so; there is nothing to parse then.
        None => Ok(parse(&text)),
    }
}

/// Lines are `name => /path (address)`, `/path (address)` for the loader, or `name (address)` for what the kernel provides.
fn parse(text: &str) -> Vec<PathBuf> {
    let words = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    text.lines().filter_map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_both_forms() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            parse(text),
            [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"), PathBuf::from("/lib64/ld-linux-x86-64.so.2")]
        );
        assert_eq!(parse("\tnot a dynamic executable\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_dynamic_program_has_its_loader() {
        let libraries = of_program(Path::new("/usr/bin/env")).unwrap();
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("ld-linux")), "{libraries:?}");
        assert!(libraries.iter().all(|path| path.is_file()), "{libraries:?}");
    }

    #[test]
    fn a_static_program_has_none() {
        assert_eq!(of_program(Path::new("/bin/busybox")).unwrap(), Vec::<PathBuf>::new());
    }
}
