//! Tests of the channel and of children: this test binary is its own child.

use super::*;
use serde::Deserialize;

const CHILD: &str = "INSPECTD_TEST_IPC_CHILD";
const SOON: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Header {
    word: String,
}

fn header(word: &str) -> Header {
    Header { word: word.into() }
}

fn pair() -> (Channel, Channel) {
    let (a, b) = UnixStream::pair().unwrap();
    (Channel::over(a), Channel::over(b))
}

/// What the child does, as its variable says.
#[test]
fn child() {
    let Ok(role) = std::env::var(CHILD) else { return };
    let mut channel = Channel::of_this_process().unwrap();
    loop {
        match channel.recv::<Header>(SOON, SOON) {
            Ok(Some((header, payload))) if role == "echo" => {
                channel.send(&header, &[&payload], SOON).unwrap();
            }
            Ok(Some(_)) => std::thread::sleep(Duration::from_mins(10)),
            Ok(None) => {}
            Err(IpcError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn spawn(role: &str) -> Child {
    let mut program = Program::new(["--exact", "ipc::tests::child", "--nocapture"]);
    program.env.push((CHILD.into(), role.into()));
    Child::spawn(&program).unwrap()
}

#[test]
fn what_a_process_has_taken_is_read_whatever_its_name_is() {
    let stat = format!("7 (a) b (c) S 1 {} 250 50 {} 300 0", "0 ".repeat(9).trim(), "0 ".repeat(7).trim());
    let ticks = 100;
    assert_eq!(
        Usage::of(&stat).map(|usage| usage.cpu),
        Some(Duration::from_millis(300_000 / ticks)),
        "{stat}"
    );
    assert_eq!(Usage::of(""), None);
    let child = spawn("echo");
    let start = Instant::now();
    while child.usage().memory < 1 << 20 {
        assert!(start.elapsed() < SOON, "it takes memory: {:?}", child.usage());
    }
}

fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn messages_come_back_from_a_child_and_dropping_it_reaps_it() {
    let mut child = spawn("echo");
    let picture: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
    for word in ["one", "two"] {
        // The child reads while it is written to, so a message larger than the socket's buffer goes.
        child.channel.send(&header(word), &[&picture[..10], &picture[10..]], SOON).unwrap();
        let (back, payload) = child.channel.recv::<Header>(SOON, SOON).unwrap().unwrap();
        assert_eq!((back, payload == picture), (header(word), true));
    }
    let pid = child.pid();
    assert!(is_there(pid) && child.exited().is_none());
    drop(child);
    assert!(!is_there(pid), "killed and reaped");
}

#[test]
fn a_child_ends_when_its_socket_closes_and_a_hung_one_when_it_is_dropped() {
    let mut child = spawn("echo");
    child.channel = pair().0;
    let began = Instant::now();
    while child.exited().is_none() {
        assert!(began.elapsed() < SOON, "the child goes on without its socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut hung = spawn("hang");
    hung.channel.send(&header("x"), &[], SOON).unwrap();
    assert!(hung.channel.recv::<Header>(Duration::from_millis(20), SOON).unwrap().is_none());
    let pid = hung.pid();
    drop(hung);
    assert!(!is_there(pid));
}

#[test]
fn a_child_that_hangs_shows_no_activity() {
    let mut child = spawn("echo");
    child.channel.send(&header("x"), &[], SOON).unwrap();
    child.channel.recv::<Header>(SOON, SOON).unwrap().unwrap();
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.pid() as i32, libc::SIGSTOP) }, 0);
    let began = Instant::now();
    let mut seen = activity(child.pid());
    // It stops at its next return from the kernel; then the number stands.
    for quiet in 0..10 {
        assert!(seen.is_some() && began.elapsed() < SOON, "{quiet}");
        std::thread::sleep(Duration::from_millis(30));
        seen = activity(child.pid());
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(activity(child.pid()), seen);
    let stat = "7 (a (b) c) S 1 2 3 4 5 6 100 8 20 10 3 4 13 14";
    assert_eq!(activity_of(stat), Some(127));
    assert_eq!(activity_of("garbage"), None);
}

#[test]
fn a_child_survives_the_thread_that_asked_for_it() {
    let mut child = std::thread::spawn(|| spawn("echo")).join().unwrap();
    child.channel.send(&header("still"), &[], SOON).unwrap();
    assert_eq!(child.channel.recv::<Header>(SOON, SOON).unwrap().unwrap().0, header("still"));
}

#[test]
fn lengths_are_checked_on_both_sides() {
    let (mut a, mut b) = pair();
    let long = header(&"x".repeat(HEADER_BYTES_MAX));
    assert!(matches!(a.send(&long, &[], SOON), Err(IpcError::TooLong { what: "header", .. })));
    let half = vec![0; PAYLOAD_BYTES_MAX / 2 + 1];
    let sent = a.send(&header("x"), &[&half, &half], SOON);
    assert!(matches!(sent, Err(IpcError::TooLong { what: "payload", .. })));
    a.stream.write_all(&[0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff]).unwrap();
    assert!(matches!(b.recv::<Header>(SOON, SOON), Err(IpcError::TooLong { bytes: 0xffff_ffff, .. })));
    let (mut a, mut b) = pair();
    b.limit_payload(1_000);
    for bytes in [1_000, 1_001] {
        a.send(&header("x"), &[&vec![0; bytes]], SOON).unwrap();
    }
    assert_eq!(b.recv::<Header>(SOON, SOON).unwrap().unwrap().1.len(), 1_000);
    assert!(matches!(b.recv::<Header>(SOON, SOON), Err(IpcError::TooLong { bytes: 1_001, .. })));
}

#[test]
fn silence_is_none_half_a_message_is_stalled_and_the_end_is_closed() {
    let (mut a, mut b) = pair();
    assert!(b.recv::<Header>(Duration::from_millis(5), SOON).unwrap().is_none());
    a.stream.write_all(b"\0\0\0\x02\0\0\0\0").unwrap();
    let half = b.recv::<Header>(SOON, Duration::from_millis(20));
    assert!(matches!(half, Err(IpcError::Stalled { waited_ms: 20.. })), "{half:?}");
    drop(a);
    assert!(matches!(b.recv::<Header>(SOON, SOON), Err(IpcError::Closed)));
    assert!(matches!(b.send(&header("x"), &[], SOON), Err(IpcError::Closed)));
}

#[test]
fn a_wrong_header_leaves_the_stream_in_step_and_a_full_one_is_stalled() {
    let (mut a, mut b) = pair();
    a.send(&7, &[b"abc"], SOON).unwrap();
    a.send(&header("next"), &[b"abc"], SOON).unwrap();
    assert!(matches!(b.recv::<Header>(SOON, SOON), Err(IpcError::Json { .. })));
    assert_eq!(b.recv::<Header>(SOON, SOON).unwrap().unwrap(), (header("next"), b"abc".to_vec()));
    let much = vec![0; 16 << 20];
    let sent = a.send(&header("x"), &[&much], Duration::from_millis(50));
    assert!(matches!(sent, Err(IpcError::Stalled { waited_ms: 49.. })), "{sent:?}");
}
