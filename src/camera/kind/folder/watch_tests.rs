//! Tests of the watcher, named by transition.

use super::*;
use crate::camera::kind::folder::Untracked;
use std::fs;
use std::sync::{Arc, Mutex};

fn watcher(dir: &Path) -> Watcher {
    Watcher::new(dir, Box::new(Untracked))
}

fn encoded(red: u8, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(vec![]);
    let picture = RgbImage::from_fn(24, 16, |x, y| image::Rgb([red, x as u8, y as u8]));
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(red: u8) -> Vec<u8> {
    encoded(red, image::ImageFormat::Png)
}

/// One scan and all that it brought: the red of a picture or the message of an error.
fn scan(w: &mut Watcher) -> Vec<Result<u8, String>> {
    w.scan().unwrap();
    std::iter::from_fn(|| w.pending())
        .map(|p| p.map(|p| p.pixels.get_pixel(0, 0)[0]).map_err(|e| e.to_string()))
        .collect()
}

#[test]
fn new_to_queued_to_settled_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = watcher(dir.path());
    for red in [30, 10, 20] {
        fs::write(dir.path().join(format!("{red}.png")), png(red)).unwrap();
    }
    assert_eq!(scan(&mut w), []);
    assert_eq!(scan(&mut w), [Ok(10), Ok(20), Ok(30)]);
    assert_eq!(scan(&mut w), []);
    assert_eq!(scan(&mut w), []);
}

#[test]
fn a_half_written_file_is_never_delivered() {
    use image::ImageFormat::{Bmp, Jpeg, Png, Tiff};
    for format in [Png, Jpeg, Bmp, Tiff] {
        let dir = tempfile::tempdir().unwrap();
        let mut w = watcher(dir.path());
        let (path, whole) = (dir.path().join("slow"), encoded(200, format));
        for part in 1..8 {
            fs::write(&path, &whole[..whole.len() * part / 8]).unwrap();
            // The writer pauses for longer than a file has to stand still.
            for _ in 0..4 {
                assert_eq!(scan(&mut w), [], "{format:?} at {part} eighths");
            }
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(scan(&mut w), [], "{format:?}: changed since the last scan");
        assert_eq!(scan(&mut w).len(), 1, "{format:?}");
    }
}

#[test]
fn a_file_that_is_written_between_scan_and_reading_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let mut w = watcher(dir.path());
    fs::write(&path, png(1)).unwrap();
    w.scan().unwrap();
    w.scan().unwrap();
    let mut longer = png(2);
    longer.push(0);
    fs::write(&path, longer).unwrap();
    assert!(w.pending().is_none());
    assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(2)]));
}

#[test]
fn doubtful_to_reported_once_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = watcher(dir.path());
    fs::write(dir.path().join("bad.png"), b"not a picture").unwrap();
    fs::write(dir.path().join("good.png"), png(5)).unwrap();
    let all: Vec<_> = (0..3 * BAD_AFTER_SCANS).flat_map(|_| scan(&mut w)).collect();
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(all[0], Ok(5));
    assert!(all[1].as_ref().unwrap_err().contains("bad.png"), "{all:?}");
}

#[test]
fn a_reported_file_that_is_finished_after_all_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let (path, whole) = (dir.path().join("late.png"), png(7));
    let mut w = watcher(dir.path());
    fs::write(&path, &whole[..20]).unwrap();
    let first: Vec<_> = (0..2 * BAD_AFTER_SCANS).flat_map(|_| scan(&mut w)).collect();
    assert_eq!(first.len(), 1);
    fs::write(&path, &whole).unwrap();
    assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(7)]));
}

#[test]
fn touching_is_no_new_picture_and_overwriting_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let mut w = watcher(dir.path());
    let write = |bytes: Vec<u8>, second: u64| {
        fs::write(&path, bytes).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    write(png(1), 0);
    assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(1)]));
    write(png(1), 1);
    assert_eq!((scan(&mut w), scan(&mut w), scan(&mut w)), (vec![], vec![], vec![]));
    write(png(2), 2);
    assert_eq!((scan(&mut w), scan(&mut w), scan(&mut w)), (vec![], vec![Ok(2)], vec![]));
}

#[test]
fn files_that_leave_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let mut w = watcher(dir.path());
    fs::write(&path, png(1)).unwrap();
    assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(1)]));
    fs::remove_file(&path).unwrap();
    assert_eq!(scan(&mut w), []);
    assert!(w.files.is_empty());
}

#[test]
fn hidden_files_and_directories_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = watcher(dir.path());
    fs::write(dir.path().join(".part.png"), png(1)).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let all: Vec<_> = (0..2 * BAD_AFTER_SCANS).flat_map(|_| scan(&mut w)).collect();
    assert_eq!(all, []);
}

#[test]
fn a_missing_directory_is_reported_once_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let late = dir.path().join("late");
    let mut w = watcher(&late);
    assert!(w.scan().is_err());
    assert!(w.scan().is_ok());
    fs::create_dir(&late).unwrap();
    assert!(w.scan().is_ok());
    fs::remove_dir(&late).unwrap();
    assert!(w.scan().is_err());
}

#[test]
fn a_replacement_of_the_same_size_and_time_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("a.bmp"), dir.path().join(".b"));
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let write = |path: &Path, red| {
        fs::write(path, encoded(red, image::ImageFormat::Bmp)).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let mut w = watcher(dir.path());
    write(&path, 1);
    assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(1)]));
    write(&other, 2);
    fs::rename(&other, &path).unwrap();
    assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(2)]));
}

/// As a writer that reserves the file's size first and then pauses: it decodes, with a black rest.
#[test]
fn a_file_that_somebody_has_open_for_writing_waits_however_still_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.bmp");
    let whole = encoded(9, image::ImageFormat::Bmp);
    let mut writer = fs::File::create(&path).unwrap();
    writer.set_len(whole.len() as u64).unwrap();
    std::io::Write::write_all(&mut writer, &whole[..whole.len() / 2]).unwrap();
    let mut w = watcher(dir.path());
    for _ in 0..3 * STILL_SCANS {
        assert_eq!(scan(&mut w), []);
    }
    std::io::Write::write_all(&mut writer, &whole[whole.len() / 2..]).unwrap();
    drop(writer);
    let came: Vec<_> = (0..3).flat_map(|_| scan(&mut w)).collect();
    assert_eq!(came, [Ok(9)]);
}

/// Remembers as the store does.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<HashMap<OsString, Stamp>>>);

impl Taken for Memory {
    fn was(&self, name: &OsStr, stamp: &Stamp) -> bool {
        self.0.lock().unwrap().get(name) == Some(stamp)
    }

    fn take(&mut self, name: &OsStr, stamp: &Stamp) -> Result<Option<u64>, String> {
        self.0.lock().unwrap().insert(name.to_owned(), *stamp);
        Ok(None)
    }

    fn gone(&mut self, name: &OsStr) {
        self.0.lock().unwrap().remove(name);
    }

    fn only(&mut self, there: &mut dyn Iterator<Item = &OsStr>) {
        let there: Vec<_> = there.collect();
        self.0.lock().unwrap().retain(|name, _| there.contains(&name.as_os_str()));
    }
}

#[test]
fn what_was_taken_before_a_restart_is_not_taken_again_unless_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let start = || Watcher::new(dir.path(), Box::new(memory.clone()));
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), png(name.as_bytes()[0])).unwrap();
    }
    let mut w = start();
    w.scan().unwrap();
    w.scan().unwrap();
    for _ in 0..2 {
        let picture = w.pending().unwrap().unwrap();
        let (name, stamp) = w.stamp_of(&picture.path).unwrap();
        w.taken().take(&name, &stamp).unwrap();
    }
    drop(w);
    fs::write(dir.path().join("b"), png(77)).unwrap();
    fs::remove_file(dir.path().join("a")).unwrap();
    let mut w = start();
    assert_eq!((scan(&mut w), scan(&mut w)), (vec![], vec![Ok(77), Ok(b'c')]));
    assert!(!memory.0.lock().unwrap().contains_key(OsStr::new("a")), "what left is forgotten");
}

#[test]
fn a_trigger_gets_what_came_after_it_and_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = watcher(dir.path());
    w.scan().unwrap();
    let write = |name: &str, red| fs::write(dir.path().join(name), png(red)).unwrap();
    write("z", 1);
    std::thread::sleep(Duration::from_millis(30));
    w.scan().unwrap();
    let trigger = Instant::now();
    std::thread::sleep(Duration::from_millis(30));
    write("y", 2);
    std::thread::sleep(Duration::from_millis(30));
    write("x", 3);
    w.scan().unwrap();
    w.scan().unwrap();
    let red = |p: Option<Picture>| p.map(|p| p.pixels.get_pixel(0, 0)[0]);
    let (discarded, first) = w.pending_after(trigger);
    assert_eq!((discarded, red(first)), (1, Some(2)), "in the order of arrival");
    assert_eq!(red(w.pending_after(trigger).1), Some(3));
    write("w", 3);
    w.scan().unwrap();
    w.scan().unwrap();
    assert_eq!(red(w.pending_after(trigger).1), None, "the same picture came before");
}

#[test]
fn a_broken_file_is_reported_for_the_trigger_that_it_came_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = watcher(dir.path());
    w.scan().unwrap();
    let trigger = Instant::now();
    std::thread::sleep(Duration::from_millis(30));
    fs::write(dir.path().join("bad.png"), &png(1)[..40]).unwrap();
    w.scan().unwrap();
    w.scan().unwrap();
    assert!(w.pending_after(trigger).1.is_none());
    assert!(w.broken_after(Instant::now()).is_none());
    assert!(w.broken_after(trigger).unwrap().to_string().contains("bad.png"));
    assert!(w.broken_after(trigger).is_none());
}
