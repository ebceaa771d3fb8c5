//! The first replication, straight and through a process server, against a plain copy between two NBD servers.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use super::image::{assert_equal, text};
use super::lab::{Lab, PATIENCE, manifest};
use super::process::{Process, drop_caches, is_installed, measure, wait_for};
use super::report::{Limit, Row, Samples};

/// NBD's port, and the one after it. Free: the benchmark has a network of its own.
const PORTS: [u16; 2] = [10809, 10810];

/// Measures both rows.
pub(super) fn rows(lab: &Lab, image: &Path, runs: usize) -> anyhow::Result<Vec<Row>> {
    let has_peer = is_installed("nbdcopy") && is_installed("qemu-nbd");
    let (mut direct, mut spooled) = (Samples::default(), Samples::default());
    let (mut nbdcopy, mut convert) = (Samples::default(), Samples::default());
    let (server, server_address) = lab.process_server()?;
    let mut refused = None;
    for run in 0..runs {
        eprintln!("initial: run {} of {runs}", run + 1);
        let name = format!("initial-{run}");
        drop_caches()?;
        let before = lab.receiver.cpu_s()?;
        let sync = lab.sync(image, &lab.address, &name, &["--capture", "scan"], |_, _| Ok(()))?;
        direct.push(sync.process.wall_s, sync.process.cpu_s + lab.receiver.cpu_s()? - before);
        finish(lab, image, &name, run == 0)?;
        if has_peer {
            copy_by_nbd(lab, image, &mut nbdcopy)?;
        }
        if refused.is_none() {
            // One kind of work that fails must not hide the results of the others.
            let done = through_process_server(lab, image, run, (&server, &server_address), &mut spooled);
            refused = done.err();
        }
        if is_installed("qemu-img") {
            convert_by_qemu(lab, image, &mut convert)?;
        }
    }
    let mut first = Row::new(
        "initial",
        "first replication, mutual TLS, hashed; peer: nbdcopy, qemu-nbd to qemu-nbd, direct I/O, plain",
    );
    first.ratio("wall", "s", &direct.wall_s, &nbdcopy.wall_s, Limit::AtMost(1.0));
    first.ratio("CPU", "s", &direct.cpu_s, &nbdcopy.cpu_s, Limit::AtMost(1.0));
    first.ratio("wall, qemu-img convert", "s", &direct.wall_s, &convert.wall_s, Limit::None);
    first.ratio("CPU, qemu-img convert", "s", &direct.cpu_s, &convert.cpu_s, Limit::None);
    let mut second = Row::new(
        "process-server",
        "the same through a process server, until recoverable at the target; same peer",
    );
    second.ratio("wall", "s", &spooled.wall_s, &nbdcopy.wall_s, Limit::AtMost(1.6));
    second.ratio("CPU", "s", &spooled.cpu_s, &nbdcopy.cpu_s, Limit::None);
    for row in [&mut first, &mut second] {
        row.samples("peer", nbdcopy.json());
        if !has_peer {
            row.note("nbdcopy or qemu-nbd is not installed (Debian: libnbd-bin, qemu-utils): no peer");
        }
    }
    if let Some(error) = refused {
        eprintln!("process-server: FAILED: {error:#}");
        second.note(format!("FAILED: {error:#}"));
    }
    if convert.is_empty() {
        first.note("qemu-img is not installed (Debian: qemu-utils)");
    }
    first.samples("ours", direct.json());
    first.samples("qemu-img convert", convert.json());
    second.samples("ours", spooled.json());
    Ok(vec![first, second])
}

fn through_process_server(
    lab: &Lab,
    image: &Path,
    run: usize,
    (server, address): (&Process, &str),
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let name = format!("spooled-{run}");
    drop_caches()?;
    let before = lab.receiver.cpu_s()? + server.cpu_s()?;
    let sync = lab.sync(image, address, &name, &["--capture", "scan"], |_, _| Ok(()))?;
    let recoverable = || {
        let manifest = manifest(&lab.replica(&name))?;
        (!manifest["points"].as_array()?.is_empty()).then(std::time::Instant::now)
    };
    let recoverable = wait_for("the point at the target", PATIENCE, recoverable)?;
    let wall_s = (recoverable - sync.process.started).as_secs_f64();
    samples.push(wall_s, sync.process.cpu_s + lab.receiver.cpu_s()? + server.cpu_s()? - before);
    if run == 0 {
        assert_equal(image, &lab.disk(&name))?;
    }
    // The process server keeps its session; the disk's room is what matters.
    File::options().write(true).open(lab.disk(&name))?.set_len(0)?;
    Ok(())
}

/// Makes room for the next run.
fn finish(lab: &Lab, image: &Path, name: &str, check: bool) -> anyhow::Result<()> {
    lab.wait_released(name)?;
    if check {
        assert_equal(image, &lab.disk(name))?;
    }
    Ok(fs::remove_dir_all(lab.replica(name))?)
}

fn copy_by_nbd(lab: &Lab, image: &Path, samples: &mut Samples) -> anyhow::Result<()> {
    let target = new_target(lab, image)?;
    let [source_port, target_port] = PORTS;
    let source = serve(lab, image, source_port, &["--read-only"])?;
    let target_server = serve(lab, &target, target_port, &["--discard=unmap"])?;
    drop_caches()?;
    let uri = |port| format!("nbd://127.0.0.1:{port}");
    let mut nbdcopy = Command::new("nbdcopy");
    nbdcopy.args(["--destination-is-zero", "--flush", &uri(source_port), &uri(target_port)]);
    let done = measure(&lab.janitor, &mut nbdcopy, |_, _| Ok(()))?;
    samples.push(done.wall_s, done.cpu_s + source.stop()? + target_server.stop()?);
    Ok(fs::remove_file(target)?)
}

fn serve(lab: &Lab, image: &Path, port: u16, options: &[&str]) -> anyhow::Result<Process> {
    let mut server = Command::new("qemu-nbd");
    server.args(["--format=raw", "--cache=none", "--aio=native", "--persistent", "--shared=8"]);
    server
        .args(["--bind=127.0.0.1", &format!("--port={port}")])
        .args(options)
        .arg(image)
        .stdout(Stdio::null());
    let server = Process::start(&lab.janitor, &mut server)?;
    let listens = || TcpStream::connect(("127.0.0.1", port)).ok().map(drop);
    wait_for("qemu-nbd to listen", PATIENCE, listens)?;
    Ok(server)
}

fn convert_by_qemu(lab: &Lab, image: &Path, samples: &mut Samples) -> anyhow::Result<()> {
    let target = new_target(lab, image)?;
    drop_caches()?;
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", "-T", "none", "-t", "none"]);
    convert.args(["--target-is-zero", &text(image), &text(&target)]);
    let mut done = measure(&lab.janitor, &mut convert, |_, _| Ok(()))?;
    let flush = measure(&lab.janitor, Command::new("sync").arg(&target), |_, _| Ok(()))?;
    done.wall_s += flush.wall_s;
    samples.push(done.wall_s, done.cpu_s + flush.cpu_s);
    Ok(fs::remove_file(target)?)
}

fn new_target(lab: &Lab, image: &Path) -> anyhow::Result<std::path::PathBuf> {
    let target = lab.work.join("peer.img");
    File::create(&target)?.set_len(fs::metadata(image)?.len())?;
    Ok(target)
}
