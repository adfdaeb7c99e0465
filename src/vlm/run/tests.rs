//! Tests of jobs under way: conversations are read in chunks, kept, streamed and stopped, and the line goes before them.

use super::*;
use crate::engine::EngineOptions;
use crate::turn::{Content, Role, Turn};
use crate::{Ask, ClipFrame, Finish, Form, Qwen3Vl, Steps};
use candle_core::Device;
use std::path::Path;
use std::time::Duration;

/// Ranks of a part and of a guest.
const LINE: Rank = Rank { class: 0, due: 0 };
const GUEST: Rank = Rank { class: 2, due: 0 };
const MAX_PIXELS: u32 = 32 * 32 * 6;

/// The tiny model of the reference vectors; `rows` of keys and values.
pub(super) fn model(rows: usize) -> Qwen3Vl {
    let file = |name: &str| Path::new("../../fixtures/reference/tiny").join(name);
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let (text, vision) = (file("tiny-q8_0.gguf"), file("mmproj-tiny-q8_0.gguf"));
    let mut model = Qwen3Vl::load(&text, &vision, options, &Device::Cpu).expect("the pair is sound");
    model.keep_rows(rows);
    model
}

fn picture(shade: u8) -> Content {
    Content::Image(Arc::new(RgbImage::from_fn(96, 64, |x, y| ::image::Rgb([shade, (x * 2) as u8, y as u8]))))
}

fn words(n: usize) -> String {
    (0..n).map(|i| format!("{i} ")).collect()
}

pub(super) fn user(content: impl IntoIterator<Item = Content>) -> Turn {
    Turn { role: Role::User, content: content.into_iter().collect() }
}

pub(super) fn said(text: &str) -> Content {
    Content::Text(text.into())
}

pub(super) fn job(shown: Shown, ask: Ask) -> Job {
    Job { shown, min_pixels: 1024, max_pixels: MAX_PIXELS, asks: vec![ask], adapter: None }
}

fn asked(turns: &[Turn]) -> Job {
    job(Shown::Turns(turns.to_vec()), Ask::new("", Form::Free, 12))
}

/// A system's turn, a long text, two pictures, an answer and a further question.
fn conversation() -> Vec<Turn> {
    vec![
        Turn::text(Role::System, "Be brief."),
        user([said(&words(150)), picture(1), said("and"), picture(2), said("Which?")]),
        Turn::text(Role::Assistant, "The first."),
        Turn::text(Role::User, "Why?"),
    ]
}

/// All that came of one job: its answers, what it said before, and after how many steps.
struct Came {
    answers: Vec<Result<Completion, VlmError>>,
    deltas: Vec<Delta>,
    steps: usize,
}

impl Came {
    fn answer(&self) -> &Completion {
        self.answers[0].as_ref().expect("it is answered")
    }
}

fn run(model: &mut Qwen3Vl, rank: Rank, job: Job) -> Came {
    model.submit(9, rank, job);
    let (mut out, mut deltas, mut steps) = (vec![], vec![], 0);
    while out.is_empty() {
        assert!(model.step(&mut out) || !out.is_empty(), "it is answered");
        model.deltas(&mut deltas);
        steps += 1;
    }
    Came { answers: out.remove(0).answers, deltas, steps }
}

/// Tokens, and the bits of their probabilities.
fn bits(answer: &Completion) -> Vec<(u32, u32)> {
    answer.tokens.iter().map(|token| (token.id, token.prob.to_bits())).collect()
}

#[test]
fn one_turn_of_the_user_is_given_to_the_model_as_a_question_is() {
    let mut model = model(4000);
    let Content::Image(image) = picture(1) else { unreachable!("it is a picture") };
    let question = job(Shown::Images(vec![image.clone()]), Ask::new("What is it?", Form::Free, 12));
    let turn = [user([Content::Image(image), said("What "), said("is")])];
    let turn = job(Shown::Turns(turn.to_vec()), Ask::new(" it?", Form::Free, 12));
    let [question, turn] = [question, turn].map(|job| run(&mut model, LINE, job));
    assert_eq!(question.answer().prompt_ids, turn.answer().prompt_ids);
    assert_eq!(question.answer().text, turn.answer().text);
}

#[test]
fn what_is_kept_of_a_conversation_changes_no_bit_of_an_answer_and_saves_its_passes() {
    let whole = conversation();
    let (mut fresh, mut kept) = (model(8000), model(8000));
    let begun = run(&mut kept, GUEST, asked(&whole[..2]));
    let again = run(&mut kept, GUEST, asked(&whole[..2]));
    assert_eq!(bits(begun.answer()), bits(again.answer()));
    let alone = run(&mut fresh, GUEST, asked(&whole[..2]));
    assert_eq!(bits(alone.answer()), bits(begun.answer()));
    // The system's turn, two chunks of words, and twice a picture after tokens.
    let chunks = kept.parts().0.prefixes.len();
    assert!(chunks >= 6, "{chunks} chunks");
    assert_eq!(begun.steps - again.steps, chunks, "no chunk is read twice");

    let further = run(&mut kept, GUEST, asked(&whole));
    let alone = run(&mut model(8000), GUEST, asked(&whole));
    assert_eq!(bits(further.answer()), bits(alone.answer()));
    assert_eq!(further.answer().prompt_ids, alone.answer().prompt_ids);
    assert!(further.steps < alone.steps);

    let mut other = whole.clone();
    other[1] = user([said(&words(150)), picture(3), said("and"), picture(2), said("Which?")]);
    let other_answer = run(&mut kept, GUEST, asked(&other));
    let alone = run(&mut model(8000), GUEST, asked(&other));
    assert_eq!(bits(other_answer.answer()), bits(alone.answer()), "another picture is another beginning");
}

#[test]
fn several_questions_of_a_conversation_are_answered_as_alone() {
    let mut model = model(8000);
    let mut both = asked(&conversation());
    both.asks = vec![Ask::new("", Form::Free, 12), Ask::new(" Say more.", Form::Lines, 12)];
    let together = run(&mut model, GUEST, both.clone());
    for (ask, answer) in both.asks.iter().zip(&together.answers) {
        let alone = run(&mut model, GUEST, job(both.shown.clone(), ask.clone()));
        assert_eq!(alone.answer().text, answer.as_ref().expect("it is answered").text);
    }
}

#[test]
fn the_line_takes_the_room_of_what_is_kept() {
    let mut model = model(2000);
    let free = |model: &mut Qwen3Vl| model.parts().0.arena.free_rows();
    let before = free(&mut model);
    run(&mut model, GUEST, asked(&conversation()[..2]));
    let kept = before - free(&mut model);
    assert!(kept > 200, "{kept} rows are kept");
    let Content::Image(image) = picture(1) else { unreachable!("it is a picture") };
    let tokens = free(&mut model) + kept / 2;
    let part = job(Shown::Images(vec![image]), Ask::new("?", Form::Lines, tokens - 40));
    assert!(run(&mut model, LINE, part).answers[0].is_ok());
    assert!(before - free(&mut model) < kept, "some of it has gone");
    let too_long = vec![user([said(&words(400))])];
    let refused = run(&mut model, GUEST, asked(&too_long));
    assert!(
        matches!(refused.answers[0], Err(VlmError::TooLong { available: 1000, .. })),
        "half is the line's"
    );
}

#[test]
fn a_part_does_not_wait_for_a_conversation() {
    let mut model = model(8000);
    model.submit(1, GUEST, asked(&conversation()));
    let mut out = vec![];
    while model.parts().1.reading.is_empty() {
        assert!(model.step(&mut out) && out.is_empty());
    }
    let unread = |model: &mut Qwen3Vl| model.parts().1.reading[0].unread.len();
    let before = unread(&mut model);
    assert!(before > 2, "{before} chunks are unread");
    let Content::Image(image) = picture(1) else { unreachable!("it is a picture") };
    model.submit(2, LINE, job(Shown::Images(vec![image]), Ask::new("?", Form::Free, 3)));
    while out.is_empty() {
        model.step(&mut out);
        assert_eq!(unread(&mut model), before, "nothing is read while a part is answered");
    }
    assert_eq!(out.remove(0).id, 2);
    while out.is_empty() {
        model.step(&mut out);
    }
    assert!(out.remove(0).answers[0].is_ok(), "then it goes on");
}

/// What was done for guests so far: pictures cut and seen, chunks read, rows written.
fn done_for_guests(model: &mut Qwen3Vl) -> (usize, usize, usize, usize) {
    let q = model.parts().1;
    let is_guest = |job: &u64| q.open[job].rank.class == GUEST.class;
    let unseen: usize = q.unseen.iter().filter(|job| is_guest(&job.id)).map(|job| job.seen.len()).sum();
    let unread: usize = q.reading.iter().filter(|s| is_guest(&s.job)).map(|s| s.unread.len()).sum();
    let filled: usize = q.live.iter().filter(|s| is_guest(&s.job)).map(|s| s.filled).sum();
    (q.fresh.iter().filter(|job| is_guest(job)).count(), unseen, unread, filled)
}

#[test]
fn nothing_is_done_for_guests_while_parts_are_answered() {
    let Content::Image(image) = picture(1) else { unreachable!("it is a picture") };
    // A guest that has just come, and one whose pictures are cut, seen, whose words are read, who is answered.
    for steps in 0..20 {
        let mut model = model(8000);
        let mut out = vec![];
        model.submit(1, GUEST, asked(&conversation()));
        (0..steps).for_each(|_| _ = model.step(&mut out));
        assert!(out.is_empty(), "{steps} steps");
        model.submit(2, GUEST, asked(&conversation()[..2]));
        let before = done_for_guests(&mut model);
        for id in 3..6 {
            let shown = Shown::Images(vec![Arc::clone(&image)]);
            model.submit(id, LINE, job(shown, Ask::new("?", Form::Free, id as usize)));
        }
        while out.len() < 3 {
            model.step(&mut out);
            assert_eq!(done_for_guests(&mut model), before, "after {steps} steps");
        }
        assert!(out.drain(..).all(|answered| answered.id > 2 && answered.answers[0].is_ok()));
        while out.len() < 2 {
            assert!(model.step(&mut out) || out.len() == 2);
        }
        assert!(out.iter().all(|answered| answered.answers[0].is_ok()), "then they go on");
    }
}

#[test]
fn schemas_are_compiled_beside_the_passes_however_many_a_job_has_and_though_they_leave_no_choice() {
    let mut model = model(8000);
    for count in [1, 3, 20] {
        let ask = |n: usize| Ask::new("", Form::Schema(format!("{{\"const\":{n}}}").into()), 12);
        let asks = (0..count).map(|n| ask(100 * count + n)).collect();
        let came = run(&mut model, GUEST, Job { asks, ..job(Shown::Images(vec![]), ask(0)) });
        let said = came.answers.iter().map(|answer| answer.as_ref().expect("it is answered").text.clone());
        let expected: Vec<String> = (0..count).map(|n| (100 * count + n).to_string()).collect();
        assert_eq!(said.collect::<Vec<_>>(), expected);
    }
    // While one is compiled parts are answered.
    let slow: Arc<str> = r#"{"type":"integer","multipleOf":9973}"#.into();
    model.submit(1, GUEST, job(Shown::Images(vec![]), Ask::new("", Form::Schema(slow), 12)));
    model.submit(2, LINE, job(Shown::Images(vec![]), Ask::new("", Form::Free, 1)));
    let mut out = vec![];
    while out.len() < 2 {
        assert!(model.step(&mut out) || out.len() == 2);
    }
    assert_eq!(out.iter().map(|answered| answered.id).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_part_without_room_waits_for_guests_to_end() {
    let mut model = model(400);
    let mut out = vec![];
    for (id, tokens) in [(1, 40), (2, 60)] {
        let ask = Ask::new("", Form::Free, tokens);
        model.submit(id, GUEST, job(Shown::Images(vec![]), ask));
    }
    while model.parts().1.live.len() < 2 {
        assert!(model.step(&mut out) && out.is_empty());
    }
    let left = model.parts().0.arena.free_rows();
    let Content::Image(image) = picture(1) else { unreachable!("it is a picture") };
    model.submit(3, LINE, job(Shown::Images(vec![image]), Ask::new("?", Form::Lines, left)));
    let mut order = vec![];
    while order.len() < 3 {
        assert!(model.step(&mut out) || !out.is_empty(), "{order:?}");
        order.extend(out.drain(..).map(|answered| (answered.id, answered.answers[0].is_ok())));
    }
    assert!(order.contains(&(3, true)) && order[0].0 != 3, "{order:?}");
}

#[test]
fn a_conversation_that_is_stopped_leaves_no_rows_behind() {
    let mut model = model(8000);
    let free = |model: &mut Qwen3Vl| {
        let (engine, _) = model.parts();
        while engine.prefixes.evict(&mut engine.arena) {}
        engine.arena.free_rows()
    };
    let before = free(&mut model);
    // Before and after its pictures are encoded, its chunks read, its first words said.
    for steps in [1, 3, 6, 9, 13] {
        model.submit(1, GUEST, asked(&conversation()));
        let mut out = vec![];
        (0..steps).for_each(|_| _ = model.step(&mut out));
        assert!(out.is_empty(), "{steps} steps");
        let stopped = model.cancel(1).expect("it was under way");
        assert!(matches!(stopped.answers[..], [Err(VlmError::Stopped)]));
        assert!(!model.step(&mut out), "nothing is left");
        assert_eq!(free(&mut model), before, "after {steps} steps");
    }
}

#[test]
fn a_streamed_answer_says_all_of_itself_before_it_comes_and_ends_before_a_stop_word() {
    let mut model = model(4000);
    let turns = [user([said("What is a burr?")])];
    let whole = run(&mut model, GUEST, asked(&turns));
    assert!(whole.deltas.is_empty(), "nobody wants to hear it");
    let text = &whole.answer().text;
    let ask = |stop: &[&str]| Ask {
        stop: stop.iter().map(|word| Arc::from(*word)).collect(),
        streams: true,
        ..Ask::new("", Form::Free, 12)
    };
    let streamed = |came: &Came| came.deltas.iter().map(|delta| delta.text.as_str()).collect::<String>();
    let heard = run(&mut model, GUEST, job(Shown::Turns(turns.to_vec()), ask(&[])));
    assert_eq!((&heard.answer().text, &streamed(&heard)), (text, text));
    assert!(heard.deltas.len() > 3, "piece by piece: {:?}", heard.deltas);
    // A word that begins in one token and ends in the next.
    let border = whole.answer().tokens[5].start;
    let from = (0..border).rev().find(|at| text.is_char_boundary(*at)).expect("a character before it");
    let to = (border + 1..=text.len()).find(|at| text.is_char_boundary(*at)).expect("a character after it");
    let word = &text[from..to];
    let stopped = run(&mut model, GUEST, job(Shown::Turns(turns.to_vec()), ask(&["never said", word])));
    let end = text.find(word).expect("it is said");
    assert_eq!((stopped.answer().text.as_str(), stopped.answer().finish), (&text[..end], Finish::Stop));
    assert_eq!(streamed(&stopped), text[..end]);
}

#[test]
fn features_are_the_same_whether_or_not_something_else_is_asked() {
    let mut model = model(4000);
    let Content::Image(image) = picture(1) else { unreachable!("it is a picture") };
    let shown = || Shown::Images(vec![image.clone()]);
    for features in [Features::Backbone, Features::Tower] {
        let alone = run(&mut model, LINE, job(shown(), Ask::cells(features)));
        let cells = alone.answer().cells.clone().expect("features came");
        // 96 x 64 pixels.
        assert_eq!((cells.rows, cells.cols, cells.values.len()), (4, 6, 24 * cells.dim));
        assert!(cells.values.iter().all(|v| v.is_finite()));
        let asks =
            vec![Ask::new("What?", Form::Free, 6), Ask::cells(features), Ask::new("Why?", Form::Free, 6)];
        let mixed = run(&mut model, LINE, Job { asks, ..job(shown(), Ask::cells(features)) });
        assert_eq!(mixed.answers[1].as_ref().expect("it is answered").cells, Some(cells));
        let question = run(&mut model, LINE, job(shown(), Ask::new("Why?", Form::Free, 6)));
        assert_eq!(mixed.answers[2].as_ref().expect("it is answered").text, question.answer().text);
    }
}

#[test]
fn pixels_come_back_from_their_patches() {
    let Content::Image(image) = picture(200) else { unreachable!("it is a picture") };
    let patches = crate::image::preprocess(&image, 16, 2, 1024, MAX_PIXELS).expect("it is cut");
    let pixels = patches.pixels(16, 2);
    let gap = pixels.iter().zip(image.as_raw()).map(|(a, b)| (a - f32::from(*b)).abs()).fold(0.0, f32::max);
    assert!(pixels.len() == image.as_raw().len() && gap < 1e-3, "off by {gap}");
}

#[test]
fn what_finds_no_room_is_refused_before_the_tower_sees_it() {
    let Content::Image(image) = picture(1) else { unreachable!("it is a picture") };
    let frame = |ms| ClipFrame { image: Arc::clone(&image), at: Duration::from_millis(ms) };
    let shown = [
        Shown::Images(vec![Arc::clone(&image); 2]),
        Shown::Images(vec![]),
        Shown::Clip([0, 250, 500].map(frame).to_vec()),
        Shown::Turns(conversation()),
    ];
    for shown in shown {
        let mut model = model(2000);
        let mut asked = |tokens: usize| {
            model.submit(9, LINE, job(shown.clone(), Ask::new("What is it?", Form::Free, tokens)));
            let mut out = vec![];
            while out.is_empty() {
                assert!(model.step(&mut out) || !out.is_empty(), "it is answered");
            }
            out.remove(0)
        };
        let many = asked(5000);
        let Err(VlmError::TooLong { needed, available }) = many.answers[0] else { panic!("{many:?}") };
        let most = 5000 - (needed - available);
        let over = asked(most + 1);
        assert!(matches!(over.answers[0], Err(VlmError::TooLong { needed, .. }) if needed == available + 1));
        assert_eq!((many.timing.vision_ms, over.timing.vision_ms), (0.0, 0.0), "{shown:?}");
        // What fits to the last row comes in; nobody waits for its last token.
        model.submit(9, LINE, job(shown.clone(), Ask::new("What is it?", Form::Free, most)));
        let mut out = vec![];
        while model.parts().1.live.is_empty() {
            assert!(model.step(&mut out) && out.is_empty(), "{shown:?}: {out:?}");
        }
        assert!(model.cancel(9).is_some());
    }
}
