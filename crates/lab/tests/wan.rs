//! A slow path between two network namespaces, with real sockets on it: delay, loss, limits, cuts, and that nothing is left of it.
//!
//! Needs root, and fails without.

#![expect(clippy::unwrap_used, reason = "whatever fails, fails the test")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use switchback_lab::wan::{Conditions, Place, Wan};

/// Ends a broken test, not a slow one.
const LIMIT: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

/// A path; without root it says what is needed.
fn laid(conditions: Conditions, seed: u64) -> Wan {
    Wan::new(conditions, seed).unwrap_or_else(|error| panic!("{error} ({error:?})"))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "waited {LIMIT:?}: {what}");
        std::thread::sleep(5 * MS);
    }
}

fn udp(place: &Place) -> UdpSocket {
    let socket = place.enter(|| UdpSocket::bind((place.address(), 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn tcp(place: &Place) -> (TcpListener, SocketAddr) {
    let listener = place.enter(|| TcpListener::bind((place.address(), 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Two sockets, the first of which sends to the second.
fn connected(wan: &Wan) -> (UdpSocket, UdpSocket) {
    let (home, recovery) = (udp(wan.home()), udp(wan.recovery()));
    home.connect(recovery.local_addr().unwrap()).unwrap();
    recovery.connect(home.local_addr().unwrap()).unwrap();
    (home, recovery)
}

fn round_trip(home: &UdpSocket, recovery: &UdpSocket) -> Duration {
    let (began, mut byte) = (Instant::now(), [0]);
    home.send(b"a").unwrap();
    recovery.recv(&mut byte).unwrap();
    recovery.send(b"b").unwrap();
    home.recv(&mut byte).unwrap();
    assert_eq!(byte, *b"b");
    began.elapsed()
}

#[test]
fn a_round_trip_takes_twice_the_delay_at_least_which_can_be_changed() {
    let mut conditions = Conditions { delay: 30 * MS, ..Conditions::default() };
    let wan = laid(conditions, 1);
    let (home, recovery) = connected(&wan);
    assert!(round_trip(&home, &recovery) >= 60 * MS);
    conditions.delay = 150 * MS;
    wan.set(conditions);
    assert!(round_trip(&home, &recovery) >= 300 * MS);
}

#[test]
fn the_places_have_nothing_in_common_but_the_path() {
    let wan = laid(Conditions::default(), 1);
    let (_listener, address) = tcp(wan.recovery());
    let local = wan.recovery().enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
    let local = local.local_addr().unwrap();
    let reaches = |place: &Place, address| place.enter(|| TcpStream::connect(address).is_ok()).unwrap();
    assert!(reaches(wan.home(), address), "by the path");
    assert!(reaches(wan.recovery(), local), "each has a loopback device");
    assert!(!reaches(wan.home(), local), "of its own");
    // Neither does this host have a way to them, nor they to another pair.
    assert!(TcpStream::connect_timeout(&address, 300 * MS).is_err());
    let other = laid(Conditions::default(), 1);
    assert!(!reaches(other.home(), address));
}

/// Which of a thousand datagrams arrive.
fn arrivals(seed: u64) -> Vec<u16> {
    let lossy = Conditions { delay: MS, loss_ppm: 100_000, ..Conditions::default() };
    let wan = laid(lossy, seed);
    let (home, recovery) = connected(&wan);
    let (mut arrived, mut buffer) = (Vec::new(), [0; 2]);
    let seen = || wan.counts().carried + wan.counts().lost;
    // A few at a time, so that no socket's buffer overflows.
    for window in 0..20_u16 {
        let before = wan.counts();
        for number in 0..50 {
            home.send(&(window * 50 + number).to_be_bytes()).unwrap();
        }
        let sent = u64::from(window + 1) * 50;
        eventually("the path has seen all", || seen() == sent);
        for _ in 0..wan.counts().carried - before.carried {
            recovery.recv(&mut buffer).unwrap();
            arrived.push(u16::from_be_bytes(buffer));
        }
    }
    assert_eq!(arrived.len() as u64, wan.counts().carried);
    arrived
}

#[test]
fn about_as_much_is_lost_as_was_said_and_the_seed_decides_what() {
    let arrived = arrivals(3);
    // Five standard deviations of a binomial distribution.
    assert!((853..=947).contains(&arrived.len()), "{} of 1000", arrived.len());
    assert!(arrived.is_sorted(), "in order");
    assert_eq!(arrived, arrivals(3));
    assert_ne!(arrived, arrivals(4));
}

#[test]
fn a_cut_path_is_silent_and_connections_go_on_when_it_is_restored() {
    let wan = laid(Conditions { delay: 5 * MS, ..Conditions::default() }, 1);
    let (home, recovery) = connected(&wan);
    round_trip(&home, &recovery);
    let (listener, address) = tcp(wan.recovery());
    let mut left = wan.home().enter(|| TcpStream::connect(address).unwrap()).unwrap();
    let mut right = listener.accept().unwrap().0;
    let mut byte = [0];
    left.write_all(b"a").unwrap();
    right.read_exact(&mut byte).unwrap();

    wan.cut();
    let before = wan.counts();
    home.send(b"lost").unwrap();
    left.write_all(b"b").unwrap();
    eventually("both were sent into it", || wan.counts().cut >= before.cut + 2);
    assert_eq!(wan.counts().carried, before.carried);
    for silent in [recovery.set_read_timeout(Some(200 * MS)), right.set_read_timeout(Some(200 * MS))] {
        silent.unwrap();
    }
    let is_silence = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
    assert!(is_silence(recovery.recv(&mut byte).unwrap_err()));
    assert!(is_silence(right.read(&mut byte).unwrap_err()));

    wan.restore();
    right.set_read_timeout(Some(LIMIT)).unwrap();
    recovery.set_read_timeout(Some(LIMIT)).unwrap();
    right.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"b", "sent again by TCP");
    round_trip(&home, &recovery);
}

#[test]
fn a_transfer_over_a_lossy_narrow_path_arrives_intact() {
    let conditions = Conditions {
        delay: 10 * MS,
        loss_ppm: 10_000,
        bytes_per_second: NonZeroU64::new(8 << 20),
        queue_bytes_max: 64 << 10,
    };
    let wan = laid(conditions, 5);
    let (listener, address) = tcp(wan.recovery());
    let mut data = vec![0; 4 << 20];
    blake3::Hasher::new().update(b"a transfer").finalize_xof().fill(&mut data);
    let began = Instant::now();
    let arrived = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = wan.home().enter(|| TcpStream::connect(address).unwrap()).unwrap();
            left.write_all(&data).unwrap();
        });
        let (mut right, mut arrived) = (listener.accept().unwrap().0, Vec::new());
        right.set_read_timeout(Some(LIMIT)).unwrap();
        right.read_to_end(&mut arrived).unwrap();
        arrived
    });
    assert!(arrived == data);
    assert!(began.elapsed() >= Duration::from_millis(500), "4 MiB at 8 MiB/s");
    assert!(wan.counts().lost > 0, "{:?}", wan.counts());
}

/// How many tasks and open files of this host are in, or hold, the network namespace with this number.
fn users_of(namespace: u64) -> usize {
    let is_it = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.ino() == namespace);
    let entries =
        |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut users = 0;
    for process in entries(Path::new("/proc")) {
        users += entries(&process.join("task")).filter(|task| is_it(&task.join("ns/net"))).count();
        users += entries(&process.join("fd")).filter(|file| is_it(file)).count();
    }
    users
}

#[test]
fn what_is_begun_in_a_place_is_there_and_nothing_holds_the_places_afterwards() {
    let wan = laid(Conditions::default(), 1);
    let own = |path: &str| std::fs::metadata(path).unwrap().ino();
    let numbers =
        [wan.home(), wan.recovery()].map(|place| place.enter(|| own("/proc/thread-self/ns/net")).unwrap());
    assert_ne!(numbers[0], numbers[1]);
    assert!(!numbers.contains(&own("/proc/self/ns/net")), "this thread has stayed where it was");
    let mut sleeper =
        wan.home().enter(|| Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap()).unwrap();
    assert_eq!(own(&format!("/proc/{}/ns/net", sleeper.id())), numbers[0]);
    assert!(numbers.iter().all(|number| users_of(*number) > 0));

    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    drop(wan);
    // Another test's child may have been about to begin, with a copy of our descriptors.
    eventually("nothing holds them", || numbers.iter().all(|number| users_of(*number) == 0));
}

#[test]
fn a_panic_in_a_place_is_the_callers() {
    let wan = laid(Conditions::default(), 1);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wan.home().enter(|| assert!(wan.counts().carried > 1 << 40, "not so many")).unwrap();
    }));
    assert!(caught.is_err());
}
