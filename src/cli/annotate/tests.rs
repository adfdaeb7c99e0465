//! Annotated pictures: what must be true of them whatever they look like.

use super::*;
use crate::domain::grade::{Grade, Reason, Severity, Verdict};
use crate::domain::text::Mismatch;
use crate::evaluate::score::tests::{finding, inspection, line};
use image::Rgb;
use proptest::prelude::*;

const METAL: Rgb<u8> = Rgb([128, 130, 133]);

fn metal(width: u32, height: u32) -> RgbImage {
    RgbImage::from_pixel(width, height, METAL)
}

fn failed() -> Inspection {
    let mut i = inspection();
    i.verdict = Verdict::Fail(Reason::Finding { label: "scratch".into() });
    i.grade = Grade::Reject;
    i.findings = vec![finding("scratch", [900.0, 700.0, 1100.0, 760.0], 0.83)];
    i
}

/// Height of the strip above a picture that was not enlarged.
fn strip(out: &RgbImage, frame: &RgbImage) -> u32 {
    out.height() - frame.height()
}

#[test]
fn a_box_is_drawn_around_its_defect_and_not_over_it() {
    let frame = metal(2448, 2048);
    let out = annotate(&frame, &failed(), &[]);
    assert_eq!(out.width(), 2448);
    let top = strip(&out, &frame);
    let row = top + 730;
    let reds = (880..900).filter(|x| out.get_pixel(*x, row).0 == [232, 36, 60]).count();
    assert!(reds >= 2, "the left line of the box, {reds} px");
    for y in 700..760 {
        for x in 900..1100 {
            assert_eq!(*out.get_pixel(x, top + y), METAL, "the defect itself at {x} {y}");
        }
    }
}

#[test]
fn the_strip_has_the_verdict_s_colour() {
    let frame = metal(800, 600);
    for (verdict, ink) in [
        (Verdict::Pass, look::GREEN),
        (Verdict::Fail(Reason::QueueFull), look::RED),
        (Verdict::Review(Reason::QueueFull), look::AMBER),
    ] {
        let out = annotate(&frame, &Inspection { verdict, ..inspection() }, &[]);
        let last = strip(&out, &frame) - 1;
        assert_eq!(out.get_pixel(400, last).0, [ink.0, ink.1, ink.2]);
    }
}

#[test]
fn a_passed_part_is_left_untouched_below_the_strip() {
    let frame = metal(900, 700);
    let out = annotate(&frame, &inspection(), &[]);
    let top = strip(&out, &frame);
    assert!((0..700).all(|y| (0..900).all(|x| *out.get_pixel(x, top + y) == METAL)));
}

#[test]
fn small_frames_are_enlarged_by_a_whole_factor() {
    let out = annotate(&metal(256, 256), &inspection(), &[]);
    assert_eq!(out.width(), 768);
    assert!(out.height() > 768);
}

#[test]
fn wrong_characters_are_red() {
    let frame = metal(1200, 900);
    let mut i = inspection();
    let rois = [("plate".to_owned(), Rect::new(300, 300, 700, 400))];
    let red = |out: &RgbImage| {
        let top = strip(out, &frame);
        out.enumerate_pixels().filter(|(_, y, p)| *y >= top && p.0 == [232, 36, 60]).count()
    };
    i.texts = vec![line("plate", 1, Some("SN1234"))];
    assert_eq!(red(&annotate(&frame, &i, &rois)), 0);
    i.texts[0].mismatches = vec![Mismatch { at: 3, read: "2".into(), expected: "7".into() }];
    assert!(red(&annotate(&frame, &i, &rois)) > 40);
}

#[test]
fn odd_frames_and_findings_are_no_panic() {
    let mut i = failed();
    for bbox in [
        [f32::NAN, 0.0, 5.0, f32::INFINITY],
        [-1e9, -1e9, 1e9, 1e9],
        [5.0, 5.0, 5.0, 5.0],
        [9.0, 9.0, 1.0, 1.0],
    ] {
        i.findings.push(finding(
            "an\u{7}_odd label that is far too long for any small picture",
            bbox,
            f32::NAN,
        ));
    }
    i.texts = vec![line("nowhere", 1, Some(&"字".repeat(300))), line("plate", 1, None)];
    i.verdict = Verdict::Review(Reason::Engine { message: "long words ".repeat(400) });
    let rois = [("plate".to_owned(), Rect::new(90, 90, 20, 7000))];
    for (w, h) in [(0, 0), (0, 9), (1, 1), (3, 900), (900, 3), (256, 256), (121, 285)] {
        let out = annotate(&metal(w, h), &i, &rois);
        assert!(out.width() >= w && out.height() >= h);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_findings_on_any_frame(
        w in 16_u32..500, h in 16_u32..500,
        boxes in prop::collection::vec((0.0_f32..500.0, 0.0_f32..500.0, 1.0_f32..200.0, 1.0_f32..200.0), 0..12),
    ) {
        let mut i = inspection();
        i.findings = boxes
            .iter()
            .zip(Grade::ALL.iter().cycle())
            .map(|(b, grade)| Finding {
                grade: *grade,
                severity: Severity::Minor,
                ..finding("pit", [b.0, b.1, b.0 + b.2, b.1 + b.3], 0.5)
            })
            .collect();
        let out = annotate(&metal(w, h), &i, &[]);
        prop_assert_eq!(out.width() % w, 0);
    }
}
