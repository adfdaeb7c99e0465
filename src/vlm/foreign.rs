//! Grammars that others have written, compiled beside the passes.
//!
//! ```text
//! is_ready --form--> the thread `grammars`, of the lowest priority --matcher, or why there is none--> kept --start--> answer
//! ```
//!
//! A schema can take a second to compile, and whoever asks for others makes sure that it is no more: no pass waits for that.
//! Each answer has a lexer of its own, whose states go with it.

use super::form::Form;
use llguidance::{Matcher, ParserFactory};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Compiled grammars that are kept, the latest: more than guests have questions with the engine.
pub(super) const KEPT_MAX: usize = 8;
/// The lowest priority.
const NICE_MAX: libc::c_int = 19;
/// Forms on their way through the thread. What is asked beyond them waits.
const AWAY_MAX: usize = 4;

/// A form's matcher, or why it has none.
struct Compiled {
    form: Form,
    outcome: Result<Option<Matcher>, String>,
}

pub(super) struct Foreign {
    factory: Arc<ParserFactory>,
    /// One thread, from the first form on.
    pool: Option<ThreadPool>,
    done: (SyncSender<Compiled>, Receiver<Compiled>),
    away: Vec<Form>,
    /// The oldest first.
    kept: VecDeque<Compiled>,
}

impl Foreign {
    pub(super) fn new(factory: Arc<ParserFactory>) -> Self {
        Self { factory, pool: None, done: sync_channel(AWAY_MAX), away: vec![], kept: VecDeque::new() }
    }

    /// True when `start` need not compile it; the first question about a form has it compiled.
    pub(super) fn is_ready(&mut self, form: &Form) -> bool {
        self.collect();
        if self.find(form).is_some() {
            return true;
        }
        if self.away.contains(form) || self.away.len() >= AWAY_MAX {
            return false;
        }
        if self.pool.is_none() {
            self.pool = pool().ok();
        }
        // Without a thread it is compiled where it is needed.
        let Some(pool) = &self.pool else { return true };
        self.away.push(form.clone());
        let (form, factory, done) = (form.clone(), Arc::clone(&self.factory), self.done.0.clone());
        pool.spawn(move || {
            let matcher = AssertUnwindSafe(|| form.matcher(&factory));
            let outcome =
                catch_unwind(matcher).unwrap_or_else(|_| Err("its grammar cannot be compiled".into()));
            // There is room for all that are away, and whoever has gone hears nothing.
            let _ = done.try_send(Compiled { form, outcome });
        });
        false
    }

    /// Waits until a form is compiled, and no longer than `most`.
    pub(super) fn wait(&mut self, most: Duration) {
        if let Ok(compiled) = self.done.1.recv_timeout(most) {
            self.keep(compiled);
        }
    }

    /// A matcher at the start of an answer.
    ///
    /// # Errors
    /// Why the form has none.
    pub(super) fn start(&self, form: &Form) -> Result<Option<Matcher>, String> {
        match self.find(form) {
            Some(compiled) => compiled.outcome.clone().map(|matcher| matcher.map(|m| m.deep_clone())),
            None => form.matcher(&self.factory),
        }
    }

    fn find(&self, form: &Form) -> Option<&Compiled> {
        self.kept.iter().find(|compiled| compiled.form == *form)
    }

    fn collect(&mut self) {
        while let Ok(compiled) = self.done.1.try_recv() {
            self.keep(compiled);
        }
    }

    fn keep(&mut self, compiled: Compiled) {
        self.away.retain(|form| *form != compiled.form);
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(compiled);
    }
}

/// The thread that compiles.
fn pool() -> Result<ThreadPool, ThreadPoolBuildError> {
    let lowest = |_| {
        // SAFETY: it changes this thread's priority and nothing else; where it is forbidden the thread works all the same.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE_MAX) };
    };
    ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "grammars".into()).start_handler(lowest).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::factory_of_bytes;

    fn foreign() -> Foreign {
        Foreign::new(Arc::new(factory_of_bytes().expect("a tokenizer of single bytes")))
    }

    fn until_ready(foreign: &mut Foreign, form: &Form) {
        while !foreign.is_ready(form) {
            foreign.wait(Duration::from_secs(1));
        }
    }

    #[test]
    fn a_form_is_compiled_once_on_the_thread_and_an_error_is_kept_as_well() {
        let mut foreign = foreign();
        let good = Form::Schema(r#"{"type":"integer"}"#.into());
        let bad = Form::Schema(r#"{"pattern":"("}"#.into());
        assert!(!foreign.is_ready(&good) && !foreign.is_ready(&bad), "they are on their way");
        assert_eq!(foreign.away.len(), 2);
        until_ready(&mut foreign, &good);
        until_ready(&mut foreign, &bad);
        assert_eq!((foreign.away.len(), foreign.kept.len()), (0, 2));
        let mut matcher = foreign.start(&good).expect("it compiles").expect("it has a grammar");
        assert_eq!(matcher.try_consume_tokens(&[u32::from(b'7')]).ok(), Some(1));
        assert!(foreign.start(&good).is_ok_and(|m| m.is_some()), "each answer begins anew");
        assert!(foreign.start(&bad).is_err());
        assert_eq!(foreign.kept.len(), 2, "nothing was compiled twice");
    }

    #[test]
    fn the_oldest_is_given_up_and_more_than_the_thread_has_waits() {
        let mut foreign = foreign();
        let form = |n: usize| Form::Schema(format!(r#"{{"const":{n}}}"#).into());
        let sent = (0..100).filter(|n| !foreign.is_ready(&form(*n)) && foreign.away.contains(&form(*n)));
        assert!(sent.count() >= AWAY_MAX && foreign.away.len() <= AWAY_MAX);
        for n in 0..2 * KEPT_MAX {
            until_ready(&mut foreign, &form(n));
        }
        assert!(foreign.kept.len() <= KEPT_MAX && foreign.find(&form(0)).is_none());
        assert!(foreign.find(&form(2 * KEPT_MAX - 1)).is_some());
    }
}
