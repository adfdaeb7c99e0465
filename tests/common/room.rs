//! An engine room whose process is this test binary again.

use inspectd::domain::frame::Frame;
use inspectd::domain::inspection::Inspection;
use inspectd::domain::pipeline::Pipeline;
use inspectd::engine::child::{Child, ChildOptions};
use inspectd::engine::{Class, Engine};
use inspectd::inspect::proof::{ByNamedProof, ByProof};
use inspectd::inspect::under_way;
use inspectd::ipc::Program;
use std::ffi::OsString;
use std::sync::Arc;

/// How the test `name` serves, with a variable that says so.
pub(crate) fn options(name: &str, variable: (OsString, OsString)) -> ChildOptions {
    let mut program = Program::new(["--exact", name, "--nocapture", "--test-threads=1", "--quiet"]);
    program.env.push(variable);
    ChildOptions::new(program, None, Arc::new(ByProof(Arc::new(ByNamedProof))))
}

/// The room of a backend.
pub(crate) fn start(child: Child) -> Engine {
    Engine::start(Box::new(child), Box::new(|| {})).expect("it starts")
}

pub(crate) fn inspect(engine: &Engine, frame: &Frame, recipe: &Pipeline) -> Inspection {
    let inspected =
        under_way::inspect(engine, Class::Line, frame.clone(), Arc::new(recipe.clone()), &|| true);
    inspected.expect("nobody gives up")
}
