//! Snapshots whose operations are cut short: the process that does them is killed before each of its steps, QEMU is killed too or goes on, and in
//! the end the disks must hold what the guest wrote and nothing else.

use std::fs;

use switchback_sites::conformance::{self, Subject};
use switchback_sites::{Machine, NewMachine, Power, Site};

use crate::bench::{self, Bench};

/// The largest number of steps of one operation, with room to spare.
const STEPS_MAX: usize = 30;
const DISKS: usize = 2;
const AREA: u64 = 64 << 10;

/// Bytes that were written to each area of each disk, in order.
const BEFORE: u8 = 0x11;
const SINCE: u8 = 0x22;
const LATER: u8 = 0x33;

fn machine(bench: &Bench, id: &str) -> Machine {
    let subject = Subject {
        site: std::sync::Arc::new(bench.open()),
        datastore: "main".to_owned(),
        network: "lan".to_owned(),
        lays_over_images: true,
        replica: None,
    };
    let mut new: NewMachine = conformance::machine(&subject, id);
    new.disks.push(new.disks[0].clone());
    new.nics.clear();
    let machine = subject.site.create_machine(&new).expect("there is room");
    for disk in &machine.disks {
        let contents = vec![BEFORE; usize::try_from(disk.size).expect("small")];
        fs::write(&disk.path, contents).expect("it can be written while the machine is off");
    }
    machine
}

/// The areas of a disk: each its own byte.
fn expect(contents: &[u8], areas: &[u8], context: &str) {
    for (index, byte) in areas.iter().enumerate() {
        let area = &contents[index * 65536..(index + 1) * 65536];
        let wrong = area.iter().position(|found| found != byte);
        assert_eq!(
            wrong,
            None,
            "{context}: area {index} holds {:#x} in place of {byte:#x}",
            area[wrong.unwrap_or(0)]
        );
    }
}

fn write(bench: &Bench, id: &str, byte: u8, area: u64) {
    for disk in 0..DISKS {
        bench::write_as_guest(bench.directory(), id, disk, byte, area * AREA, AREA);
    }
}

/// All disks are as they should be, nothing is left of the snapshot, and the machine runs as if nothing had been.
fn assert_merged(bench: &Bench, machine: &Machine, areas: &[u8], context: &str) {
    let site = bench.open();
    let now = site.machine(&machine.id).expect("it is there");
    assert_eq!(now.snapshots, [""; 0], "{context}");
    for disk in &now.disks {
        expect(&fs::read(&disk.path).expect("the raw image"), areas, context);
    }
    let directory = machine.disks[0].path.parent().expect("it has one");
    let left = fs::read_dir(directory).expect("the images' directory").count();
    assert_eq!(left, DISKS, "{context}: layers are left");
}

/// The live merge, interrupted before its step number `step`. Returns whether there was such a step.
fn interrupted_live_merge(bench: &Bench, machine: &Machine, step: usize, kill_qemu: bool) -> bool {
    let context = format!("step {step}, QEMU killed: {kill_qemu}");
    let (site, id) = (bench.open(), machine.id.as_str());
    for disk in &machine.disks {
        fs::write(&disk.path, vec![BEFORE; 1 << 20]).expect("the machine is off");
    }
    site.create_snapshot(id, "s").expect("it is off");
    site.power_on(id).expect("it starts");
    // What is written again later lies in the layer, too: were the layer not gone from the record, it would hide what is newer below it.
    write(bench, id, SINCE, 1);
    write(bench, id, SINCE, 2);
    let finished = bench.in_process(&["delete_snapshot", id, "s"], Some(step));
    if kill_qemu {
        bench.kill_qemu(id);
        for disk in 0..DISKS {
            expect(&bench::contents(bench.directory(), id, disk), &[BEFORE, SINCE, SINCE], &context);
        }
        site.power_on(id).expect("it starts from what is recorded");
        write(bench, id, LATER, 2);
    }
    site.delete_snapshot(id, "s").expect("what was begun is ended");
    if !kill_qemu {
        write(bench, id, LATER, 2);
    }
    assert_merged(bench, machine, &[BEFORE, SINCE, LATER, BEFORE], &context);
    // The raw image is written from now on, by a guest that runs.
    write(bench, id, LATER, 3);
    site.power_off(id).expect("it can be switched off");
    assert_merged(bench, machine, &[BEFORE, SINCE, LATER, LATER, BEFORE], &context);
    !finished
}

#[test]
fn guest_live_merge_survives_death_at_every_step() {
    let bench = Bench::new();
    let machine = machine(&bench, "live");
    for kill_qemu in [false, true] {
        let steps =
            (0..STEPS_MAX).take_while(|step| interrupted_live_merge(&bench, &machine, *step, kill_qemu));
        let steps = steps.count();
        assert!((10..STEPS_MAX).contains(&steps), "{steps} steps");
    }
}

#[test]
fn guest_left_standing_goes_on_when_it_is_started() {
    let bench = Bench::new();
    let machine = machine(&bench, "standing");
    let (site, id) = (bench.open(), machine.id.as_str());
    let mut stood = 0;
    for step in 0..STEPS_MAX {
        site.create_snapshot(id, "s").expect("it is off");
        site.power_on(id).expect("it starts");
        write(&bench, id, SINCE, 2);
        if bench.in_process(&["delete_snapshot", id, "s"], Some(step)) {
            assert!(stood > 2, "at {stood} steps the guest stood still");
            return;
        }
        stood += usize::from(bench::state(bench.directory(), id) == "paused");
        site.power_on(id).expect("it goes on");
        assert_eq!(bench::state(bench.directory(), id), "running", "step {step}");
        // What it writes now must not be lost, whether QEMU has pivoted or not.
        write(&bench, id, LATER, 2);
        bench.kill_qemu(id);
        for disk in 0..DISKS {
            expect(
                &bench::contents(bench.directory(), id, disk),
                &[BEFORE, BEFORE, LATER],
                &format!("step {step}"),
            );
        }
        site.delete_snapshot(id, "s").expect("it is merged while off");
        for disk in &machine.disks {
            fs::write(&disk.path, vec![BEFORE; 1 << 20]).expect("the machine is off");
        }
    }
    panic!("more than {STEPS_MAX} steps");
}

#[test]
fn guest_cold_operations_survive_death_at_every_step() {
    let bench = Bench::new();
    let machine = machine(&bench, "cold");
    let (site, id) = (bench.open(), machine.id.as_str());
    let mut steps = 0;
    for step in 0..STEPS_MAX {
        let context = format!("step {step}");
        // Taken: either there or not, and the disks as they were.
        bench.in_process(&["create_snapshot", id, "s"], Some(step));
        site.create_snapshot(id, "s").expect("it is off");
        site.power_on(id).expect("it starts");
        write(&bench, id, SINCE, 1);
        site.power_off(id).expect("it is switched off");
        expect(&fs::read(&machine.disks[0].path).expect("the image"), &[BEFORE, BEFORE], &context);
        // Gone back to.
        bench.in_process(&["revert_snapshot", id, "s"], Some(step));
        site.revert_snapshot(id, "s").expect("it is off");
        for disk in 0..DISKS {
            expect(&bench::contents(bench.directory(), id, disk), &[BEFORE, BEFORE], &context);
        }
        // A later one on top, and the lower one merged below it.
        site.power_on(id).expect("it starts");
        write(&bench, id, SINCE, 1);
        site.power_off(id).expect("it is switched off");
        site.create_snapshot(id, "t").expect("it is off");
        site.power_on(id).expect("it starts");
        write(&bench, id, LATER, 2);
        site.power_off(id).expect("it is switched off");
        let finished = bench.in_process(&["delete_snapshot", id, "s"], Some(step));
        for disk in 0..DISKS {
            expect(&bench::contents(bench.directory(), id, disk), &[BEFORE, SINCE, LATER], &context);
        }
        site.delete_snapshot(id, "s").expect("what was begun is ended");
        expect(&fs::read(&machine.disks[1].path).expect("the image"), &[BEFORE, SINCE, BEFORE], &context);
        assert_eq!(site.machine(id).expect("it is there").snapshots, ["t"]);
        bench.in_process(&["delete_snapshot", id, "t"], Some(step));
        let has_begun = fs::read(&machine.disks[0].path).expect("the image")[2 * 65536] == LATER;
        let is_listed = !site.machine(id).expect("it is there").snapshots.is_empty();
        assert!(!(has_begun && is_listed), "{context}: nobody may go back to a state that is gone");
        if !is_listed {
            assert!(site.revert_snapshot(id, "t").is_err(), "{context}");
        }
        site.delete_snapshot(id, "t").expect("what was begun is ended");
        assert_merged(&bench, &machine, &[BEFORE, SINCE, LATER, BEFORE], &context);
        for disk in &machine.disks {
            fs::write(&disk.path, vec![BEFORE; 1 << 20]).expect("the machine is off");
        }
        steps = step;
        if finished {
            break;
        }
    }
    assert!((6..STEPS_MAX - 1).contains(&steps), "{steps} steps");
}

#[test]
fn guest_lower_snapshot_is_merged_while_it_runs() {
    let bench = Bench::new();
    let machine = machine(&bench, "lower");
    let (site, id) = (bench.open(), machine.id.as_str());
    for (step, kill_qemu) in (0..STEPS_MAX).flat_map(|step| [(step, false), (step, true)]) {
        let context = format!("step {step}, QEMU killed: {kill_qemu}");
        site.create_snapshot(id, "s").expect("it is off");
        site.power_on(id).expect("it starts");
        write(&bench, id, SINCE, 1);
        site.power_off(id).expect("it is switched off");
        site.create_snapshot(id, "t").expect("it is off");
        site.power_on(id).expect("it starts");
        write(&bench, id, LATER, 2);
        let finished = bench.in_process(&["delete_snapshot", id, "s"], Some(step));
        if kill_qemu {
            bench.kill_qemu(id);
            for disk in 0..DISKS {
                expect(&bench::contents(bench.directory(), id, disk), &[BEFORE, SINCE, LATER], &context);
            }
        }
        site.delete_snapshot(id, "s").expect("what was begun is ended");
        for disk in &machine.disks {
            expect(&fs::read(&disk.path).expect("the image"), &[BEFORE, SINCE, BEFORE], &context);
        }
        site.delete_snapshot(id, "t").expect("the upper one goes, too");
        assert_merged(&bench, &machine, &[BEFORE, SINCE, LATER, BEFORE], &context);
        site.power_off(id).expect("it is switched off");
        for disk in &machine.disks {
            fs::write(&disk.path, vec![BEFORE; 1 << 20]).expect("the machine is off");
        }
        if finished {
            return;
        }
    }
    panic!("more than {STEPS_MAX} steps");
}

#[test]
fn guest_machine_is_removed_by_whoever_comes_next() {
    let bench = Bench::new();
    for step in 0..STEPS_MAX {
        let machine = machine(&bench, "removed");
        let site = bench.open();
        site.create_snapshot(&machine.id, "s").expect("it is off");
        let finished = bench.in_process(&["delete_machine", &machine.id], Some(step));
        if !finished && site.machine(&machine.id).is_ok() {
            assert_eq!(site.machine(&machine.id).expect("just now").power, Power::Off);
        }
        site.delete_machine(&machine.id).expect("what was begun is ended");
        for directory in ["disks", "machines"] {
            let left = fs::read_dir(bench.directory().join(directory)).expect("it is there").count();
            assert_eq!(left, 0, "step {step}: {directory} has something left");
        }
        if finished {
            assert!(step > 1);
            return;
        }
    }
    panic!("more than {STEPS_MAX} steps");
}

#[test]
fn guest_machine_is_made_whole_or_not_at_all() {
    let bench = Bench::new();
    let site = bench.open();
    for step in 0..STEPS_MAX {
        let finished = bench.in_process(&["create_machine", "made"], Some(step));
        assert_eq!(
            site.machine("conformance-made").is_ok(),
            finished,
            "step {step}: it is not seen before it is whole"
        );
        if step % 2 == 0 {
            bench.in_process(&["create_machine", "made"], None);
            site.power_on("conformance-made").expect("it is whole");
            site.power_off("conformance-made").expect("it can");
        }
        site.delete_machine("conformance-made").expect("also what is not whole");
        for directory in ["disks", "machines"] {
            let left = fs::read_dir(bench.directory().join(directory)).expect("it is there").count();
            assert_eq!(left, 0, "step {step}: {directory} has something left");
        }
        if finished {
            assert!(step > 2);
            return;
        }
    }
    panic!("more than {STEPS_MAX} steps");
}
