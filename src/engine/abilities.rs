//! What a backend can answer, and how much of it. The scheduler asks before it submits: what a backend cannot answer has
//! its error at once, and costs nobody a process.

use vlm::form::Form;
use vlm::turn::{self, Turn};
use vlm::{Ask, Ground, Job, Sampling, Shown};

/// Questions of one job: a recipe has a handful.
pub(super) const ASKS_MAX: usize = 64;
/// Turns of a conversation.
pub(super) const TURNS_MAX: usize = 256;
/// All texts of a conversation: some thirty thousand tokens, which are made of it between two passes.
pub(super) const TURNS_BYTES_MAX: usize = 128 << 10;
/// All texts of a job, its forms included, as they stand in a message.
pub(super) const TEXT_BYTES_MAX: usize = 896 << 10;
/// A schema or a grammar, which is compiled before the first token.
pub(super) const FORM_BYTES_MAX: usize = 32 << 10;
/// Stop words of a question, and the bytes of each.
pub(super) const STOP_WORDS_MAX: usize = 8;
pub(super) const STOP_WORD_BYTES_MAX: usize = 64;
/// Tokens of one answer.
pub(super) const TOKENS_MAX: usize = 8192;
/// How far an answer may be from the most likely one.
const TEMPERATURE_MAX: f64 = 10.0;
const REPEAT_PENALTY_MAX: f32 = 10.0;

/// What a backend can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Which forms it can hold an answer to.
    pub forms: Forms,
    /// What its probabilities stand on.
    pub ground: Ground,
    /// Pictures of one job; 0: it takes none.
    pub images_max: usize,
    /// Bytes of these pictures, three a pixel.
    pub pixel_bytes_max: usize,
    /// It can be shown clips.
    pub clips: bool,
    /// Several turns.
    pub conversations: bool,
    /// It can add a job's adapter to its model.
    pub adapters: bool,
    /// It says what an answer holds while it is made.
    pub streams: bool,
    /// A conversation that begins as another one did is answered sooner.
    pub prefix_cache: bool,
}

/// The forms that a backend can hold an answer to. Free text needs no ability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forms {
    pub(crate) defects: bool,
    pub(crate) lines: bool,
    pub(crate) schema: bool,
    pub(crate) lark: bool,
    /// Features of a picture's cells.
    pub(crate) cells: bool,
}

impl Abilities {
    /// Whether this job can be answered.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(&self, job: &Job) -> Result<(), String> {
        at_most(job.asks.len(), ASKS_MAX, "questions of a job")?;
        self.check_shown(&job.shown)?;
        if job.adapter.is_some() && !self.adapters {
            return Err("it adds no adapter to its model".into());
        }
        let is_one = matches!(&job.shown, Shown::Images(images) if images.len() == 1);
        if !is_one && job.asks.iter().any(|ask| ask.features().is_some()) {
            return Err("features are those of one picture".into());
        }
        let texts = job.asks.iter().map(|ask| written(&ask.text) + form_bytes(&ask.form)).sum::<usize>();
        at_most(texts + turn_bytes(&job.shown, written), TEXT_BYTES_MAX, "bytes of text")?;
        job.asks.iter().try_for_each(|ask| self.check_ask(ask))
    }

    fn check_shown(&self, shown: &Shown) -> Result<(), String> {
        let images = shown.images();
        at_most(images.len(), self.images_max, "pictures of a job")?;
        let bytes = images.iter().map(|image| image.as_raw().len()).sum();
        at_most(bytes, self.pixel_bytes_max, "bytes of pictures")?;
        match shown {
            Shown::Images(_) => Ok(()),
            Shown::Clip(_) if self.clips => Ok(()),
            Shown::Clip(_) => Err("it takes no clips".into()),
            Shown::Turns(_) if !self.conversations => Err("it takes one turn only".into()),
            Shown::Turns(turns) => {
                at_most(turns.len(), TURNS_MAX, "turns of a conversation")?;
                at_most(turn_bytes(shown, str::len), TURNS_BYTES_MAX, "bytes of a conversation")?;
                turn::check(turns)
            }
        }
    }

    fn check_ask(&self, ask: &Ask) -> Result<(), String> {
        let Forms { defects, lines, schema, lark, cells } = self.forms;
        let (is_able, what) = match ask.form {
            Form::Defects { .. } => (defects, "a list of defects"),
            Form::Lines => (lines, "a list of lines"),
            Form::Schema(_) => (schema, "the form of a JSON schema"),
            Form::Lark(_) => (lark, "the form of a grammar"),
            Form::Free => (true, "free text"),
            Form::Cells(_) => (cells, "the features of a picture"),
        };
        if !is_able {
            return Err(format!("it cannot be held to {what}"));
        }
        if ask.streams && !self.streams {
            return Err("it says an answer as a whole only".into());
        }
        at_most(ask.max_tokens, TOKENS_MAX, "tokens of an answer")?;
        if matches!(ask.form, Form::Schema(_) | Form::Lark(_)) {
            at_most(form_bytes(&ask.form), FORM_BYTES_MAX, "bytes of a schema or a grammar")?;
        }
        at_most(ask.stop.len(), STOP_WORDS_MAX, "stop words")?;
        let longest = ask.stop.iter().map(|word| word.len()).max().unwrap_or(0);
        at_most(longest, STOP_WORD_BYTES_MAX, "bytes of a stop word")?;
        check_sampling(&ask.sampling)
    }
}

fn check_sampling(sampling: &Sampling) -> Result<(), String> {
    let Sampling { temperature, top_p, top_k, repeat_penalty, .. } = *sampling;
    if !(0.0..=TEMPERATURE_MAX).contains(&temperature) {
        return Err(format!("a temperature of {temperature}: 0 to {TEMPERATURE_MAX} expected"));
    }
    if let Some(top_p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
        return Err(format!("a top_p of {top_p}: over 0 to 1 expected"));
    }
    if top_k == Some(0) {
        return Err("a top_k of 0: 1 or more expected".into());
    }
    if !(repeat_penalty > 0.0 && repeat_penalty <= REPEAT_PENALTY_MAX) {
        return Err(format!("a repeat penalty of {repeat_penalty}: over 0 to {REPEAT_PENALTY_MAX} expected"));
    }
    Ok(())
}

fn at_most(count: usize, max: usize, what: &str) -> Result<(), String> {
    if count > max { Err(format!("{count} {what}, at most {max} are taken")) } else { Ok(()) }
}

/// Bytes of a text as JSON writes it.
fn written(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

fn form_bytes(form: &Form) -> usize {
    match form {
        Form::Defects { labels } => labels.iter().map(|label| written(label)).sum(),
        Form::Schema(text) | Form::Lark(text) => written(text),
        Form::Lines | Form::Free | Form::Cells(_) => 0,
    }
}

fn turn_bytes(shown: &Shown, bytes: impl Fn(&str) -> usize) -> usize {
    let Shown::Turns(turns) = shown else { return 0 };
    turns.iter().flat_map(Turn::texts).map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vlm::AdapterFile;
    use vlm::turn::{Content, Role};

    /// As the child's.
    const ALL: Abilities = Abilities {
        forms: Forms { defects: true, lines: true, schema: true, lark: true, cells: true },
        ground: Ground::Constrained,
        images_max: 2,
        pixel_bytes_max: 30,
        clips: true,
        conversations: true,
        adapters: true,
        streams: true,
        prefix_cache: true,
    };

    fn job(shown: Shown, ask: Ask) -> Job {
        Job { shown, min_pixels: 1, max_pixels: 1, asks: vec![ask], adapter: None }
    }

    fn free() -> Ask {
        Ask::new("?", Form::Free, 9)
    }

    fn image(width: u32) -> Arc<image::RgbImage> {
        Arc::new(image::RgbImage::new(width, 1))
    }

    #[test]
    fn what_a_backend_cannot_do_is_said_in_words() {
        let none = Forms { defects: false, lines: false, schema: false, lark: false, cells: false };
        let poor = Abilities {
            forms: none,
            conversations: false,
            clips: false,
            adapters: false,
            streams: false,
            ..ALL
        };
        let labels = Arc::from(["pit".to_owned()]);
        let asked = |form| job(Shown::Images(vec![]), Ask::new("?", form, 9));
        let turns = vec![Turn::text(Role::User, "?")];
        let adapter = AdapterFile { name: "a".into(), sha256: "b".into(), bytes: Arc::from([]) };
        for (job, word) in [
            (asked(Form::Defects { labels }), "a list of defects"),
            (asked(Form::Lines), "a list of lines"),
            (asked(Form::Schema("{}".into())), "a JSON schema"),
            (asked(Form::Lark("start: \"a\"".into())), "a grammar"),
            (job(Shown::Turns(turns), free()), "one turn"),
            (job(Shown::Clip(vec![]), free()), "no clips"),
            (job(Shown::Images(vec![]), Ask { streams: true, ..free() }), "as a whole"),
            (Job { adapter: Some(adapter), ..job(Shown::Images(vec![]), free()) }, "no adapter"),
        ] {
            assert_eq!(ALL.check(&job), Ok(()));
            let refused = poor.check(&job).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
        assert_eq!(poor.check(&asked(Form::Free)), Ok(()));
    }

    #[test]
    fn more_than_the_limits_is_refused() {
        let text = |bytes: usize| "x".repeat(bytes);
        let plain = |ask| job(Shown::Images(vec![]), ask);
        let stop = |words: usize, bytes| vec![Arc::<str>::from(text(bytes)); words];
        let sampling = |change: &dyn Fn(&mut Sampling)| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            plain(Ask { sampling, ..free() })
        };
        let said = |count: usize, words: &str| {
            let content = vec![Content::Text(words.into()), Content::Image(image(1))];
            Shown::Turns(vec![Turn { role: Role::User, content }; count])
        };
        let asks = |count| Job { asks: vec![free(); count], ..plain(free()) };
        for (most, more) in [
            (asks(ASKS_MAX), asks(ASKS_MAX + 1)),
            (job(Shown::Images(vec![image(5); 2]), free()), job(Shown::Images(vec![image(1); 3]), free())),
            (job(Shown::Images(vec![image(10)]), free()), job(Shown::Images(vec![image(11)]), free())),
            (job(said(2, ""), free()), job(said(3, ""), free())),
            (job(said(1, &text(TURNS_BYTES_MAX)), free()), job(said(1, &text(TURNS_BYTES_MAX + 1)), free())),
            (
                job(Shown::Turns(vec![Turn::text(Role::User, ""); TURNS_MAX]), free()),
                job(Shown::Turns(vec![Turn::text(Role::User, ""); TURNS_MAX + 1]), free()),
            ),
            (
                plain(Ask::new("", Form::Schema(text(FORM_BYTES_MAX).into()), 1)),
                plain(Ask::new("", Form::Schema(text(FORM_BYTES_MAX + 1).into()), 1)),
            ),
            (
                plain(Ask::new(&"\"".repeat(TEXT_BYTES_MAX / 2), Form::Free, 1)),
                plain(Ask::new(&"\n".repeat(TEXT_BYTES_MAX / 2), Form::Free, 1)),
            ),
            (
                plain(Ask { max_tokens: TOKENS_MAX, ..free() }),
                plain(Ask { max_tokens: TOKENS_MAX + 1, ..free() }),
            ),
            (
                plain(Ask { stop: stop(STOP_WORDS_MAX, STOP_WORD_BYTES_MAX), ..free() }),
                plain(Ask { stop: stop(STOP_WORDS_MAX + 1, 1), ..free() }),
            ),
            (
                plain(Ask { stop: stop(1, STOP_WORD_BYTES_MAX), ..free() }),
                plain(Ask { stop: stop(1, STOP_WORD_BYTES_MAX + 1), ..free() }),
            ),
            (sampling(&|s| s.temperature = 10.0), sampling(&|s| s.temperature = 10.1)),
            (sampling(&|s| s.temperature = 0.0), sampling(&|s| s.temperature = f64::NAN)),
            (sampling(&|s| s.top_p = Some(1.0)), sampling(&|s| s.top_p = Some(0.0))),
            (sampling(&|s| s.top_k = Some(1)), sampling(&|s| s.top_k = Some(0))),
            (sampling(&|s| s.repeat_penalty = 1.1), sampling(&|s| s.repeat_penalty = -1.0)),
        ] {
            assert_eq!(ALL.check(&most), Ok(()));
            assert!(ALL.check(&more).is_err(), "{:?}", more.asks.first());
        }
    }

    #[test]
    fn a_conversation_is_what_the_model_s_template_can_say() {
        use Role::{Assistant, System, User};
        let turn = |role| Turn::text(role, "x");
        let shows = |role| Turn { role, content: vec![Content::Image(image(1))] };
        let check = |turns: Vec<Turn>| ALL.check(&job(Shown::Turns(turns), free()));
        assert_eq!(check(vec![turn(System), shows(User), turn(Assistant), turn(User)]), Ok(()));
        for bad in [
            vec![],
            vec![turn(System)],
            vec![turn(User), turn(Assistant)],
            vec![turn(User), turn(System), turn(User)],
            vec![shows(System), turn(User)],
            vec![turn(User), shows(Assistant), turn(User)],
        ] {
            assert!(check(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
