//! Compiles the tracking program (`src/bpf/track.bpf.c`) for the kernel's BPF machine.
//!
//! The object depends on no kernel headers and no running kernel: it is relocated when it is loaded (CO-RE).
//! The helper declarations come with libbpf-sys, so that they always fit the libbpf that loads the object.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const SOURCE: &str = "src/bpf/track.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let path = |name| PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")));
    let object = path("OUT_DIR").join("track.bpf.o");
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let result = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Wno-unused-parameter", "-Wno-sign-compare", "-I"])
        .arg(path("DEP_BPF_INCLUDE"))
        .args(["-c", SOURCE, "-o"])
        .arg(&object)
        .output();
    let problem = match result {
        Ok(output) if output.status.success() => return,
        Ok(output) => format!("{SOURCE} does not compile:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => format!(
            "cannot run {clang:?}, which compiles the change tracker for the kernel's BPF machine ({error}): \
             install it (Debian, Ubuntu: apt-get install clang), or name another one in $CLANG"
        ),
    };
    for line in problem.lines() {
        println!("cargo::error={line}");
    }
    exit(1);
}
